"""Sets of videos as the sliding windows that features are computed from."""

import contextlib
import logging
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from jaxtyping import UInt8
from torch import Tensor

from biflow.data.clips import Item, find_clips
from biflow.data.pairs import FramePairs, is_prepared
from biflow.errors import UserError
from biflow.video import VIDEO_SUFFIXES, Video, resize

log = logging.getLogger("biflow")


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one video; `video` numbers the videos of the set."""

    video: int
    frames: UInt8[Tensor, "t 3 h w"]


class VideoSet:
    """The videos of a prepared set (one `split` of it), or of anything that `biflow prepare` takes.

    `survey` finds the frame rates, `rates`. Reading it through once with `clips` counts what was used: `videos`,
    `frames`, `short` (videos shorter than a window, which are left out), and `size` (h, w) of the frames as they lie
    there.
    """

    def __init__(self, path: Path, split: str = "all"):
        self.path, self.prepared, self.split = path, is_prepared(path), split
        self._items: list[Item] = [] if self.prepared else _without_copies(path, find_clips(path))
        self.videos = self.frames = self.short = 0
        self.size: tuple[int, int] | None = None
        self.rates: set[float] = set()

    def survey(self, window: int, stride: int, size: int | None = None) -> int:
        """About how many windows there are, as files tell their lengths, after a look at the first frame of each.

        So that what can be told of bad input is told before hours of work. Raises UserError.
        """
        total = 0
        for name, video in self._open():
            with contextlib.closing(video.frames):  # type: ignore[arg-type]  # a generator
                first = next(video.frames, None)
            length = window if video.length is None else video.length
            if first is not None and length >= window:
                self._hold(name, (first.shape[-2], first.shape[-1]), size)
                self.rates |= {round(video.fps, 3)} if video.fps else set()
                total += (length - window) // stride + 1
        return total

    def clips(self, window: int, stride: int, size: int | None = None) -> Iterator[Clip]:
        """Every `stride`-th window of `window` frames of each video; a frame is decoded and resized once.

        `size` squeezes frames to a square of that side; without it all must be alike. What is left at the end of a
        video and is no whole window is not used. Raises UserError for frames of mixed sizes and damaged videos.
        """
        for name, video in self._open():
            kept: deque[Tensor] = deque(maxlen=window)
            count, held = 0, None  # the size is held against that of the set only if the video is used
            with contextlib.closing(video.frames):  # type: ignore[arg-type]
                for frame in video.frames:
                    shape = (frame.shape[-2], frame.shape[-1])
                    if held not in (None, shape):
                        raise UserError(f"{name} changes size from {_by(held)} to {_by(shape)}; encode it at one size.")
                    held = shape
                    kept.append(frame if size is None else resize(frame[None], (size, size))[0])
                    count += 1
                    if count == window:
                        self._hold(name, shape, size)
                        self.videos += 1
                    if count >= window and (count - window) % stride == 0:
                        yield Clip(self.videos - 1, torch.stack(tuple(kept)))
            if count < window:
                self.short += 1
                log.warning("%s has %d frames, fewer than a window of %d; left out.", name, count, window)
            else:
                self.frames += count

    def _hold(self, name: str, shape: tuple[int, int], size: int | None) -> None:
        if size is None and self.size not in (None, shape):
            raise UserError(
                f"{name} has frames of {_by(shape)}, others in {self.path} of {_by(self.size)}; "
                "bring all to one size with --size N."
            )
        self.size = self.size or shape

    def _open(self) -> Iterator[tuple[str, Video]]:
        if self.prepared:
            pairs = FramePairs(self.path, split=self.split)
            for number, entry in enumerate(pairs.clips):
                frames = (pairs.frame(number, i) for i in range(entry["frames"]))
                yield f"{self.path}: {entry['name']}", Video(frames, entry["fps"], entry["frames"])
        for item in self._items:
            for video in item.read(Counter()):
                yield item.source + video.part, video


def _without_copies(path: Path, items: list[Item]) -> list[Item]:
    """Without the videos whose frames lie beside them in a folder of that name: `biflow sample --png` leaves both."""
    folders = {item.name for item in items}
    kept = []
    for item in items:
        name = PurePosixPath(item.name)
        if name.suffix.lower() not in VIDEO_SUFFIXES or str(name.with_suffix("")) not in folders:
            kept.append(item)
    if len(kept) < len(items):
        log.warning("%s holds %d videos as frames too; taking the frames.", path, len(items) - len(kept))
    return kept


def _by(size: tuple[int, ...] | None) -> str:
    return f"{size[0]}x{size[1]}" if size else "no size"
