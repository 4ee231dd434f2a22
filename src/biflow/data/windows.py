"""Pairs of adjacent frames from a prepared folder, and the order in which training sees them.

A prepared folder (`biflow.data.prepare` writes it) holds
- `frames.npy`: uint8 (N, c, h, w), all frames of all clips one after the other, read as a memory map;
- `index.json`: format, size, stride, seed, and for each clip its name, source, first frame, length, fps and split.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from biflow.errors import UserError

FORMAT = 1


def is_prepared(path: str | Path) -> bool:
    """Whether `path` is a folder that `prepare` wrote."""
    return (Path(path) / "frames.npy").is_file() and (Path(path) / "index.json").is_file()


class Windows(torch.utils.data.Dataset):
    """All pairs (frame, next frame) of a prepared folder that lie within one clip, by index.

    `split` is "train", "test" or "all". Attributes: `size` (h, w), `clips` (the index entries of this split), `fps`
    (the rate that most clips have, None where no clip has one), `index` (the whole of index.json).
    Raises UserError if the folder is not a prepared one or the split is empty.
    """

    def __init__(self, root: str | Path, split: str = "train"):
        self.root, self.split = Path(root), split
        if split not in ("train", "test", "all"):
            raise UserError(f'There is no split "{split}"; the splits are train, test and all.')
        if not is_prepared(self.root):
            raise UserError(f"{root} is no prepared folder; make one with: biflow prepare SRC {root}.")
        try:
            self.index = json.loads((self.root / "index.json").read_text())
        except ValueError as error:
            raise UserError(f"{root}/index.json is damaged ({error}); prepare the folder again.") from error
        if self.index.get("format") != FORMAT:
            raise UserError(f"{root} has format {self.index.get('format')}, not {FORMAT}; prepare it again.")
        self.size: tuple[int, int] = tuple(self.index["size"])
        self.clips: list[dict] = [c for c in self.index["clips"] if split in ("all", c["split"])]
        rates = [c["fps"] for c in self.clips if c["fps"]]
        self.fps: float | None = max(rates, key=rates.count) if rates else None
        # The first frame of every pair: a clip's last frame begins none, so that no pair crosses from clip to clip.
        spans = [np.arange(c["start"], c["start"] + c["frames"] - 1) for c in self.clips]
        self._first = np.concatenate(spans) if spans else np.empty(0, np.int64)
        if not len(self._first):
            raise UserError(f"{root} has no clips in its {split} split; prepare it from more clips.")
        self._frames = self._map()

    def _map(self) -> np.ndarray:
        try:
            frames = np.load(self.root / "frames.npy", mmap_mode="r").view(np.ndarray)  # plain views are sliced faster
        except (ValueError, OSError) as error:
            raise UserError(f"{self.root}/frames.npy cannot be read ({error}); prepare the folder again.") from error
        need = max(c["start"] + c["frames"] for c in self.index["clips"])
        if frames.dtype != np.uint8 or frames.shape[2:] != self.size or len(frames) < need:
            raise UserError(f"{self.root}/frames.npy does not fit its index.json; prepare the folder again.")
        return frames

    def __getstate__(self) -> dict:
        return {
            **self.__dict__,
            "_frames": None,
        }  # a worker process maps the file itself; a pickled map is a copy of it

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._frames = self._map()

    def __len__(self) -> int:
        return len(self._first)

    def __getitem__(self, i: int) -> UInt8[Tensor, "2 c h w"]:
        first = self._first[i]
        return torch.from_numpy(self._frames[first : first + 2].copy())

    def batch(self, indices: Sequence[int] | Int[np.ndarray, " b"] | Int[Tensor, " b"]) -> UInt8[Tensor, "b 2 c h w"]:
        """The pairs of these indices in this order, read in the order in which they lie in the file."""
        first = self._first[np.asarray(indices)]
        out = np.empty((len(first), 2, *self._frames.shape[1:]), np.uint8)
        for row in np.argsort(first, kind="stable"):
            out[row] = self._frames[first[row] : first[row] + 2]
        return torch.from_numpy(out)

    def clip(self, i: int) -> UInt8[Tensor, "n c h w"]:
        """All frames of clip `i` of this split."""
        entry = self.clips[i]
        return torch.from_numpy(self._frames[entry["start"] : entry["start"] + entry["frames"]].copy())

    def frame(self, clip: int, index: int) -> UInt8[Tensor, "c h w"]:
        """Frame `index` (from the end if negative) of clip `clip` of this split."""
        entry = self.clips[clip]
        if not -entry["frames"] <= index < entry["frames"]:
            raise UserError(f"Clip {entry['name']} has {entry['frames']} frames, so there is no frame {index}.")
        return torch.from_numpy(self._frames[entry["start"] + index % entry["frames"]].copy())


def window_order(n: int, *, seed: int, step: int, batch: int, rank: int = 0, world: int = 1) -> Int[np.ndarray, " batch"]:
    """Indices below `n` of the pairs that process `rank` of `world` trains on in `step`.

    A pure function of its arguments, so that a run resumes exactly at any step, on any number of data workers. Steps
    and ranks walk through one permutation of the pairs after the other: within one pass no pair comes twice, and a
    batch at the end of a pass goes on in the next.
    """
    if n < 1:
        raise UserError("There are no pairs to train on.")
    position = (step * world + rank) * batch
    parts, missing = [], batch
    while missing:
        epoch, offset = divmod(position, n)
        part = _permutation(n, seed, epoch)[offset : offset + missing]
        parts.append(part)
        position, missing = position + len(part), missing - len(part)
    return np.concatenate(parts)


@functools.lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    # Sorting raw Philox output: NumPy promises that this stream never changes; it promises no such thing for
    # Generator.permutation, and a run must resume under a newer NumPy.
    raw = np.random.Philox(np.random.SeedSequence([seed % 2**64, epoch])).random_raw(n)
    return np.argsort(raw, kind="stable")
