"""Find the clips in a source and read them, whatever form they come in.

A source is a folder, an archive (zip, tar, tar.gz; read in place) or a single file. In it, a clip is
- a folder of images, in the order of the integers in their names (2.png before 10.png);
- a video file (mp4, avi, mkv, webm, mov, gif);
- an array in a `.pt`, `.npy` or `.npz` file: (T, H, W, C), (T, C, H, W), grey (T, H, W), or a batch of these, (N, …).
"""

import functools
import io
import os
import pickle
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from biflow import video
from biflow.data.pairs import is_prepared
from biflow.errors import UserError

ARRAY_SUFFIXES = {".pt", ".pth", ".npy", ".npz"}
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
SPLIT_NAME = re.compile(
    r"(?:.*_)?(?:(train)|test|val|validation)"
)  # a folder test/ or sky_test/, a list video_test.csv


@dataclass(frozen=True)
class File:
    """A file of a source: its path inside the source, how to open it, and where it is if it is a file on disk."""

    path: PurePosixPath
    open: Callable[[], video.Bytes]
    real: Path | None = None


@dataclass(frozen=True)
class Item:
    """One file or folder that holds a clip, or several in one array.

    `split` is "train" or "test" where the source says so. `read` opens it: each `Video` it gives is a clip, to be
    drained before the next. It raises UserError on damage, then or while frames are read. The `Counter` it takes gains
    the kinds of image that had to be converted to RGB.
    """

    name: str
    source: str
    split: str | None
    read: Callable[[Counter], Iterator[video.Video]]


def find_clips(src: str | Path) -> list[Item]:
    """All clips of a source, sorted by the integers in their names. Raises UserError if there are none.

    Those of a tar come in its own order: a compressed one cannot be read backwards without unpacking it anew.
    """
    src = Path(src)
    if not src.exists():
        raise UserError(f"{src} does not exist; check the path.")
    if is_prepared(src):
        raise UserError(f"{src} is prepared already; use it as it is, or prepare from the clips it was made of.")
    files = list(_files(src, PurePosixPath()))
    splits = _listed_splits(files)
    items: list[Item] = []
    images: dict[PurePosixPath, list[File]] = {}
    for file in files:
        suffix, folder = file.path.suffix.lower(), file.path.parent
        if suffix in video.IMAGE_SUFFIXES:
            if folder not in images:
                frames = images[folder] = []
                items.append(_item(src, folder, splits, lambda notes, frames=frames: _read_images(frames, notes)))
            images[folder].append(file)
        elif suffix in video.VIDEO_SUFFIXES:
            items.append(_item(src, file.path, splits, lambda notes, file=file: _read_video(file)))
        elif suffix in ARRAY_SUFFIXES:
            items.append(_item(src, file.path, splits, lambda notes, file=file: _read_arrays(file, notes)))
    if not items:
        raise UserError(f"{src} holds no clips: no images, videos (mp4 …) or arrays (pt, npy, npz), here or below.")
    return items


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that compares runs of digits as integers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _item(src: Path, path: PurePosixPath, splits: dict[str, str], read) -> Item:
    split = splits.get(path.name)
    for part in path.parts:  # relative to the source: what the source itself is called says nothing
        match = SPLIT_NAME.fullmatch(part)
        split = (match[1] or "test") if match and split is None else split
    name = str(path) if path.parts else src.name
    alone = src.is_file() and path.name == src.name  # a source that is one file, not an archive of files
    return Item(name, str(src if alone else src / path), split, read)


def _listed_splits(files: Iterable[File]) -> dict[str, str]:
    """Names of clips by split, out of lists such as CARLA's video_train.csv: one path a line, after an index or not."""
    splits = {}
    for file in files:
        match = SPLIT_NAME.fullmatch(file.path.stem)
        if match and file.path.suffix.lower() in (".csv", ".txt"):
            with file.open() as lines:
                for line in lines.read().decode(errors="replace").splitlines():
                    splits[PurePosixPath(line.split(",")[-1].strip()).name] = match[1] or "test"
    splits.pop("", None)
    return splits


def _files(src: Path, inside: PurePosixPath) -> Iterator[File]:
    """Files of a folder or archive, those of archives within a folder as if they were unpacked there."""
    if src.is_dir():
        seen = set()
        for folder, folders, names in os.walk(src, followlinks=True):
            real = os.path.realpath(folder)
            inner = [] if real in seen else [d for d in folders if not _hidden(d) and not is_prepared(Path(folder, d))]
            folders[:] = sorted(inner, key=natural)
            for name in [] if real in seen else sorted(names, key=natural):
                path = Path(folder, name)
                place = PurePosixPath(path.relative_to(src).as_posix())
                if name.lower().endswith(ARCHIVE_SUFFIXES) and not _hidden(name):
                    yield from _files(path, place)
                elif not _hidden(name):
                    yield File(place, functools.partial(open, path, "rb"), path)
            seen.add(real)  # a link to a folder above would go round for ever
        return
    name = src.name.lower()
    try:
        if name.endswith(".zip"):
            archive = zipfile.ZipFile(src)
            paths = [(member.filename, member) for member in archive.infolist() if not member.is_dir()]
            paths.sort(key=lambda pair: natural(pair[0]))
        elif name.endswith(ARCHIVE_SUFFIXES):
            archive = tarfile.open(src)  # noqa: SIM115 (it is read as long as the clips are)
            paths = [(member.name, member) for member in archive.getmembers() if member.isfile()]
        else:
            yield File(PurePosixPath(src.name), functools.partial(open, src, "rb"), src)
            return
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{src} cannot be read as an archive ({error}); fetch it again.") from error
    take = archive.open if isinstance(archive, zipfile.ZipFile) else archive.extractfile
    for path, member in paths:
        if not any(_hidden(part) for part in PurePosixPath(path).parts):
            yield File(inside / path, lambda member=member: io.BytesIO(_member(take, member, src)))


