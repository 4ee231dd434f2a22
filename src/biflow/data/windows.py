"""Windows of adjacent frames from a prepared set, and the order in which training sees them.

A prepared set (`biflow.data.prepare` writes it) holds
- `frames.npy`: uint8 (n, c, h, w), the frames of all clips one after another, read as a memory map;
- `index.json`: format, size, stride, seed, and the name, source, first frame, length, fps and split of each clip;
- where clips have actions: `actions.npy`, float32 (n, k), what was done after each frame, NaN where that is unknown.
  index.json then says what the k columns mean;
- `sheet.png`: some frames, for people.
"""

import functools
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from biflow.actions import Actions, described
from biflow.documents import map_array, read_document
from biflow.errors import UserError, shown
from biflow.schemas import Clip, Index

FORMAT = 1
AGAIN = "Prepare the folder again."
Indices = Sequence[int] | Int[np.ndarray, " b"] | Int[Tensor, " b"]


def read_index(root: Path) -> Index:
    """The content of index.json in a prepared set. Raises UserError if it does not describe one."""
    return read_document(root / "index.json", Index, "does not describe a prepared set", AGAIN, names=True)


def _check_places(root: Path, clips: Sequence[Clip], frames: int) -> None:
    """Raise UserError for clips that overlap, or that reach beyond the last of so many frames."""
    places = np.array([(clip["start"], clip["frames"]) for clip in clips], np.int64)
    order = np.argsort(places[:, 0], kind="stable")
    ends = places.sum(1)[order]
    too_far = np.append(ends[:-1] > places[order[1:], 0], ends[-1:] > frames)
    if too_far.any():
        clip = clips[int(order[too_far.argmax()])]
        reach = f"{shown(clip['name'])[:80]} has frames {clip['start']} to {clip['start'] + clip['frames']}"
        what = f"which overlap other ones or are not among its {frames} frames"
        raise UserError(f"{root / 'frames.npy'} does not match index.json: {reach}, {what}. {AGAIN}")


def is_prepared(path: str | Path) -> bool:
    """Whether `path` is a folder that `prepare` wrote."""
    return (Path(path) / "frames.npy").is_file() and (Path(path) / "index.json").is_file()


class Past(NamedTuple):
    """Windows of b samples together with what came before each.

    frames: n earlier frames, black where the clip had not begun, and then those of the window.
    known: how many of the earlier ones there are.
    actions: between these frames, in the units of the set; NaN where none is known. None for a set without actions.
    """

    frames: UInt8[Tensor, "b n c h w"]
    known: Int[Tensor, " b"]
    actions: Float[Tensor, "b m k"] | None = None


