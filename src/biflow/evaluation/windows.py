"""Sets of videos as the sliding windows that features are computed of."""

import contextlib
import logging
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch
from jaxtyping import UInt8
from torch import Tensor

from biflow.data.clips import Item, find_clips
from biflow.data.moving import MOVING
from biflow.data.windows import Windows, is_prepared
from biflow.errors import UserError
from biflow.films import VIDEO_SUFFIXES, Video
from biflow.video import resize

log = logging.getLogger("biflow")


class VideoSet:
    """The windows of the videos in a prepared set, or in anything that `biflow prepare` takes.

    Args:
        path: the set.
        split: the split, if the set is prepared.
        window: frames per window.
        stride: frames from one window to the next.
        side: resize frames to squares of this side; by default, all must have the same size.

    Attributes:
        rates: the frame rates, which `survey` finds.
        videos: number of videos used, which `clips` counts, as it does `frames` in them and `short`, the number of
            videos left out because they are shorter than a window.
        size: (h, w) of the frames before they are resized; None as long as none was read.
    """

    def __init__(self, path: Path, split: str = "all", *, window: int, stride: int, side: int | None = None):
        self.path, self.split = path, split if is_prepared(path) else None
        self.window, self.stride, self.side = window, stride, side
        self._items = [] if self.split else _without_copies(path, find_clips(path))
        self.videos = self.frames = self.short = 0
        self.size: tuple[int, int] | None = None
        self.rates: set[float] = set()

    def survey(self) -> int:
        """The approximate number of windows, from the lengths in the files' headers and the first frame of each.

        It finds most problems before hours of work. Raises UserError for frames of mixed sizes.
        """
        windows = 0
        for name, video in self._open():
            first = next(video.frames, None)
            length = self.window if video.length is None else video.length
            if first is not None and length >= self.window:
                self._check_size(name, first)
                self.rates |= {round(video.fps, 3)} if video.fps else set()
                windows += (length - self.window) // self.stride + 1
        return windows

    def clips(self) -> Iterator[tuple[int, UInt8[Tensor, "t 3 h w"]]]:
        """The number of a video and the frames of a window, for all windows of all videos.

        A frame is decoded and resized once. Frames after the last whole window are not used.

        Raises UserError for frames of mixed sizes and damaged videos.
        """
        for name, video in self._open():
            latest: deque[Tensor] = deque(maxlen=self.window)
            count, size = 0, None
            for count, frame in enumerate(video.frames, start=1):
                size = size or frame.shape
                if frame.shape != size:
                    raise UserError(f"{name} changes size from {_by(size)} to {_by(frame.shape)}; re-encode it.")
                latest.append(frame if self.side is None else resize(frame[None], (self.side, self.side))[0])
                if count == self.window:  # the size of shorter videos does not matter
                    self._check_size(name, frame)
                    self.videos += 1
                if count >= self.window and (count - self.window) % self.stride == 0:
                    yield self.videos - 1, torch.stack(tuple(latest))
            if count < self.window:
                self.short += 1
                log.warning("%s has %d frames, fewer than a window of %d; left out.", name, count, self.window)
            else:
                self.frames += count

    def record(self) -> dict:
        """What a result says about the set."""
        counts = {"videos": self.videos, "frames": self.frames, "too_short": self.short}
        frames = {"frame_size": list(self.size or ()), "fps": sorted(self.rates)}
        return {"path": str(self.path), "split": self.split, **counts, **frames}

    def _check_size(self, name: str, frame: Tensor) -> None:
        height, width = frame.shape[-2:]
        self.size = self.size or (height, width)
        if self.side is None and self.size != (height, width):
            others = f"others in {self.path} of {_by(self.size)}; choose a size to bring all to."
            raise UserError(f"{name} has frames of {_by(frame.shape)}, {others}", setting="size")

    def _open(self) -> Iterator[tuple[str, Video]]:
        """The name of each video and the video, which is closed when the next one is asked for."""
        if self.split:
            windows = Windows(self.path, split=self.split)
            for number, entry in enumerate(windows.clips):
                frames = (windows.frame(number, i) for i in range(entry["frames"]))
                yield f"{self.path}: {entry['name']}", Video(frames, entry["fps"], entry["frames"])
        for item in self._items:
            for video in item.read(Counter()):
                with contextlib.closing(video.frames):
                    yield item.source + video.part, video


def _without_copies(path: Path, items: list[Item]) -> list[Item]:
    """Each video once, of those that have one name but for the suffix: `biflow sample --png --webp` writes several.

    A folder of frames goes first, since it has lost nothing; a GIF, which has 256 colours, goes last.
    """
    files = {item.name: _is_film(item.name) for item in items}
    names = {name: str(PurePosixPath(name).with_suffix("")) if film else name for name, film in files.items()}
    first: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (files[name], name.lower().endswith(".gif"))):
        first.setdefault(names[name], name)
    kept = [item for item in items if first[names[item.name]] == item.name]
    if copies := len(items) - len(kept):
        log.warning("%s: %d of %d videos are another one's copies, by their names; left out.", path, copies, len(items))
    return kept


def _is_film(name: str) -> bool:
    """Whether it is the name of a file with a moving picture, and not that of a folder."""
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES | MOVING


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[-2:]))