def _member(take, member, src: Path) -> bytes:
    try:
        return take(member).read()
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, RuntimeError, ValueError) as error:
        name = getattr(member, "filename", None) or member.name
        raise UserError(f"{src}/{name} cannot be unpacked ({error}); fetch the archive again.") from error
    except Exception as error:  # zlib.error and the like, which have no common base
        raise UserError(f"{src} is damaged ({error}); fetch the archive again.") from error


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _read_video(file: File) -> Iterator[video.Video]:
    yield video.decode(file.real or file.open(), str(file.real or file.path))


def _read_images(files: list[File], notes: Counter) -> Iterator[video.Video]:
    files = sorted(files, key=lambda file: natural(file.path.name))

    def frames() -> Iterator[Tensor]:
        for file in files:
            frame, converted = video.parse_image(file.real or file.open(), str(file.real or file.path))
            if converted:
                notes[converted] += 1
            yield frame

    yield video.Video(frames(), None, len(files))


def _read_arrays(file: File, notes: Counter) -> Iterator[video.Video]:
    name = str(file.real or file.path)
    for key, array in _load(file, name).items():
        key = f"[{key}]" if key else ""
        parts = {f"{key}[{index}]": clip for index, clip in enumerate(array)} if array.ndim == 5 else {key: array}
        for part, clip in parts.items():
            yield _as_video(clip, name, part, notes)


def _load(file: File, name: str) -> dict[str, np.ndarray]:
    """The arrays of a file by name ("" where it holds a single one). Runs no code that a file may bring along."""
    try:
        if file.path.suffix.lower() in (".npy", ".npz"):
            loaded = np.load(file.real or file.open(), mmap_mode="r" if file.real else None, allow_pickle=False)
        else:
            loaded = _torch_load(file)
        if isinstance(loaded, list | tuple):
            loaded = dict(enumerate(loaded))
        parts = loaded.items() if hasattr(loaded, "items") else [("", loaded)]
        arrays = {str(key): _numpy(value) for key, value in parts}
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{name} is a pickle of more than tensors, which may run code; save the tensor alone."
        ) from error
    except UserError:
        raise
    except Exception as error:  # both loaders fail with many kinds of exception on a broken file
        if "allow_pickle" in str(error):
            raise UserError(f"{name} holds Python objects, which may run code; save a plain uint8 array.") from error
        raise UserError(f"{name} cannot be read ({error}); it is damaged or of another format.") from error
    arrays = {key: value for key, value in arrays.items() if isinstance(value, np.ndarray) and value.ndim >= 3}
    if not arrays:
        raise UserError(f"{name} holds no array of frames, such as uint8 (T, H, W, C); save one.")
    return arrays


def _numpy(value: Any) -> Any:
    if isinstance(value, Tensor):  # numpy has no bfloat16
        return (value.float() if value.is_floating_point() else value).numpy()
    return value


def _torch_load(file: File):
    if file.real:
        try:
            return torch.load(file.real, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files from before torch 1.6 cannot be mapped
            return torch.load(file.real, map_location="cpu", weights_only=True)
    return torch.load(file.open(), map_location="cpu", weights_only=True)


def _as_video(array: np.ndarray, name: str, part: str, notes: Counter) -> video.Video:
    name += part
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or not ({array.shape[-1], array.shape[1]} & {1, 3, 4}):
        raise UserError(
            f"{name} has shape {array.shape}; frames are (T, H, W, C) or (T, C, H, W) with 1, 3 or 4 channels."
        )
    if array.shape[-1] not in (1, 3, 4):
        array = array.transpose(0, 2, 3, 1)
    floats = np.issubdtype(array.dtype, np.floating)
    low, high = (float(array.min()), float(array.max())) if floats and array.size else (0.0, 1.0)
    if not floats and array.dtype != np.uint8:
        raise UserError(f"{name} has {array.dtype} values; save frames as uint8, or as floats in [0, 1] or [-1, 1].")
    if not (low >= -1 and high <= 1):  # also true of NaN
        raise UserError(f"{name} has values from {low:g} to {high:g}; floats must lie in [0, 1] or in [-1, 1].")

    def frames() -> Iterator[UInt8[Tensor, "3 h w"]]:
        for picture in array:
            frame = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
            if floats:
                frame = video.to_uint8(frame if low < 0 else frame * 2 - 1)
            if len(frame) == 4:
                notes["RGBA"] += 1
                frame = (frame[:3].float() * frame[3:].float() / 255).round().to(torch.uint8)  # over black
            elif len(frame) == 1:
                notes["grey"] += 1
            yield frame.expand(3, -1, -1).contiguous()

    return video.Video(frames(), None, len(array), part)
