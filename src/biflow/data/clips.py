"""Find the clips in a source.

A source is a folder, an archive (zip, tar, tar.gz; read in place) or a single file. In it, a clip is
- a folder of images, in the order of the integers in their names (2.png before 10.png);
- a video file (mp4, avi, mkv, webm, mov, gif);
- an array in a `.pt`, `.npy` or `.npz` file: (T, H, W, C), (T, C, H, W), grey (T, H, W), or a batch of these, (N, …).

Files with the actions of clips are read by `biflow.data.actions`.
"""

import io
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from biflow.data.actions import Table, find_tables
from biflow.data.readers import ARCHIVE_SUFFIXES, READERS, File, natural, read_images
from biflow.data.windows import is_prepared
from biflow.errors import UserError
from biflow.files import reading
from biflow.films import VIDEO_SUFFIXES, Video
from biflow.video import IMAGE_SUFFIXES

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
        actions: what was done after each frame, if a file beside it says so.
    """

    name: str
    source: str
    split: str | None
    read: Callable[[Counter], Iterator[Video]]
    actions: Table | None = None

    @property
    def states_rate(self) -> bool:
        """Whether its clips may say how many frames per second they have."""
        return PurePosixPath(self.name).suffix.lower() in VIDEO_SUFFIXES


def find_clips(src: str | Path) -> list[Item]:
    """All clips of a source, sorted by the integers in their names. Raises UserError if there are none.

    Clips in a tar file come in its own order, because a compressed one cannot be read backwards.
    """
    src = Path(src)
    if not src.exists():
        raise UserError(f"{src} does not exist. Check the path.")
    if is_prepared(src):
        raise UserError(f"{src} is prepared already. Use it as it is, or prepare the clips that it was made from.")
    alone = src.is_file() and not _is_archive(src)
    files = list(_files(src, PurePosixPath(src.name if alone else ""), set()))
    for beside in map(src.with_suffix, (".csv", ".json") if alone else ()):
        if beside.is_file():
            files += _files(beside, PurePosixPath(beside.name), set())
    groups: dict[PurePosixPath, list[File]] = {}
    for file in files:
        suffix = file.path.suffix.lower()
        if suffix in IMAGE_SUFFIXES or suffix in READERS:
            groups.setdefault(file.path.parent if suffix in IMAGE_SUFFIXES else file.path, []).append(file)
    lists = _lists(files, groups)
    splits = {name: split for listed in lists.values() for name, split in listed.items()}
    actions = find_tables([file for file in files if file.path not in lists], groups)
    items = [_item(src, path, group, splits, actions.get(path)) for path, group in groups.items()]
    if not items:
        raise UserError(f"{src} holds no clips: no images, videos (such as mp4) or arrays (pt, npy, npz).")
    return items


def _item(src: Path, path: PurePosixPath, files: list[File], splits: dict[str, str], actions: Table | None) -> Item:
    names = map(SPLIT_NAME.fullmatch, path.parts)  # relative to the source, whose own name says nothing
    split = splits.get(path.name) or next((_split(name) for name in names if name), None)
    suffix = files[0].path.suffix.lower()
    read = partial(read_images, files) if suffix in IMAGE_SUFFIXES else partial(READERS[suffix], files[-1])
    source = src if files[0].real == src else src / path
    return Item(str(path) if path.parts else src.name, str(source), split, read, actions)


def _split(name: re.Match) -> str:
    return name[1] or "test"


def _lists(files: Iterable[File], clips: Iterable[PurePosixPath]) -> dict[PurePosixPath, dict[str, str]]:
    """Lists such as CARLA's video_train.csv, by path: the split of each clip of which they have a line.

    A line is a path, perhaps after an index. A file of such a name that names no clip is not a list: it may hold the
    actions of a clip of its own name.
    """
    names = {path.name for path in clips}
    lists = {}
    for file in files:
        name = SPLIT_NAME.fullmatch(file.path.stem)
        if name and file.path.suffix.lower() in (".csv", ".txt"):
            with file.open() as opened:
                lines = opened.read().decode(errors="replace").splitlines()
            listed = names & {PurePosixPath(line.split(",")[-1].strip()).name for line in lines}
            lists[file.path] = dict.fromkeys(listed - {""}, _split(name))
    return {path: splits for path, splits in lists.items() if splits}


def _files(path: Path, place: PurePosixPath, seen: set[Path]) -> Iterator[File]:
    """The files at `path`, whose path in the source is `place`. An archive is read as if it were a folder.

    `seen` are the folders so far: a link to a folder further up would lead in circles.
    """
    if path.is_dir():
        real = path.resolve()
        if real in seen or (seen and is_prepared(path)):
            return
        seen.add(real)
        for inner in sorted(path.glob("*"), key=lambda inner: (inner.is_dir(), natural(inner.name))):
            if not _hidden(inner.name):
                yield from _files(inner, place / inner.name, seen)
    elif _is_archive(path):
        for name, read in _members(path):
            if not any(map(_hidden, PurePosixPath(name).parts)):
                yield File(place / name, read)
    else:
        yield File(place, partial(open, path, "rb"), path)


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def _members(path: Path) -> Iterator[tuple[str, Callable[[], io.BytesIO]]]:
    """Name and reader of each file in an archive."""
    with reading(path, "cannot be read as an archive", "Fetch it again."):
        if path.suffix.lower() == ".zip":
            archive = zipfile.ZipFile(path)
            members = [(member.filename, member) for member in archive.infolist() if not member.is_dir()]
            members.sort(key=lambda pair: natural(pair[0]))
            take = archive.open
        else:
            archive = tarfile.open(path)  # noqa: SIM115 (it is read as long as the clips are)
            members = [(member.name, member) for member in archive.getmembers() if member.isfile()]
            take = archive.extractfile

    def read(name: str, member: object) -> io.BytesIO:
        with reading(f"{path}/{name}", "cannot be unpacked", "Fetch the archive again."):
            return io.BytesIO(take(member).read())  # type: ignore[arg-type, union-attr]

    return ((name, partial(read, name, member)) for name, member in members)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
