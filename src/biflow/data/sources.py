"""The files of a source: of a folder and the folders in it, of an archive and the archives in it, or a single file."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from biflow.data.archives import Archive, Shared, is_archive
from biflow.data.moving import moves
from biflow.data.names import hidden, in_order
from biflow.data.windows import is_prepared
from biflow.errors import UserError, shown
from biflow.files import reading
from biflow.limits import check_regular, open_regular, read_text, size_of
from biflow.video import Bytes


@dataclass(frozen=True)
class File:
    """A file of a source.

    Attributes:
        path: its path inside the source.
        open: opens it for reading; also where it is a member of an archive. Raises UserError.
        head: opens it to be read from its start, and where it is a member of an archive, before others are.
        real: its path on disk; None for a member of an archive.
        moving: whether it is an image file that holds several pictures.
        fault: why it cannot be opened, or the files in it, if it is an archive or a folder.
        size: the bytes that it takes on disk or in its archive; 0 if unknown.
    """

    path: PurePosixPath
    open: Callable[[], Bytes]
    head: Callable[[], Any]
    real: Path | None = None
    moving: bool = False
    fault: UserError | None = None
    size: int = 0

    @property
    def name(self) -> str:
        """Its path for messages."""
        return shown(str(self.real or self.path))

    def text(self, unread: dict[PurePosixPath, UserError]) -> bytes | None:
        """Its text. None, and the reason in `unread`, if it cannot be read or has too much of it."""
        try:
            with reading(self.name, "cannot be read", "It is damaged."), self.head() as file:
                return read_text(file, self.name)
        except UserError as error:
            unread[self.path] = error
            return None

    @property
    def content(self) -> Path | Bytes:
        """Its path on disk if it has one, else the open file."""
        return self.real or self.open()


def source_files(src: Path) -> Iterator[File]:
    """The files of a source, folders in the natural order of the names in them. An archive is read like a folder.

    Files that are hidden or that a system has added are left out, see `names.hidden`.
    """
    alone = src.is_file() and not is_archive(src.name)
    yield from _files(src, PurePosixPath(src.name if alone else ""), set(), Shared())
    for beside in map(src.with_suffix, (".csv", ".json") if alone else ()):
        if beside.is_file() and beside != src:
            yield from _files(beside, PurePosixPath(beside.name), set(), Shared())


def _files(path: Path, place: PurePosixPath, seen: set[Path], shared: Shared) -> Iterator[File]:
    """The files at `path`, whose path in the source is `place`.

    `seen` are the folders so far: a link to a folder further up would lead in circles. `shared` as in `Archive`.
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
                yield from _files(path / entry.name, place / entry.name, seen, shared)
            return
        if path.is_symlink() and not path.exists():
            raise FileNotFoundError("it is a link to nothing")
        name = shown(str(path))
        check_regular(path, name)
        read = partial(open_regular, path, name)
        if is_archive(path.name):
            yield from _members(Archive(name, read, shared=shared), place)
        else:
            yield File(place, read, read, path, moves(read, path.suffix), size=size_of(path))
    except OSError as error:
        yield faulty(place, UserError(f"{shown(str(path))} cannot be read: {error.strerror or error}."))
    except UserError as error:
        yield faulty(place, error)


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
        if fault := archive.fault(name, entry):
            found.append((name, entry, path, False, fault))
        elif not any(map(hidden, path.parts)):
            found.append((name, entry, path, moves(partial(archive.head, entry), path.suffix), None))
    found = list({member[2]: member for member in found}.values())  # of one that was put in again, the last
    if not archive.is_tar:  # a compressed tar cannot be read backwards
        found = in_order(found, lambda member: member[0])
    for name, entry, path, moving, fault in found:
        if fault:
            yield faulty(place / path, fault)
        elif is_archive(path.name):
            try:
                yield from _members(archive.inner(name, entry), place / path)
            except UserError as error:
                yield faulty(place / path, error)
        else:
            read, head = partial(archive.read, name, entry), partial(archive.head, entry)
            yield File(place / path, read, head, moving=moving, size=archive.bytes_of(entry))


def faulty(place: PurePosixPath, fault: UserError) -> File:
    """A file that cannot be opened, and why."""

    def fail() -> Bytes:
        raise fault

    return File(place, fail, fail, fault=fault)
