"""Read the clips in `.npy`, `.npz` and `.pt` files. No code in them is run.

The shape says what an array holds. C is 1, 3 or 4 channels: grey, RGB or RGBA.
- (T, H, W, C), else (T, C, H, W): a film. Where both fit, as for (5, 3, 8, 4), the channels come last.
- (T, H, W): a grey film, unless the first or the last axis has 1, 3 or 4 entries: then it is one picture, (C, H, W) or
  (H, W, C), and refused. Three or four grey frames need an axis of channels: (3, H, W, 1).
- (N, T, H, W, C) and (N, T, C, H, W): N films.
- Fewer axes: labels, a picture or a table, and no film.
"""

import contextlib
import io
import math
import pickle
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biflow import films, video
from biflow.actions import ActionsError
from biflow.data.floats import Floats, Range, span_of
from biflow.data.numpy_files import load_numpy
from biflow.data.pickles import check_pickle
from biflow.data.sources import File
from biflow.errors import UserError
from biflow.files import reading
from biflow.limits import CLIPS, REPEATS, TENSORS, Allowance, check_pixels

CHANNELS = (1, 3, 4)
LEGACY = 5  # pickles at the beginning of a file of PyTorch before 1.6
CHUNK = 1 << 24  # values that are looked at together
Array = np.ndarray | Tensor


def read_arrays(file: File, conversions: Counter, floats: Floats | None = None) -> Iterator[films.Video]:
    """The clips of the arrays in a file. `floats` is the range of floats in the source; by default, of this file."""
    floats = floats or Floats(lambda: spans([file]))
    clips, actions = _clips(file)
    rows = [None] * len(clips) if actions is None else _rows_of_clips(actions, list(clips), file.name)
    for (part, array), row in zip(clips.items(), rows, strict=True):
        frames = _frames(array, file.name + part, file.size, floats, conversions)
        yield films.Video(frames, None, len(array), part, row)


def spans(files: Iterable[File]) -> Iterator[tuple[str, Range]]:
    """The name, the smallest and the largest value of each clip of floats. Files that cannot be read have none."""
    for file in files:
        with contextlib.suppress(UserError):
            for part, array in _clips(file)[0].items():
                with contextlib.suppress(UserError):
                    if _check(array, file.name + part, file.size):
                        yield file.name + part, _span(array, file.name + part)


def _clips(file: File) -> tuple[dict[str, Array], Any]:
    """The arrays of single clips by part of the file ("" if it holds one), and its actions. Raises UserError."""
    try:
        numpy = file.path.suffix.lower() in (".npy", ".npz")
        loaded: Any = load_numpy(file.open, file.name) if numpy else _load_torch(file)
        if isinstance(loaded, list | tuple):
            loaded = dict(enumerate(loaded))
        parts = loaded.items() if hasattr(loaded, "items") else [("", loaded)]
        arrays = {str(key): array for key, array in parts if isinstance(key, str | int)}
    except UserError:
        raise
    except Exception as error:  # both loaders fail with many kinds of exception on a damaged file
        what = f"cannot be read ({' '.join(str(error).split())}). It is damaged, or has another format."
        if isinstance(error, pickle.UnpicklingError) or "allow_pickle" in str(error) or "Python objects" in str(error):
            what = "holds more than tensors: Python objects, which may run code. Save a plain uint8 array or tensor."
        raise UserError(f"{file.name} {what}") from error
    actions = arrays.pop("actions", None)
    arrays = {f"[{key}]" if key else "": array for key, array in arrays.items() if isinstance(array, Array)}
    films = {part: array for part, array in arrays.items() if array.ndim >= 3 and not _nested(array)}
    if not films and len(arrays) == 1 and (shape := next(iter(arrays.values())).shape)[1:]:
        raise UserError(f"{file.name} holds one picture or table of {shape[0]}x{shape[1]}, not a film.")
    if not films:
        raise UserError(f"{file.name} holds no array of frames, such as uint8 (T, H, W, C).")
    if actions is not None and len(films) > 1:
        raise ActionsError(
            f"{file.name} has actions, but several arrays of frames: {', '.join(part[1:-1] for part in films)}."
        )
    _check_amount(films, file)
    clips: dict[str, Array] = {}
    for part, array in films.items():
        several = array.ndim == 5 and math.prod(array.shape)
        clips |= {f"{part}[{i}]": clip for i, clip in enumerate(array)} if several else {part: array}
    return clips, actions


def _nested(array: Array) -> bool:
    return isinstance(array, Tensor) and array.is_nested


def _check_amount(films: Mapping[str, Array], file: File) -> None:
    """Raises UserError for arrays that claim far more than a file holds. NumPy's were checked as they were read."""
    count = sum(len(array) if array.ndim == 5 else 1 for array in films.values() if math.prod(array.shape))
    if count > CLIPS:
        raise UserError(f"{file.name} holds {count:,} clips, more than {CLIPS:,}. Save them in several files.")
    tensors = [array for array in films.values() if isinstance(array, Tensor) and array.layout == torch.strided]
    claimed = sum(array.numel() * array.element_size() for array in tensors)
    held = sum({store.data_ptr(): store.nbytes() for store in (a.untyped_storage() for a in tensors)}.values())
    if claimed > REPEATS * held:
        what = f"has tensors of {claimed:,} bytes, but holds {held:,}, which they repeat"
        raise UserError(f"{file.name} {what}. Save the frames of a film.")


