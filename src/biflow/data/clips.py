"""Find the clips in a source.

A source is a folder, an archive (zip, tar, tar.gz; read in place) or a single file. In it, a clip is
- a folder of images, in the order of the integers in their names (2.png before 10.png);
- a video file (mp4, avi, mkv, webm, mov, gif);
- an array in a `.pt`, `.npy` or `.npz` file: (T, H, W, C), (T, C, H, W), grey (T, H, W), or a batch of these, (N, …).
"""

import functools
import io
import os
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from biflow.data.readers import READERS, File, natural, read_images
from biflow.data.windows import is_prepared
from biflow.errors import UserError
from biflow.video import IMAGE_SUFFIXES, Video

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
SPLIT_NAME = re.compile(r"(?:.*_)?(?:(train)|test|val|validation)")  # of a folder sky_test/ or a list video_test.csv


@dataclass(frozen=True)
class Item:
    """A file or folder that holds a clip, or several in one array.

    Attributes:
        name: its path inside the source.
        source: where it is.
        split: "train" or "test" if the source says so.
        read: yields its clips, each to be read before the next is asked for. Images that have to be converted to RGB
            are counted by kind in the `Counter`. Raises UserError for damage, then or while frames are read.
    """

    name: str
    source: str
    split: str | None
    read: Callable[[Counter], Iterator[Video]]


def find_clips(src: str | Path) -> list[Item]:
    """All clips of a source, sorted by the integers in their names. Raises UserError if there are none.

    Clips in a tar file come in its own order, because a compressed one cannot be read backwards.
    """
    src = Path(src)
    if not src.exists():
        raise UserError(f"{src} does not exist. Check the path.")
    if is_prepared(src):
        raise UserError(f"{src} is prepared already. Use it as it is, or prepare the clips that it was made from.")
    files = list(_files(src))
    splits = _listed_splits(files)
    items: list[Item] = []
    images: dict[PurePosixPath, list[File]] = {}
    for file in files:
        suffix, folder = file.path.suffix.lower(), file.path.parent
        if suffix in IMAGE_SUFFIXES:
            if folder not in images:
                images[folder] = []
                items.append(_item(src, folder, splits, functools.partial(read_images, images[folder])))
            images[folder].append(file)
        elif suffix in READERS:
            items.append(_item(src, file.path, splits, functools.partial(READERS[suffix], file)))
    if not items:
        raise UserError(f"{src} holds no clips: no images, videos (such as mp4) or arrays (pt, npy, npz).")
    return items


def _item(src: Path, path: PurePosixPath, splits: dict[str, str], read: Callable[[Counter], Iterator[Video]]) -> Item:
    names = map(SPLIT_NAME.fullmatch, path.parts)  # relative to the source, whose own name says nothing
    split = splits.get(path.name) or next((_split(name) for name in names if name), None)
    alone = src.is_file() and path.name == src.name  # a source that is one file, not an archive
    return Item(str(path) if path.parts else src.name, str(src if alone else src / path), split, read)


def _split(name: re.Match) -> str:
    return name[1] or "test"


def _listed_splits(files: Iterable[File]) -> dict[str, str]:
    """The split of each clip in lists such as CARLA's video_train.csv: a path per line, perhaps after an index."""
    splits = {}
    for file in files:
        name = SPLIT_NAME.fullmatch(file.path.stem)
        if name and file.path.suffix.lower() in (".csv", ".txt"):
            with file.open() as lines:
                for line in lines.read().decode(errors="replace").splitlines():
                    splits[PurePosixPath(line.split(",")[-1].strip()).name] = _split(name)
    splits.pop("", None)
    return splits


def _files(src: Path) -> Iterator[File]:
    """Files of a source. An archive in a folder is read as if it were a folder."""
    if src.is_file():
        yield from _file(src, PurePosixPath() if _is_archive(src) else PurePosixPath(src.name))
        return
    seen = set()
    for folder, folders, names in os.walk(src, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder further up would lead in circles
            folders.clear()
            continue
        seen.add(real)
        visible = (name for name in folders if not _hidden(name) and not is_prepared(Path(folder, name)))
        folders[:] = sorted(visible, key=natural)
        for path in (Path(folder, name) for name in sorted(names, key=natural) if not _hidden(name)):
            yield from _file(path, PurePosixPath(path.relative_to(src).as_posix()))


def _file(path: Path, place: PurePosixPath) -> Iterator[File]:
    """The file at `path`, whose path in the source is `place`, or the members of an archive, in `place`."""
    if not _is_archive(path):
        yield File(place, functools.partial(open, path, "rb"), path)
        return
    for name, read in _members(path):
        if not any(map(_hidden, PurePosixPath(name).parts)):
            yield File(place / name, read)


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def _members(path: Path) -> Iterator[tuple[str, Callable[[], io.BytesIO]]]:
    """Name and reader of each file in an archive."""
    try:
        if path.suffix.lower() == ".zip":
            archive = zipfile.ZipFile(path)
            take = archive.open
            members = [(member.filename, member) for member in archive.infolist() if not member.is_dir()]
            members.sort(key=lambda pair: natural(pair[0]))
        else:
            archive = tarfile.open(path)  # noqa: SIM115 (it is read as long as the clips are)
            take = archive.extractfile
            members = [(member.name, member) for member in archive.getmembers() if member.isfile()]
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read as an archive ({error}). Fetch it again.") from error

    def read(name: str, member: object) -> io.BytesIO:
        try:
            return io.BytesIO(take(member).read())  # type: ignore[arg-type, union-attr]
        except Exception as error:  # zlib.error and others have no common base
            raise UserError(f"{path}/{name} cannot be unpacked ({error}). Fetch the archive again.") from error

    for name, member in members:
        yield name, functools.partial(read, name, member)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
