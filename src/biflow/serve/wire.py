"""Frames as binary messages: the length of a JSON header (four bytes, little-endian), the header, the pictures."""

import json
import struct
import time

from biflow.serve.dream import Moment
from biflow.serve.images import encode


def pack(header: dict, pictures: list[bytes]) -> bytes:
    """One binary message; `sizes`, the bytes of each picture, is added to the header."""
    text = json.dumps({**header, "sizes": [len(picture) for picture in pictures]}).encode()
    return struct.pack("<I", len(text)) + text + b"".join(pictures)


def framed(moment: Moment, form: str, version: int) -> bytes:
    """The message of a frame: its pictures as files of the format `form`, solved under controls of that version."""
    begun = time.perf_counter()
    images = [encode(picture, form) for picture in moment.pictures]
    drift = {"drift": [round(value, 3) for value in moment.drift]} if moment.drift else {}
    header = {
        "id": moment.id,
        "index": moment.index,
        "time": round(moment.time, 4),
        "nfe": moment.nfe,
        "action": moment.action,
        **drift,
        **({} if moment.eps is None else {"eps": round(moment.eps, 3)}),
        "version": version,
        "solve_ms": round(1000 * moment.seconds, 2),
        "encode_ms": round(1000 * (time.perf_counter() - begun), 2),
        "format": f"image/{form}",
    }
    return pack(header, images)


def unpack(message: bytes) -> tuple[dict, list[bytes]]:
    """The header and the pictures of a message."""
    (length,) = struct.unpack_from("<I", message)
    header = json.loads(message[4 : 4 + length])
    pictures, offset = [], 4 + length
    for size in header["sizes"]:
        pictures.append(message[offset : offset + size])
        offset += size
    return header, pictures
