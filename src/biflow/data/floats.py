"""The range of the floats of a source: decided once for all its arrays, or given."""

import logging
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from biflow.errors import UserError

log = logging.getLogger("biflow")

Range = tuple[float, float]
RANGES: dict[str, Range] = {"0,1": (0.0, 1.0), "-1,1": (-1.0, 1.0), "0,255": (0.0, 255.0)}
TOLERANCE = 1e-3  # of a range, by which rounding may exceed it
FAINT = 0.05  # an array of [0, 255] that does not exceed this is black; of [0, 1] it would not be
BRIGHT = 16  # an array must reach this to be taken as [0, 255] by itself: resampling brings [0, 1] to 1.1, too


class Floats:
    """The range of the floats of a source: the narrowest that holds all arrays which fit one.

    Args:
        spans: yields the name of each array of floats with its smallest and its largest value. It is called when the
            first such array is read, unless the range is given.
        given: a key of RANGES.
    """

    def __init__(self, spans: Callable[[], Iterable[tuple[str, Range]]], given: str | None = None):
        self._range = RANGES[given] if given else None
        self._find = None if given else spans
        self._spans: dict[str, Range] = {}
        self._conflict = ""

    def range_of(self, name: str, span: Callable[[], Range]) -> Range:
        """The range of the array `name`, whose ends `span` finds. Raises UserError if it does not hold the array."""
        if self._find:
            self._spans, self._find = dict(self._find()), None
            self._decide()
        low, high = self._spans.get(name) or span()
        what = f"{name} has values from {low:g} to {high:g}"
        if self._range and _holds(self._range, (low, high)):
            return self._range
        if self._range:
            raise UserError(f"{what}, but floats are taken as {_written(self._range)}. Clip them.")
        if self._conflict and _narrowest((low, high)):
            raise UserError(f"{what}, but the range of floats is not clear: {self._conflict}.")
        raise UserError(f"{what}. Floats must be in [0, 1], [-1, 1] or [0, 255]. Clip them, or set the range.")

    def _decide(self) -> None:
        found = {name: (span, own) for name, span in self._spans.items() if (own := _narrowest(span))}
        if not found:
            return
        lowest, highest = min(found, key=lambda name: found[name][0][0]), max(found, key=lambda name: found[name][0][1])
        low, high = found[lowest][0][0], found[highest][0][1]
        self._range = _narrowest((low, high))
        if not self._range:
            ends = f"the smallest value is {low:g}, in {lowest}, and the largest {high:g}, in {highest}"
            self._conflict = f"{ends}. Prepare arrays of different ranges apart"
            return
        small = [name for name, (span, own) in found.items() if own != self._range and span[1] > FAINT]
        if self._range == RANGES["0,255"] and small:
            self._range = None
            self._conflict = f"{small[0]} fits [0, 1], but {highest} has {high:g}. Prepare them apart, or set the range"
            return
        text = f"Floats are taken as {_written(self._range)}: the smallest is {low:g}, the largest {high:g}."
        if others := [name for name, (_, own) in found.items() if own != self._range]:
            text += f" {len(others)} of {len(found)} arrays would fit {_written(found[others[0]][1])}: {others[0]}"
            text += "." if len(others) == 1 else " and others."
        log.warning("%s", text)


def span_of(parts: Iterator[np.ndarray]) -> Range:
    """The smallest and the largest value of the parts of an array; NaN if there is one."""
    low, high = np.array([(part.min(), part.max()) for part in parts], np.float64).T
    return float(low.min()), float(high.max())


def _narrowest(span: Range) -> Range | None:
    """The narrowest range for these values alone. None for NaN, infinity and whatever fits no range."""
    fitting = (known for known in RANGES.values() if _holds(known, span))
    return next((known for known in fitting if known[1] == 1 or span[1] >= BRIGHT), None)


def _holds(known: Range, span: Range) -> bool:
    slack = TOLERANCE * (known[1] - known[0])
    return span[0] >= known[0] - slack and span[1] <= known[1] + slack


def _written(ends: Range) -> str:
    return f"[{ends[0]:g}, {ends[1]:g}]"