def evenly(count: int, most: int) -> Int[np.ndarray, " n"]:
    """At most so many of the numbers from 0 to `count` - 1, evenly spread, with the first and the last."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int)


class Windows(torch.utils.data.Dataset):
    """All windows of adjacent frames of a prepared set, by index. A window lies within one clip.

    Items are uint8 (frames, c, h, w). With two frames, the default, they are pairs (x0, x1) of a frame and the next.

    Args:
        root: the prepared set.
        split: "train", "test" or "all".
        frames: length of a window. Shorter clips have no window.

    Attributes:
        size: (h, w) of the frames.
        clips: the entries of index.json for the clips of this split.
        fps: the most common frame rate of these clips; None where no clip has one.
        index: the content of index.json.
        places: of each window, the number of its clip and the place of its first frame in that.
        actions: what the columns of actions mean; None for a set without actions.

    Raises:
        UserError: not a prepared set, a damaged one, or no window in the split.
    """

    def __init__(self, root: str | Path, split: str = "train", frames: int = 2):
        self.root, self.split, self.frames = Path(root), split, frames
        if split not in ("train", "test", "all"):
            raise UserError(f'There is no split "{split}". The splits are train, test and all.')
        if frames < 1:
            raise UserError(f"A window needs at least 1 frame, not {frames}.")
        if not is_prepared(root):
            places = (root, f"{root}_prepared") if self.root.exists() else ("CLIPS", root)
            command = shlex.join(["biflow", "prepare", *map(str, places)])
            raise UserError(f"{root} is not a prepared set. Make one with: {command}")
        self.index: Index = read_index(self.root)
        self.size: tuple[int, int] = (self.index["size"][0], self.index["size"][1])
        self.clips: list[Clip] = [clip for clip in self.index["clips"] if split in ("all", clip["split"])]
        rates = Counter(clip["fps"] for clip in self.clips if clip["fps"])
        self.fps: float | None = rates.most_common(1)[0][0] if rates else None
        self.actions: Actions | None = described(self.index.get("actions"), str(self.root / "index.json"))
        _check_places(self.root, self.index["clips"], len(self._array))
        if self._actions is not None and len(self._actions) != len(self._array):
            what = f"it has {len(self._actions)} rows for {len(self._array)} frames"
            raise UserError(f"{self.root / 'actions.npy'} does not match index.json: {what}. {AGAIN}")
        starts = [np.arange(clip["start"], clip["start"] + clip["frames"] - frames + 1) for clip in self.clips]
        self._starts = np.concatenate([np.empty(0, np.int64), *starts])  # of all windows: none crosses into a next clip
        clips = [np.full(len(part), clip) for clip, part in enumerate(starts)]
        inside = [np.arange(len(part)) for part in starts]
        self.places = np.stack([np.concatenate([np.empty(0, np.int64), *part]) for part in (clips, inside)], axis=1)
        if not len(self._starts):
            what = f"no clip of {frames} or more frames in its {split} split"
            raise UserError(f"{root} has {what}. Prepare it from more or longer clips.")

    @functools.cached_property
    def _array(self) -> np.ndarray:
        return map_array(self.root / "frames.npy", np.uint8, (None, 3, *self.size), AGAIN)

    @functools.cached_property
    def _actions(self) -> np.ndarray | None:
        if self.actions is None:
            return None
        return map_array(self.root / "actions.npy", np.float32, (None, len(self.actions.columns)), AGAIN)

    def __getstate__(self) -> dict:
        # Without the maps, which would become copies of the files. They are mapped again at the next access.
        return {name: value for name, value in self.__dict__.items() if name not in ("_array", "_actions")}

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, i: int) -> UInt8[Tensor, "{self.frames} c h w"]:
        return self._read(self._starts[i], self.frames)

    def batch(self, indices: Indices) -> UInt8[Tensor, "b {self.frames} c h w"]:
        """The windows of these indices, in this order. They are read in the order in which they lie in the file."""
        starts = self._starts[np.asarray(indices)]
        out = np.empty((len(starts), self.frames, *self._array.shape[1:]), np.uint8)
        for row in np.argsort(starts, kind="stable"):
            out[row] = self._array[starts[row] : starts[row] + self.frames]
        return torch.from_numpy(out)

    def spread(self, most: int) -> UInt8[Tensor, "b {self.frames} c h w"]:
        """At most so many windows, evenly spread over all of them."""
        return self.batch(evenly(len(self), most))

    def with_past(self, indices: Indices, before: int) -> Past:
        """The windows of these indices, in this order, with at most `before` frames of the same clip before each."""
        picks, total = np.asarray(indices), before + self.frames
        known = np.minimum(before, self.places[picks, 1])
        frames = np.zeros((len(picks), total, *self._array.shape[1:]), np.uint8)
        actions = self._actions
        done = None if actions is None else np.full((len(picks), total - 1, actions.shape[1]), np.nan, np.float32)
        for row in np.argsort(self._starts[picks], kind="stable"):
            first, end = self._starts[picks[row]] - known[row], self._starts[picks[row]] + self.frames
            frames[row, before - known[row] :] = self._array[first:end]
            if actions is not None and done is not None:
                done[row, before - known[row] :] = actions[first : end - 1]
        done = done if done is None else torch.from_numpy(done)
        return Past(torch.from_numpy(frames), torch.from_numpy(known), done)

    def clip(self, i: int) -> UInt8[Tensor, "n c h w"]:
        """All frames of clip `i` of this split."""
        return self._read(self.clips[i]["start"], self.clips[i]["frames"])

    def parts(self, i: int, most: int) -> Iterator[UInt8[Tensor, "n c h w"]]:
        """The frames of clip `i` of this split, at most so many at a time."""
        first, frames = self.clips[i]["start"], self.clips[i]["frames"]
        return (self._read(first + low, min(most, frames - low)) for low in range(0, frames, most))

    def action_rows(self, clip: int) -> Float[np.ndarray, "n k"]:
        """The actions after each frame of clip `clip` of this split: NaN where there is none, as after the last."""
        if self._actions is None:
            raise UserError(f"{self.root} has no actions. Prepare it from clips that have some.")
        start = self.clips[clip]["start"]
        return self._actions[start : start + self.clips[clip]["frames"]].copy()

    def frame(self, clip: int, index: int) -> UInt8[Tensor, "c h w"]:
        """Frame `index` of clip `clip` of this split; a negative index counts from the end."""
        entry = self.clips[clip]
        if not -entry["frames"] <= index < entry["frames"]:
            raise UserError(f"Clip {entry['name']} has {entry['frames']} frames, so there is no frame {index}.")
        return self._read(entry["start"] + index % entry["frames"], 1)[0]

    def _read(self, start: int | np.integer, frames: int) -> Tensor:
        return torch.from_numpy(self._array[start : start + frames].copy())


def window_order(n: int, *, seed: int, step: int, batch: int, rank: int = 0, world: int = 1) -> Int[np.ndarray, " b"]:
    """Indices below `n` of the windows that process `rank` of `world` trains on in `step`, `batch` of them.

    A pure function of its arguments, so that a run can resume at any step. Steps and ranks walk through one random
    permutation of the windows after another: no window comes twice within a pass, and a batch may span two passes.
    """
    if n < 1:
        raise UserError("There are no windows to train on.")
    epochs, places = np.divmod((step * world + rank) * batch + np.arange(batch), n)
    passes = [_permutation(n, seed, int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
    return np.concatenate(passes)


@functools.lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    # By sorting raw Philox output, because NumPy guarantees that this stream never changes. It does not guarantee that
    # for Generator.permutation, and a run must resume under a newer NumPy.
    raw = np.random.Philox(np.random.SeedSequence([seed % 2**64, epoch])).random_raw(n)
    return np.argsort(raw, kind="stable")