def _load_torch(file: File) -> Any:
    with file.open() as opened:
        size = opened.seek(0, io.SEEK_END)
        opened.seek(0)
        packed = opened.read(2) == b"PK"
        opened.seek(0)
        entries = zipfile.ZipFile(opened).infolist() if packed else []
        if sum(entry.file_size for entry in entries) > size:
            raise UserError(f"{file.name} is damaged, or compressed. Save it again.")  # torch never compresses
        if packed:  # by PyTorch's own reader: which entry is meant is for it to say
            opened.seek(0)
            check_pickle(io.BytesIO(torch._C.PyTorchFileReader(opened).get_record("data.pkl")), file.name)
            if file.real:
                return torch.load(file.real, map_location="cpu", weights_only=True, mmap=True)
        if size > TENSORS:
            what = f"{file.name} is too large to be read into memory"
            raise UserError(f"{what}. Unpack it, or save it with a newer PyTorch.")
        opened.seek(0)
        if not packed:
            for _ in range(LEGACY):
                if opened.tell() < size:
                    check_pickle(opened, file.name)
            opened.seek(0)
        return torch.load(opened, map_location="cpu", weights_only=True)


def _rows_of_clips(actions: Any, clips: list[str], name: str) -> list[np.ndarray]:
    """The actions of each clip in a file, from an array (T, k), or (N, T, k) for a batch of clips."""
    actions = _numpy(actions) if isinstance(actions, Tensor) else actions
    if isinstance(actions, np.ndarray) and actions.ndim in (1, 2) and len(clips) == 1:
        return [actions]
    if not isinstance(actions, np.ndarray) or actions.ndim != 3 or len(actions) != len(clips):
        shape = getattr(actions, "shape", type(actions).__name__)
        raise ActionsError(f"{name} has actions of shape {shape}, not (T, k), or (N, T, k) for a batch of N clips.")
    return list(actions)


def _numpy(values: Array) -> np.ndarray:
    """NumPy has no bfloat16 and its like."""
    if isinstance(values, Tensor):
        return (values.detach().float() if values.is_floating_point() else values).numpy()
    return values


def _check(array: Array, name: str, size: int) -> bool:
    """Whether the array holds floats. Raises UserError if it is not a clip of uint8 or floats, or if that is too much
    for a file of `size` bytes.
    """
    shape = tuple(array.shape)
    if array.ndim == 3 and (shape[0] in CHANNELS or shape[-1] in CHANNELS):
        height, width = shape[:2] if shape[-1] in CHANNELS else shape[1:]
        what = "Stack the frames of a film into one array (T, H, W, C)"
        raise UserError(f"{name} holds one picture of {height}x{width}, not a film. {what}; C is 1 for grey.")
    if array.ndim not in (3, 4) or (array.ndim == 4 and not {shape[-1], shape[1]} & set(CHANNELS)):
        raise UserError(f"{name} has shape {shape}, not (T, H, W, C) or (T, C, H, W) with 1, 3 or 4 channels.")
    if not all(shape):
        raise UserError(f"{name} has shape {shape}, so it has no pixels.")
    height, width = shape[1:3] if array.ndim == 3 or shape[-1] in CHANNELS else shape[2:]
    check_pixels(name, width, height)
    Allowance(name, size).take(height, width, len(array))
    with reading(name, "cannot be read", "Save frames as uint8."):
        kind = _numpy(array[:0]).dtype
    if kind != np.uint8 and not np.issubdtype(kind, np.floating):
        raise UserError(f"{name} has {kind} values. Save frames as uint8, or as floats in [0, 1].")
    return kind != np.uint8


def _span(array: Array, name: str) -> Range:
    step = max(1, CHUNK // math.prod(array.shape[1:]))
    with reading(name, "cannot be read", "It is damaged."):
        return span_of(_numpy(array[i : i + step]) for i in range(0, len(array), step))


def _frames(array: Array, name: str, size: int, floats: Floats, conversions: Counter) -> films.Frames:
    """The frames of one clip, over black if they have alpha. Raises UserError with the first one."""
    low, high = floats.range_of(name, partial(_span, array, name)) if _check(array, name, size) else (0, 255)
    last = array.ndim == 3 or array.shape[-1] in CHANNELS
    with reading(name, "cannot be read", "It is damaged."):
        for i in range(len(array)):
            picture = _numpy(array[i])
            picture = picture[..., None] if picture.ndim == 2 else picture
            picture = picture.transpose(2, 0, 1) if last else picture
            if picture.dtype == np.uint8:
                frame = torch.from_numpy(picture.copy())
            else:
                scaled = (picture.astype(np.float32) - low) * (2 / (high - low)) - 1
                frame = video.to_uint8(torch.from_numpy(scaled))
            if len(frame) == 4:
                conversions["RGBA"] += 1
                frame = video.over_black(frame)
            elif len(frame) == 1:
                conversions["grey"] += 1
            yield frame.expand(3, -1, -1).contiguous()
