"""Images, still and moving."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, features

from tests.clips import clip
from tests.fuzz.reading import read


def seeds() -> list[bytes]:
    """Images of each format that is read, in several modes."""
    found = []

    def add(form: str, pictures: list[Image.Image], **options) -> None:
        data = io.BytesIO()
        more = {"save_all": True, "append_images": pictures[1:]} if pictures[1:] else {}
        pictures[0].save(data, form, **more, **options)
        found.append(data.getvalue())

    noise = np.random.default_rng(0).integers(0, 256, (8, 10, 4), np.uint8)
    still = Image.fromarray(noise)
    several = [Image.fromarray(frame) for frame in clip(1)]
    for mode in ("RGB", "RGBA", "L", "LA", "1", "P", "I;16"):
        picture = Image.fromarray(noise[..., 0].astype(np.uint16)) if mode == "I;16" else still.convert(mode)
        add("PNG", [picture])
        if mode not in ("LA", "P"):
            add("TIFF", [picture], compression=None if mode == "I;16" else "tiff_lzw")
    exif = Image.Exif()
    exif[0x0112] = 6
    for options in ({}, {"progressive": True}, {"exif": exif}):
        add("JPEG", [still.convert("RGB")], **options)
    add("JPEG", [still.convert("CMYK")])
    for form in ("BMP", "PPM", "WEBP", "GIF"):
        add(form, [still.convert("RGB")])
    for form in ("PNG", "WEBP", "TIFF", "GIF", *(["AVIF"] if features.check("avif") else [])):
        add(form, several)
    return found


def one(data: bytes) -> None:
    """Read it as an image, and as an animation if it is one."""
    read({"0.png": data, "1.png": data})


def mend(data: bytes) -> bytes:
    """Checksums of a PNG that fit its content, without which it is refused at once."""
    if not data.startswith(b"\x89PNG"):
        return data
    out, place = bytearray(data), 8
    while place + 12 <= len(out):
        (length,) = struct.unpack_from(">I", out, place)
        end = place + 8 + length
        if end + 4 > len(out):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(out[place + 4 : end]))
        place = end + 4
    return bytes(out)
