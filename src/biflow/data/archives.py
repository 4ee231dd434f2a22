"""Read zip and tar archives in place, also those inside others, for which there are temporary files."""

import bz2
import contextlib
import gzip
import io
import lzma
import math
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from biflow.errors import UserError
from biflow.files import reading
from biflow.limits import (
    BLOCK,
    DEPTH,
    ENTRIES,
    ENTRY,
    FEW_ENTRIES,
    HEADERS,
    IN_MEMORY,
    INNER,
    check_ratio,
    length,
    temporary,
)

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
COMPRESSIONS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}
with contextlib.suppress(ImportError):  # from Python 3.14 on
    from compression import zstd  # pyright: ignore

    TAR_SUFFIXES += (".tar.zst", ".tzst")
    COMPRESSIONS[b"\x28\xb5\x2f\xfd"] = zstd.ZstdFile
ARCHIVE_SUFFIXES = (".zip", *TAR_SUFFIXES)
METHODS = {9: "Deflate64", zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "LZMA", 93: "Zstandard"}
OPEN = 2 * DEPTH  # archives of a source that are open at the same time
DICTIONARY = 256 << 20  # bytes that an xz file may need in memory; the highest setting needs 65 MiB


@dataclass
class Shared:
    """What the archives of a source share: those that are open, the oldest first, and the size of those in others."""

    opened: list["Archive"] = field(default_factory=list)
    inner: int = 0


