"""Read zip and tar archives in place, also those inside others, for which there are temporary files."""

import io
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from biflow.errors import UserError
from biflow.files import BLOCK, reading

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
if "zst" in tarfile.TarFile.OPEN_METH:  # from Python 3.14 on
    TAR_SUFFIXES += (".tar.zst", ".tzst")
ARCHIVE_SUFFIXES = (".zip", *TAR_SUFFIXES)
DEPTH = 4  # archives in one another
OPEN = 2 * DEPTH  # archives of a source that are open at the same time


@dataclass(eq=False)
class Archive:
    """An archive, which is opened when it is read and closed when others are.

    Attributes:
        name: its path for messages.
        file: opens the file of it.
        depth: how many archives it lies in.
        opened: the archives of the same source that are open, the oldest first. They share this list.
    """

    name: str
    file: Callable[[], io.BufferedIOBase]
    depth: int = 0
    opened: list["Archive"] = field(default_factory=list)
    _handles: tuple[Any, io.BufferedIOBase] | None = None

    @property
    def is_tar(self) -> bool:
        """Whether it is a tar, perhaps compressed, and not a zip."""
        return self.name.lower().endswith(TAR_SUFFIXES)

    def members(self) -> Iterator[tuple[str, Any]]:
        """The path and the entry of each file in it. A tar comes in its own order, and is read to its end.

        Raises:
            UserError: damage, an encrypted archive, or one in too many others.
        """
        if self.depth >= DEPTH:
            raise UserError(f"{self.name} lies in {self.depth} other archives, which is too deep. Unpack some.")
        with reading(self.name, "cannot be read as an archive", "Fetch it again."):
            archive = self._open()
            if isinstance(archive, zipfile.ZipFile):
                yield from self._of_zip(archive)
            else:
                yield from self._of_tar(archive)

    def _of_zip(self, archive: zipfile.ZipFile) -> Iterator[tuple[str, Any]]:
        entries = archive.infolist()
        if any(entry.flag_bits & 1 for entry in entries):
            raise UserError(f"{self.name} is encrypted. Unpack it first.")
        for entry in entries:
            name = entry.filename.replace("\\", "/")  # as some programs for Windows write it
            if not name.endswith("/"):
                yield name, entry

    def _of_tar(self, archive: tarfile.TarFile) -> Iterator[tuple[str, Any]]:
        name = None
        for entry in archive:
            name = entry.name
            if entry.isfile():
                yield name, entry
        # tarfile takes any header that it cannot read for the end, which is a block of zeros.
        stream = archive.fileobj
        assert stream is not None
        stream.seek(archive.offset)
        end = stream.read(tarfile.BLOCKSIZE)
        if end.strip(b"\0") or len(end) < tarfile.BLOCKSIZE:
            what = "is damaged" if end.strip(b"\0") else "is cut short"
            raise UserError(f"{self.name} {what} after {name}. Fetch it again.")
        while stream.read(BLOCK):  # gzip and xz have a checksum behind the last block
            pass

    def head(self, entry: Any) -> Any:
        """A file in it, to be read in part and now. Raises whatever goes wrong."""
        archive = self._open()
        return archive.open(entry) if isinstance(archive, zipfile.ZipFile) else archive.extractfile(entry)

    def read(self, name: str, entry: Any) -> io.BytesIO:
        """A file in it, in memory. Raises UserError for damage."""
        with self._unpacking(name), self.head(entry) as member:
            return io.BytesIO(member.read())

    def inner(self, name: str, entry: Any) -> "Archive":
        """An archive in it."""

        def unpacked() -> io.BufferedIOBase:
            with self._unpacking(name), self.head(entry) as member:
                file = tempfile.TemporaryFile()  # noqa: SIM115 (it is read as long as the archive is open)
                shutil.copyfileobj(member, file, BLOCK)
                file.seek(0)
                return file

        return Archive(f"{self.name}/{name}", unpacked, self.depth + 1, self.opened)

    def _unpacking(self, name: str):
        return reading(f"{self.name}/{name}", "cannot be unpacked", "Fetch the archive again.")

    def _open(self) -> Any:
        if self._handles is None:
            file = self.file()
            while len(self.opened) >= OPEN:
                self.opened.pop(0)._close()
            try:
                archive = tarfile.open(fileobj=file) if self.is_tar else zipfile.ZipFile(file)  # noqa: SIM115
            except BaseException as error:
                file.close()
                if isinstance(error, tarfile.ReadError):  # it has a line for each kind of compression
                    raise tarfile.ReadError("it is not a tar file") from error
                raise
            self._handles = archive, file
            self.opened.append(self)
        return self._handles[0]

    def _close(self) -> None:
        for handle in self._handles or ():
            handle.close()
        self._handles = None


def is_archive(name: str) -> bool:
    """Whether a file of this name is an archive that can be read."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)
