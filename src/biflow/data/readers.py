"""Read clips from the files of a source: videos, folders of images, and arrays.

`READERS` has a function for each file suffix. To read another format, add its suffix and a function of the same form.
"""

import contextlib
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biflow import films, video
from biflow.actions import ActionsError
from biflow.errors import UserError

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class File:
    """A file of a source.

    Attributes:
        path: its path inside the source.
        open: opens it for reading; also where it is a member of an archive.
        real: its path on disk; None for a member of an archive.
    """

    path: PurePosixPath
    open: Callable[[], video.Bytes]
    real: Path | None = None

    @property
    def name(self) -> str:
        """Its path for messages."""
        return str(self.real or self.path)

    @property
    def content(self) -> Path | video.Bytes:
        """Its path on disk if it has one, else the open file."""
        return self.real or self.open()


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that compares runs of digits as integers: "2.png" comes before "10.png"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def read_video(file: File, conversions: Counter) -> Iterator[films.Video]:
    """The clip of a video file."""
    yield films.decode(file.content, file.name)


def read_images(files: list[File], conversions: Counter) -> Iterator[films.Video]:
    """The clip of a folder of images, in the order of the integers in their names."""

    def frames() -> films.Frames:
        for file in sorted(files, key=lambda file: natural(file.path.name)):
            frame, converted = video.parse_image(file.content, file.name)
            if converted:
                conversions[converted] += 1
            yield frame

    yield films.Video(frames(), None, len(files))


def read_arrays(file: File, conversions: Counter) -> Iterator[films.Video]:
    """The clips of the arrays in a `.pt`, `.npy` or `.npz` file."""
    arrays, actions = _load(file)
    for key, array in arrays.items():
        part = f"[{key}]" if key else ""
        clips = {f"{part}[{i}]": clip for i, clip in enumerate(array)} if array.ndim == 5 else {part: array}
        if actions is not None and len(arrays) > 1:
            raise ActionsError(f"{file.name} has actions, but several arrays of frames: {', '.join(arrays)}.")
        rows = [None] * len(clips) if actions is None else _rows_of_clips(actions, len(clips), file.name)
        for (part, clip), row in zip(clips.items(), rows, strict=True):
            found = _as_video(clip, file.name, part, conversions)
            found.actions = row
            yield found


READERS: dict[str, Callable[[File, Counter], Iterator[films.Video]]] = {
    **dict.fromkeys(films.VIDEO_SUFFIXES, read_video),
    **dict.fromkeys((".pt", ".pth", ".npy", ".npz"), read_arrays),
}
"""By suffix, a function that takes a file and yields its clips, each to be read before the next is asked for.

It raises UserError for a damaged file, and counts images that it converts to RGB by kind in the `Counter`.
"""


def _load(file: File) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays of frames in a file by name, "" if it holds a single one; and its actions. No code in it is run."""
    try:
        if file.path.suffix.lower() in (".npy", ".npz"):
            loaded = np.load(file.content, mmap_mode="r" if file.real else None, allow_pickle=False)
        else:
            loaded = _load_torch(file)
        if isinstance(loaded, list | tuple):
            loaded = dict(enumerate(loaded))
        parts = loaded.items() if hasattr(loaded, "items") else [("", loaded)]
        arrays = {str(key): _numpy(value) for key, value in parts}
    except UserError:
        raise
    except Exception as error:  # both loaders fail with many kinds of exception on a damaged file
        what = f"cannot be read ({error}). It is damaged, or has another format."
        if isinstance(error, pickle.UnpicklingError) or "allow_pickle" in str(error):
            what = "holds more than tensors: Python objects, which may run code. Save a plain uint8 array or tensor."
        raise UserError(f"{file.name} {what}") from error
    actions = arrays.pop("actions", None)
    arrays = {key: value for key, value in arrays.items() if isinstance(value, np.ndarray) and value.ndim >= 3}
    if not arrays:
        raise UserError(f"{file.name} holds no array of frames, such as uint8 (T, H, W, C).")
    return arrays, actions


def _rows_of_clips(actions: Any, clips: int, name: str) -> list[np.ndarray]:
    """The actions of each clip in a file, from an array (T, k), or (N, T, k) for a batch of clips."""
    if isinstance(actions, np.ndarray) and actions.ndim in (1, 2) and clips == 1:
        return [actions]
    if not isinstance(actions, np.ndarray) or actions.ndim != 3 or len(actions) != clips:
        shape = getattr(actions, "shape", type(actions).__name__)
        raise ActionsError(f"{name} has actions of shape {shape}, not (T, k), or (N, T, k) for a batch of N clips.")
    return list(actions)


def _load_torch(file: File) -> Any:
    if file.real:
        with contextlib.suppress(RuntimeError):  # files from before torch 1.6 cannot be mapped
            return torch.load(file.real, map_location="cpu", weights_only=True, mmap=True)
    return torch.load(file.content, map_location="cpu", weights_only=True)


def _numpy(value: Any) -> Any:
    if isinstance(value, Tensor):  # NumPy has no bfloat16
        return (value.float() if value.is_floating_point() else value).numpy()
    return value


def _as_video(array: np.ndarray, name: str, part: str, conversions: Counter) -> films.Video:
    name += part
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or not ({array.shape[-1], array.shape[1]} & {1, 3, 4}):
        raise UserError(f"{name} has shape {array.shape}, not (T, H, W, C) or (T, C, H, W) with 1, 3 or 4 channels.")
    if array.shape[-1] not in (1, 3, 4):
        array = array.transpose(0, 2, 3, 1)
    floats = np.issubdtype(array.dtype, np.floating)
    low, high = (float(array.min()), float(array.max())) if floats and array.size else (0.0, 1.0)
    if not floats and array.dtype != np.uint8:
        raise UserError(f"{name} has {array.dtype} values. Save frames as uint8, or as floats in [0, 1] or [-1, 1].")
    if not (low >= -1 and high <= 1):  # true for NaN as well
        raise UserError(f"{name} has values from {low:g} to {high:g}. Floats must be in [0, 1] or in [-1, 1].")

    def frames() -> films.Frames:
        for picture in array:
            frame = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
            if floats:
                frame = video.to_uint8(frame if low < 0 else frame * 2 - 1)
            if len(frame) == 4:
                conversions["RGBA"] += 1
                frame = (frame[:3].float() * frame[3:].float() / 255).round().to(torch.uint8)  # over black
            elif len(frame) == 1:
                conversions["grey"] += 1
            yield frame.expand(3, -1, -1).contiguous()

    return films.Video(frames(), None, len(array), part)