@dataclass(eq=False)
class Archive:
    """An archive, which is opened when it is read and closed when others are.

    Attributes:
        name: its path for messages.
        file: opens the file of it.
        depth: how many archives it lies in.
        shared: what all archives of the same source share.
    """

    name: str
    file: Callable[[], Any]
    depth: int = 0
    shared: Shared = field(default_factory=Shared)
    size: int = 0  # in bytes, once it is open
    _handles: tuple[Any, Any, Any] | None = None

    @property
    def is_tar(self) -> bool:
        """Whether it is a tar, perhaps compressed, and not a zip."""
        return self.name.lower().endswith(TAR_SUFFIXES)

    def members(self) -> Iterator[tuple[str, Any]]:
        """The path and the entry of each file in it. A tar comes in its own order, and is read to its end.

        Raises:
            UserError: damage, an encrypted archive, one in too many others, or one that unpacks to far too much.
        """
        if self.depth >= DEPTH:
            raise UserError(f"{self.name} lies in {self.depth} other archives, which is too deep. Unpack some.")
        with reading(self.name, "cannot be read as an archive", "Fetch it again."):
            archive = self._open()
            found = self._of_zip(archive) if isinstance(archive, zipfile.ZipFile) else self._of_tar(archive)
            for number, member in enumerate(found):
                if number >= min(ENTRIES, FEW_ENTRIES + self.size // ENTRY):
                    raise UserError(f"{self.name} has more than {number:,} files. Unpack it first.")
                yield member

    def _of_zip(self, archive: zipfile.ZipFile) -> Iterator[tuple[str, Any]]:
        entries = archive.infolist()
        if any(entry.flag_bits & 1 for entry in entries):
            raise UserError(f"{self.name} is encrypted. Unpack it first.")
        if sum(entry.compress_size for entry in entries) > self.size:
            raise UserError(f"{self.name} is damaged: files in it overlap. Fetch it again.")
        if not _counted(archive.fp, len(entries)):
            raise UserError(f"{self.name} is damaged: files are missing from its list. Fetch it again.")
        for entry in entries:
            name = entry.filename.replace("\\", "/")  # as some programs for Windows write it
            if not name.endswith("/") or entry.file_size:
                yield name, entry

    def _of_tar(self, archive: tarfile.TarFile) -> Iterator[tuple[str, Any]]:
        name, stream = None, archive.fileobj
        assert isinstance(stream, _Metered)
        while True:
            stream.left = HEADERS
            if (entry := archive.next()) is None:
                break
            name = entry.name
            check_ratio(self.name, entry.offset_data + entry.size, self.size)
            if entry.isfile():
                yield name, entry
        # tarfile takes any header that it cannot read for the end, which is a block of zeros.
        stream.left, total = math.inf, archive.offset
        stream.seek(archive.offset)
        end = stream.read(tarfile.BLOCKSIZE)
        if end.strip(b"\0") or len(end) < tarfile.BLOCKSIZE:
            what = "is damaged" if end.strip(b"\0") else "is cut short"
            raise UserError(f"{self.name} {what} after {name}. Fetch it again.")
        while block := stream.read(BLOCK):  # gzip and xz have a checksum behind the last block
            total += len(block)
            check_ratio(self.name, total, self.size)

    def fault(self, name: str, entry: Any) -> UserError | None:
        """What keeps a file in it from being read, as far as its headers tell."""
        try:
            with self._unpacking(name):
                methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                if isinstance(entry, zipfile.ZipInfo) and entry.compress_type not in methods:
                    method = METHODS.get(entry.compress_type, f"method {entry.compress_type}")
                    raise UserError(f"{self.name}/{name} is compressed by {method}, not by deflate. Unpack it first.")
                if isinstance(entry, zipfile.ZipInfo):
                    self.head(entry).close()  # compares the two headers that it has
        except UserError as error:
            return error

    def bytes_of(self, entry: Any) -> int:
        """The bytes that a file takes in it."""
        if isinstance(entry, zipfile.ZipInfo):
            return entry.compress_size
        data = entry.size if entry.sparse is None else sum(length for _, length in entry.sparse)
        return min(data, self.size)

    def head(self, entry: Any) -> Any:
        """A file in it, to be read in part and now. Raises whatever goes wrong."""
        archive = self._open()
        if isinstance(archive, zipfile.ZipFile):
            return archive.open(entry)
        archive.fileobj.left = math.inf
        return archive.extractfile(entry)

    def read(self, name: str, entry: Any) -> Any:
        """A file in it, in memory or, if it is large, as a temporary file. Raises UserError for damage."""
        size = entry.file_size if isinstance(entry, zipfile.ZipInfo) else entry.size
        check_ratio(f"{self.name}/{name}", size, self.bytes_of(entry))
        with self._unpacking(name), self.head(entry) as member:
            file = io.BytesIO() if size <= IN_MEMORY else temporary(size, f"{self.name}/{name}")
            shutil.copyfileobj(member, file, BLOCK)
            file.seek(0)
            return file

    def inner(self, name: str, entry: Any) -> "Archive":
        """An archive in it. Raises UserError if all archives in others are too large together."""
        self.shared.inner += entry.file_size if isinstance(entry, zipfile.ZipInfo) else entry.size
        if self.shared.inner > INNER:
            raise UserError(f"{self.name}/{name} lies in another archive, with far too many bytes. Unpack it first.")
        read = lambda: self.read(name, entry)  # noqa: E731
        return Archive(f"{self.name}/{name}", read, self.depth + 1, self.shared)

    def _unpacking(self, name: str):
        return reading(f"{self.name}/{name}", "cannot be unpacked", "Fetch the archive again.")

    def _open(self) -> Any:
        if self._handles is None:
            file = self.file()
            while len(self.shared.opened) >= OPEN:
                self.shared.opened.pop(0)._close()
            try:
                self.size = length(file)
                stream: Any = _unpacked(file) if self.is_tar else file
                archive = tarfile.open(fileobj=stream, mode="r:") if self.is_tar else zipfile.ZipFile(file)  # noqa: SIM115
            except BaseException as error:
                file.close()
                if isinstance(error, tarfile.ReadError):  # its own words differ with the fault
                    raise tarfile.ReadError("it is not a tar file") from error
                raise
            self._handles = archive, stream, file
            self.shared.opened.append(self)
        return self._handles[0]

    def _close(self) -> None:
        for handle in self._handles or ():
            handle.close()
        self._handles = None


def _counted(file: Any, entries: int) -> bool:
    """Whether a zip has as many entries as its end says: a damaged length of one may hide those behind it."""
    file.seek(-min(length(file), 22 + 65535), io.SEEK_END)
    _, found, end = file.read().rpartition(b"PK\5\6")
    count = int.from_bytes(end[6:8], "little")
    return not found or count in (entries % 65536, 65535)  # 65535: another record has the number


class _Metered:
    """The bytes of a tar. `left` is how many may be read as headers, which tarfile takes into memory whole."""

    def __init__(self, file: Any):
        self.file, self.left = file, float(HEADERS)
        self.tell, self.seek, self.close = file.tell, file.seek, file.close

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self.left:
            raise tarfile.ReadError("a header in it has too many bytes")
        self.left -= size
        return self.file.read(size)


def _unpacked(file: Any) -> _Metered:
    """The content of a tar that may be compressed, whatever its name says."""
    start = file.read(BLOCK)
    file.seek(0)
    opener = next((opener for magic, opener in COMPRESSIONS.items() if start.startswith(magic)), None)
    if opener is lzma.LZMAFile:
        lzma.LZMADecompressor(memlimit=DICTIONARY).decompress(start, max_length=1)
    return _Metered(opener(file) if opener else file)


def is_archive(name: str) -> bool:
    """Whether a file of this name is an archive that can be read."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)
