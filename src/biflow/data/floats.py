"""The range of the floats of a source: decided once for all its arrays, or given."""

import logging
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from biflow.errors import UserError

log = logging.getLogger("biflow")

Range = tuple[float, float]
RANGES: dict[str, Range] = {"0,1": (0.0, 1.0), "-1,1": (-1.0, 1.0), "0,255": (0.0, 255.0)}
TOLERANCE = 1e-3  # of a range, by which rounding may exceed it


class Floats:
    """The range of the floats of a source.

    Args:
        spans: yields the name of each array of floats with its smallest and its largest value. It is called when the
            first such array is read, unless the range is given.
        given: a key of RANGES.
    """

    def __init__(self, spans: Callable[[], Iterable[tuple[str, Range]]], given: str | None = None):
        self._range = RANGES[given] if given else None
        self._known = [self._range] if self._range else list(RANGES.values())
        self._find = None if given else spans
        self._spans: dict[str, Range] = {}
        self._conflict = ""

    def range_of(self, name: str, span: Callable[[], Range]) -> Range:
        """The range of the array `name`, whose ends `span` finds. Raises UserError if they are in none."""
        if self._find:
            self._spans, self._find = dict(self._find()), None
            self._decide()
        low, high = self._spans.get(name) or span()
        if not _fitting((low, high), self._known):
            allowed = " or ".join(map(_written, self._known))
            raise UserError(f"{name} has values from {low:g} to {high:g}. Floats must be in {allowed}.")
        if self._range is None:
            raise UserError(f"{name} has floats in an unknown range: {self._conflict}.")
        return self._range

    def _decide(self) -> None:
        spans = {name: span for name, span in self._spans.items() if _fitting(span)}  # others are refused
        if not spans:
            return
        lowest, highest = min(spans, key=lambda name: spans[name][0]), max(spans, key=lambda name: spans[name][1])
        low, high = spans[lowest][0], spans[highest][1]
        if not (fitting := _fitting((low, high))):
            ends = f"the smallest value is {low:g}, in {lowest}, and the largest {high:g}, in {highest}"
            self._conflict = f"{ends}. Prepare sets of different ranges one by one"
            return
        self._range = fitting[0]
        text = f"Floats are taken as {_written(self._range)}: the smallest is {low:g}, the largest {high:g}."
        if narrower := [name for name, span in spans.items() if _fitting(span)[0] != self._range]:
            other = _written(_fitting(spans[narrower[0]])[0])
            text += f" {len(narrower)} of {len(spans)} arrays would fit {other} too, such as {narrower[0]}."
        log.warning("%s", text)


def span_of(parts: Iterator[np.ndarray]) -> Range:
    """The smallest and the largest value of parts of an array; NaN if there is one. 0 and 0 if there are no parts."""
    ends = np.array([(part.min(), part.max()) for part in parts], np.float64).reshape(-1, 2)
    return (float(ends[:, 0].min()), float(ends[:, 1].max())) if len(ends) else (0.0, 0.0)


def _fitting(span: Range, known: Iterable[Range] = tuple(RANGES.values())) -> list[Range]:
    """The ranges that hold these values. None does if one of them is NaN or infinite."""
    return [
        (low, high)
        for low, high in known
        if span[0] >= low - TOLERANCE * (high - low) and span[1] <= high + TOLERANCE * (high - low)
    ]


def _written(ends: Range) -> str:
    return f"[{ends[0]:g}, {ends[1]:g}]"
