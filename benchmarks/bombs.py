"""Hostile pictures: small files that take a reader long, or much memory, or lead it in circles."""

import io
import struct
import zlib

from PIL import Image


def progressive_jpeg(scans: int = 3000, side: int = 2000) -> bytes:
    """A JPEG whose last scan, of a few bytes, is there `scans` times. Each one goes over the whole picture."""
    data = _saved("JPEG", (side, side), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + b"\xff\xd9"


def png_of_chunks(kind: bytes = b"iCCP", count: int = 4000) -> bytes:
    """A PNG with that many profiles or texts before its pixels: kind is iCCP, zTXt or iTXt."""
    content = zlib.compress(bytes(10**5))
    between = b"key\0" + (b"\1\0\0\0" if kind == b"iTXt" else b"\0")
    return _with_chunks(_saved("PNG", (16, 16)), _chunk(kind, between + content) * count)


def jpeg_of_exif(count: int = 300_000) -> bytes:
    """A JPEG with that many Exif segments of 11 bytes."""
    data = _saved("JPEG", (16, 16))
    return data[:2] + b"\xff\xe1\0\x09Exif\0\0\0" * count + data[2:]


def jpeg_of_profiles(count: int = 255) -> bytes:
    """A JPEG with as many pieces of a colour profile as there can be, of 64 kB each."""
    data = _saved("JPEG", (16, 16))
    pieces = (b"ICC_PROFILE\0" + bytes([number + 1, count]) + bytes(65_000) for number in range(count))
    return data[:2] + b"".join(b"\xff\xe2" + struct.pack(">H", len(one) + 2) + one for one in pieces) + data[2:]


def jpeg_of_circling_exif() -> bytes:
    """A JPEG whose orientation comes after tables of tags that name each other and themselves."""
    tags = [(0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8), (0x0112, 3, 1, 6 << 16)]
    table = struct.pack(">H", len(tags)) + b"".join(struct.pack(">HHII", *tag) for tag in sorted(tags))
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + table + struct.pack(">I", 8)
    data = _saved("JPEG", (16, 16))
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def huge_gif(side: int = 65_000) -> bytes:
    """A GIF of one pixel on a canvas of `side` x `side`."""
    data = _saved("GIF", (1, 1))
    return data[:6] + struct.pack("<HH", side, side) + data[10:]


def gif_of_frames(count: int = 20_000) -> bytes:
    """A GIF of 4000x4000 with that many pictures of one pixel."""
    head, picture = b"GIF89a" + struct.pack("<HH", 4000, 4000) + b"\x80\0\0" + bytes(6), b"\x02\x02\x44\x01\0"
    return head + (b"," + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0" + picture) * count + b";"


def large_webp(side: int = 4000) -> bytes:
    """A WebP of `side` x `side` in a few kB."""
    return _saved("WEBP", (side, side), lossless=True, method=0)


def narrow_png(height: int = 60_000) -> bytes:
    """A PNG of one column."""
    return _saved("PNG", (1, height))


def wide_png(side: int = 4000) -> bytes:
    """A PNG of `side` x `side` in about 2 kB."""
    return _saved("PNG", (side, side), mode="1")


def png_of_zeros(length: int = 2**28) -> bytes:
    """A PNG of 16x16 whose pixels are followed by `length` zeros, compressed."""
    deflate = zlib.compressobj(9)
    block = bytes(2**20)
    data = b"".join([deflate.compress(block) for _ in range(length // len(block))]) + deflate.flush()
    head = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0))
    return head + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def truncated(data: bytes) -> bytes:
    """The first half of a picture."""
    return data[: len(data) // 2]


def all_bombs() -> dict[str, bytes]:
    """Every hostile picture, by name."""
    bombs = {f"PNG of {kind}": png_of_chunks(kind.encode()) for kind in ("iCCP", "zTXt", "iTXt")}
    makers = [
        progressive_jpeg,
        jpeg_of_exif,
        jpeg_of_profiles,
        jpeg_of_circling_exif,
        huge_gif,
        gif_of_frames,
        large_webp,
        narrow_png,
        wide_png,
        png_of_zeros,
    ]
    bombs |= {maker.__name__.replace("_", " "): maker() for maker in makers}
    whole = {form: _saved(form, (640, 480)) for form in ("JPEG", "PNG", "WEBP", "GIF")}
    return bombs | {f"truncated {form}": truncated(data) for form, data in whole.items()}


def _saved(form: str, size: tuple[int, int], mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, form, **options)
    return file.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _with_chunks(png: bytes, chunks: bytes) -> bytes:
    """A PNG with others after its first chunk, which takes 33 bytes with the signature."""
    return png[:33] + chunks + png[33:]
