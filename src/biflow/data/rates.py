"""Bring clips to one frame rate, by the time at which each frame is shown."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from jaxtyping import UInt8
from torch import Tensor

SAME = 0.01  # Clips whose rates differ by less keep all their frames. 29.97 is 30.
# A frame counts as shown this share of an interval before its time stamp. Stamps are rounded, to milliseconds in many
# files, and without a margin a rounded stamp would drop one frame and repeat another. With this one, no multiple of a
# common rate (1, 2, 3, 4, 5, 6 or their quotients) comes near a stamp.
EARLY = 0.45


def most_common(rates: Sequence[float | None]) -> float | None:
    """The rate of most clips; of several such the lowest, which repeats no frames. None if all are unknown."""
    counts = Counter(rate for rate in rates if rate)

    def votes(rate: float) -> tuple[int, int, float]:
        return sum(n for other, n in counts.items() if same(rate, other)), counts[rate], -rate

    return max(counts, key=votes, default=None)


def same(rate: float, other: float) -> bool:
    """Whether two rates are so close that no resampling is needed."""
    return abs(rate / other - 1) < SAME


def at_rate(
    frames: Iterable[UInt8[Tensor, "3 h w"]], times: Sequence[float] | None, own: float | None, fps: float | None
) -> Iterator[tuple[int, UInt8[Tensor, "3 h w"]]]:
    """The frames of a clip that are shown at 0, 1 / fps, 2 / fps … seconds, with their indices in the clip.

    A frame is shown until the next one, so that frames are left out or repeated. Memory is constant.

    Args:
        frames: the frames of the clip. All are read.
        times: their times, as in `Video`, known as far as frames were read. None: they are 1 / `own` apart.
        own: the clip's usual frames per second. None if unknown.
        fps: the rate to bring it to. If it or `own` is None, all frames are kept.
    """
    if fps is None or own is None:
        yield from enumerate(frames)
        return
    fps = own if same(own, fps) else fps
    count, early, shown, index = 0, EARLY / own, None, -1
    for index, frame in enumerate(frames):
        start = index / own if times is None else times[index] - times[0]
        while shown is not None and count / fps < start - early:
            yield shown
            count += 1
        shown = index, frame
    if shown is not None:
        end = (index + 1) / own if times is None else times[-1] - times[0]
        while count / fps < end - early:
            yield shown
            count += 1


def uneven(times: Sequence[float] | None, own: float | None) -> bool:
    """Whether intervals between frames differ by more than half from the usual one. `times` are those of `Video`."""
    gaps = [(later - earlier) * own for earlier, later in pairwise(times[:-1])] if times and own else []
    return any(not 0.5 < gap < 1.5 for gap in gaps)
