"""The files of a source: of a folder and the folders in it, of an archive and the archives in it, or a single file."""

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from biflow.data.archives import Archive, is_archive
from biflow.data.moving import moves
from biflow.data.names import hidden, in_order
from biflow.data.windows import is_prepared
from biflow.errors import UserError, shown
from biflow.files import reading
from biflow.video import Bytes


@dataclass(frozen=True)
class File:
    """A file of a source.

    Attributes:
        path: its path inside the source.
        open: opens it for reading; also where it is a member of an archive. Raises UserError.
        real: its path on disk; None for a member of an archive.
        moving: whether it is an image file that holds several pictures.
        fault: why it cannot be opened, or the files in it, if it is an archive or a folder.
    """

    path: PurePosixPath
    open: Callable[[], Bytes]
    real: Path | None = None
    moving: bool = False
    fault: UserError | None = None

    @property
    def name(self) -> str:
        """Its path for messages."""
        return shown(str(self.real or self.path))

    @property
    def content(self) -> Path | Bytes:
        """Its path on disk if it has one, else the open file."""
        return self.real or self.open()


def source_files(src: Path) -> Iterator[File]:
    """The files of a source, folders in the natural order of the names in them. An archive is read like a folder.

    Files that are hidden or that a system has added are left out, see `names.hidden`.
    """
    alone = src.is_file() and not is_archive(src.name)
    yield from _files(src, PurePosixPath(src.name if alone else ""), set(), [])
    for beside in map(src.with_suffix, (".csv", ".json") if alone else ()):
        if beside.is_file() and beside != src:
            yield from _files(beside, PurePosixPath(beside.name), set(), [])


def _files(path: Path, place: PurePosixPath, seen: set[Path], opened: list[Archive]) -> Iterator[File]:
    """The files at `path`, whose path in the source is `place`.

    `seen` are the folders so far: a link to a folder further up would lead in circles. `opened` as in `Archive`.
    """
    try:
        if path.is_dir():
            real = path.resolve()
            if real in seen or (seen and is_prepared(path)):
                return
            seen.add(real)
            with os.scandir(path) as entries:
                inside = in_order([entry for entry in entries if not hidden(entry.name)], lambda entry: entry.name)
            for entry in sorted(inside, key=_is_folder):  # files before folders
                yield from _files(path / entry.name, place / entry.name, seen, opened)
        elif not path.is_file():
            raise FileNotFoundError("it is a link to nothing" if path.is_symlink() else "it is not a file")
        elif is_archive(path.name):
            yield from _members(Archive(shown(str(path)), partial(open, path, "rb"), opened=opened), place)
        else:
            read = partial(_open, path)
            yield File(place, read, path, moves(read, path.suffix))
    except OSError as error:
        yield _faulty(place, UserError(f"{shown(str(path))} cannot be read: {error.strerror or error}."))
    except UserError as error:
        yield _faulty(place, error)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, as reading it will say
        return False


def _members(archive: Archive, place: PurePosixPath) -> Iterator[File]:
    """The files in an archive. All of it is listed before the first one is returned, so that damage is known."""
    found = []
    for name, entry in archive.members():
        path = PurePosixPath(*filter(None, name.split("/")))  # an absolute path is a name like any other
        if not any(map(hidden, path.parts)):
            found.append((name, entry, path, moves(partial(archive.head, entry), path.suffix)))
    if not archive.is_tar:  # a compressed tar cannot be read backwards
        found = in_order(found, lambda member: member[0])
    for name, entry, path, moving in found:
        if is_archive(path.name):
            try:
                yield from _members(archive.inner(name, entry), place / path)
            except UserError as error:
                yield _faulty(place / path, error)
        else:
            yield File(place / path, partial(archive.read, name, entry), moving=moving)


def _open(path: Path) -> io.BufferedReader:
    with reading(shown(str(path)), "cannot be read", "Check its permissions."):
        return path.open("rb")


def _faulty(place: PurePosixPath, fault: UserError) -> File:
    def fail() -> Bytes:
        raise fault

    return File(place, fail, fault=fault)
