"""Append clips to the array of a prepared set: frames at the set's rate, small, and what was done to them."""

import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import torch
from tqdm import tqdm

from biflow.actions import ActionsError
from biflow.config import Prepare
from biflow.data.action_set import ActionSet
from biflow.data.actions import Table, table
from biflow.data.clips import Item
from biflow.data.rates import at_rate, uneven
from biflow.errors import UserError, shown
from biflow.films import Video
from biflow.limits import Allowance
from biflow.video import resize

log = logging.getLogger("biflow")

CHUNK = 32  # frames that are resized and written at once


class Writer:
    """Appends clips to frames.npy and keeps the entries of index.json: `clips` and `skipped`.

    Clips are brought to `fps` frames per second, or keep their own rate if it is None. Of these, every n-th is kept.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, int], settings: Prepare, fps: float | None, bar: tqdm):
        self.file, self.shape, self.settings, self.fps, self.bar = file, shape, settings, fps, bar
        self.clips: list[dict] = []
        self.skipped: list[dict] = []
        self.conversions: Counter[str] = Counter()
        self.actions = ActionSet()
        self.frames = self.items = 0
        self.write_header()
        self.start = file.tell()  # of the first frame

    def add(self, item: Item) -> None:
        """Append the clips of an item. Those that cannot be used are skipped, or raise UserError if strict."""
        stride = self.settings.stride
        with self._skipping(item.name):
            for video in item.read(self.conversions):
                name = item.name + video.part
                with self._skipping(name):
                    actions = self._actions_of(item, video)
                    own = video.fps or (actions and actions.fps)
                    kept, length, shape = self._write(video, own, Allowance(shown(name), item.size))
                    frames, fps = len(kept), self.fps or own
                    fewest = min(frames, length)  # one frame at a lower rate than the set's is several in it
                    if fewest < 2:
                        count = f"{fewest} frame{'s' * (fewest != 1)}"
                        raise UserError(f"{shown(name)} has {count} at stride {stride}. A clip needs 2.")
                    self.actions.add(name, actions, length, kept)
                    entry = {"name": name, "source": item.source, "start": self.frames, "frames": frames}
                    entry |= {"fps": fps and fps / stride, "split": item.split}
                    entry["original"] = {
                        "fps": own,
                        "frames": length,
                        "size": shape,
                        "uneven": uneven(video.times, own),
                        "kept": frames,
                    }
                    entry["original"] |= {"changes": video.changes, "resampled": kept != list(range(0, length, stride))}
                    self.clips.append(entry)
                    self.frames += frames
                    self.bar.set_postfix_str(f"{len(self.clips)} clips, {self.frames} frames", refresh=False)
        self.items += 1
        self.bar.update(self.items - self.bar.n)

    def _actions_of(self, item: Item, video: Video) -> Table | None:
        """The actions of a clip, from its own file or from one beside it."""
        own = None if video.actions is None else table(f"{item.source}{video.part}", video.actions)
        if own and item.actions:
            raise ActionsError(f"{item.source} holds actions, and so does {item.actions.where}. Remove one of them.")
        if item.actions and self.clips and self.clips[-1]["source"] == item.source:
            raise ActionsError(f"{item.actions.where} has actions for one clip, but {item.source} holds several.")
        return own or item.actions

    def _write(self, video: Video, own: float | None, allowance: Allowance) -> tuple[list[int], int, list[int]]:
        """Append the frames of a clip that are to be kept.

        Returns their indices in the clip, its length and the shape (h, w) of its first frame.
        """
        stride, kept, shape, length = self.settings.stride, [], [], 0

        def read() -> Iterator[torch.Tensor]:
            nonlocal length
            for frame in video.frames:
                length += 1
                allowance.take(*frame.shape[-2:])
                yield frame

        def small() -> Iterator[torch.Tensor]:
            last, resized = -1, torch.empty(0)
            for count, (index, frame) in enumerate(at_rate(read(), video.times, own, self.fps)):
                shape[:] = shape or frame.shape[-2:]
                if count % stride == 0:
                    kept.append(index)
                    allowance.keep()
                    if index != last:
                        last, resized = index, resize(frame[None], self.shape, crop=self.settings.crop)
                    yield resized

        frames = small()
        with contextlib.closing(video.frames):  # its file, after a failure too
            while chunk := list(itertools.islice(frames, CHUNK)):
                self.file.write(torch.cat(chunk).numpy().data)
                if video.length:
                    self.bar.update(max(0.0, self.items + min(1.0, length / video.length) - self.bar.n))
        return kept, length, shape

    @contextlib.contextmanager
    def _skipping(self, name: str) -> Iterator[None]:
        """Skip a clip that cannot be used, and remove what was written of it."""
        try:
            yield
        except UserError as error:
            if self.settings.strict or isinstance(error, ActionsError):
                raise
            self.file.seek(self.start + self.frames * 3 * self.shape[0] * self.shape[1])
            self.file.truncate()
            self.bar.clear()
            log.warning("Skipped: %s", error)
            self.skipped.append({"name": name, "why": str(error)})

    def write_header(self) -> None:
        """Write the header of the .npy file. NumPy leaves room in it, so that it can be written again at the end."""
        self.file.seek(0)
        form = {"descr": "|u1", "fortran_order": False, "shape": (self.frames, 3, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, form)
