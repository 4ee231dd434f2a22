"""Turn a source of clips into a prepared folder: one memory-mapped array of small frames, and an index."""

import contextlib
import itertools
import logging
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from tqdm import tqdm

from biflow.actions import ActionsError
from biflow.config import Prepare
from biflow.data.action_set import ActionSet
from biflow.data.actions import Table, table
from biflow.data.clips import Item, find_clips
from biflow.data.windows import FORMAT, is_prepared
from biflow.errors import UserError
from biflow.files import replacing, write_array, write_json
from biflow.video import Video, resize

log = logging.getLogger("biflow")

CHUNK = 32  # frames that are resized and written at once


def prepare(settings: Prepare, *, shape: tuple[int, int] | None = None, progress: bool = True) -> dict:
    """Write the prepared folder `settings.dst` from the clips of `settings.src`, and return its index.

    The form of the folder is described in `biflow.data.windows`. It appears whole or not at all, and nothing but a
    prepared folder is ever replaced. Memory does not grow with the length of the clips.

    Args:
        settings: what to prepare and how.
        shape: (h, w) of frames that are not square, in place of `settings.size`.
        progress: show a progress bar if stderr is a terminal.

    Raises:
        UserError: `dst` exists, `src` holds no clip that can be used, or the disk is full.
    """
    src, dst = settings.src, settings.dst
    shape = shape or (settings.size, settings.size)
    if dst.exists() and not (dst.is_dir() and not any(dst.iterdir())):
        if not is_prepared(dst):
            raise UserError(f"{dst} exists and is not a prepared folder. Choose another one.")
        if not settings.force:
            raise UserError(f"{dst} is prepared already. Use it, or choose to replace it.", setting="force")
    items = find_clips(src, images=settings.images, range=settings.range)
    with replacing(dst) as partial:
        partial.mkdir()
        writer = _write_frames(partial / "frames.npy", items, shape, settings, progress)
        clips, skipped = _assign_splits(writer.clips, settings.split, settings.seed), writer.skipped
        index = {"format": FORMAT, "size": list(shape), "channels": 3, "stride": settings.stride}
        index |= {"crop": settings.crop, "source": str(src), "seed": settings.seed, "train_share": settings.split}
        index |= _write_actions(partial / "actions.npy", writer.actions, clips)
        index |= {"clips": clips, "skipped": skipped}
        write_json(partial / "index.json", index)
    if kinds := sorted(writer.conversions.items()):
        log.warning("Converted to RGB: %s.", ", ".join(f"{number} {kind} frames" for kind, number in kinds))
    if skipped:
        log.warning("Skipped %d of %d clips. index.json lists them.", len(skipped), len(skipped) + len(clips))
    return index


def _write_frames(
    path: Path, items: list[Item], shape: tuple[int, int], settings: Prepare, progress: bool
) -> "_Writer":
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"
    quiet = None if progress else True  # None: if stderr is not a terminal
    bar = tqdm(total=len(items), desc="preparing", bar_format=form, disable=quiet)
    with open(path, "wb") as file, bar:
        writer = _Writer(file, shape, settings, bar)
        for item in items:
            writer.add(item)
        if not writer.clips:
            why = writer.skipped[0]["why"]
            raise UserError(f"None of the {len(items)} clips in {settings.src} can be used. The first: {why}")
        writer.write_header()
    return writer


def _write_actions(path: Path, actions: ActionSet, clips: list[dict]) -> dict:
    """Write a row per frame, if there are actions, and mark the clips that have some. Return entries of the index."""
    described = actions.meaning()
    if described is None:
        return {}
    meaning, rules = described
    rows = actions.rows(rules)
    for clip in clips:
        last = clip["start"] + clip["frames"] - 1
        rows[last] = np.nan  # also where a single clip was cut in two
        clip["actions"] = bool(np.isfinite(rows[clip["start"]]).all())
    if none := sum(not clip["actions"] for clip in clips):
        log.warning("There are no actions for %d of %d clips.", none, len(clips))
    write_array(path, rows)
    return {"actions": {**meaning.as_json(), "resample": rules}}


class _Writer:
    """Appends clips to frames.npy and keeps the entries of index.json: `clips` and `skipped`."""

    def __init__(self, file: BinaryIO, shape: tuple[int, int], settings: Prepare, bar: tqdm):
        self.file, self.shape, self.settings, self.bar = file, shape, settings, bar
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
                    kept, length = self._write(video)
                    frames = len(kept)
                    if frames < 2:
                        count = f"{frames} frame{'s' * (frames != 1)}"
                        raise UserError(f"{name} has {count} at stride {stride}. A clip needs 2.")
                    actions = self._actions_of(item, video)
                    self.actions.add(name, actions, length, kept)
                    fps = video.fps or self.settings.fps or (actions and actions.fps)
                    entry = {"name": name, "source": item.source, "start": self.frames, "frames": frames}
                    self.clips.append({**entry, "fps": fps and fps / stride, "split": item.split})
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

    def _write(self, video: Video) -> tuple[range, int]:
        """Append every n-th frame of a clip. Return the indices of these frames, and how many the clip has."""
        stride, length, count = self.settings.stride, 0, 0

        def kept() -> Iterator[torch.Tensor]:
            nonlocal length
            for frame in video.frames:
                if length % stride == 0:
                    yield frame
                length += 1

        small = (resize(frame[None], self.shape, crop=self.settings.crop) for frame in kept())
        with contextlib.closing(video.frames):  # its file, after a failure too
            while chunk := list(itertools.islice(small, CHUNK)):
                self.file.write(torch.cat(chunk).numpy().data)
                count += len(chunk)
                if video.length:
                    share = min(1.0, count * stride / video.length)
                    self.bar.update(max(0.0, self.items + share - self.bar.n))
        return range(0, length, stride), length

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


def _assign_splits(clips: list[dict], share: float, seed: int) -> list[dict]:
    """Keep the source's own split if it has both parts. Otherwise draw one by clip, or cut a single clip in two."""
    if {"train", "test"} <= {clip["split"] for clip in clips}:
        return [{**clip, "split": clip["split"] or "train"} for clip in clips]
    tests = 0 if share == 1 else min(len(clips) - 1, max(1, round(len(clips) * (1 - share))))
    drawn = set(random.Random(seed).sample(range(len(clips)), tests))
    clips = [{**clip, "split": "test" if index in drawn else "train"} for index, clip in enumerate(clips)]
    if len(clips) > 1 or share == 1:
        return clips
    (clip,) = clips
    last = max(2, round(clip["frames"] * (1 - share)))
    if clip["frames"] < last + 2:
        log.warning("The only clip, %s, is too short for a test split. All of it is for training.", clip["name"])
        return clips
    log.warning("There is one clip, %s, so its last %d frames become the test split.", clip["name"], last)
    first = clip["frames"] - last
    test = {"name": f"{clip['name']}[end]", "start": clip["start"] + first, "frames": last, "split": "test"}
    return [{**clip, "frames": first}, {**clip, **test}]
