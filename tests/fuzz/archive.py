"""Zip and tar archives, also in one another."""

import io
import struct
import tarfile
import zipfile
import zlib

from tests.clips import clip, npy, png
from tests.fuzz.reading import read

WALK = {f"walk/{number}.png": png(frame) for number, frame in enumerate(clip(1))}
FILES = {
    **WALK,
    "ride.npy": npy(clip(2)),
    "test.txt": b"ride.npy\n",
    "walk.csv": b"turn\n1\n2\n",
    "ride.json": b'{"columns": ["turn"], "actions": [1, 2]}',
}


def packed(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of these files."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def tar(files: dict[str, bytes], mode: str = "w", form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of these files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode, format=form) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def seeds() -> list[bytes]:
    """Archives of pictures, an array, a list and actions."""
    long = {f"{'x' * 120}/{name}": data for name, data in FILES.items()}
    found = [packed(FILES), packed(FILES, zipfile.ZIP_STORED), packed({"in.zip": packed(FILES), "in.tar": tar(WALK)})]
    found += [packed(WALK, zipfile.ZIP_BZIP2), packed(WALK, zipfile.ZIP_LZMA)]
    found += [tar(FILES), tar(long), tar(long, form=tarfile.GNU_FORMAT), tar({"in.zip": packed(WALK)})]
    return found + [tar(WALK, f"w:{kind}") for kind in ("gz", "bz2", "xz")]


def one(data: bytes) -> None:
    """Read it as each kind of archive."""
    read({"x.zip": data} if data.startswith(b"PK") else {"x.tar.gz": data})


def mend(data: bytes) -> bytes:
    """Checksums that fit the content."""
    return mend_zip(data) if data.startswith(b"PK") else mend_tar(data)


def mend_tar(data: bytes) -> bytes:
    """The checksum of each header of a tar."""
    out = bytearray(data)
    for start in range(0, len(out) - 511, 512):
        if out[start + 257 : start + 262] == b"ustar":
            out[start + 148 : start + 156] = b" " * 8
            out[start + 148 : start + 156] = b"%06o\0 " % sum(out[start : start + 512])
    return bytes(out)


def mend_zip(data: bytes) -> bytes:
    """The checksum of each file that a zip stores, in both of its headers."""
    out, place = bytearray(data), data.find(b"PK\1\2")
    while place >= 0 and place + 46 <= len(out):
        method, packed_size = struct.unpack_from("<H8xI", out, place + 10)
        (start,) = struct.unpack_from("<I", out, place + 42)
        if method == 0 and start + 30 <= len(out):
            begin = start + 30 + sum(struct.unpack_from("<HH", out, start + 26))
            checksum = struct.pack("<I", zlib.crc32(out[begin : begin + packed_size]))
            out[place + 16 : place + 20] = out[start + 14 : start + 18] = checksum
        place = out.find(b"PK\1\2", place + 4)
    return bytes(out)
