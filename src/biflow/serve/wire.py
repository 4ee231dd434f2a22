"""Frames as binary messages: the length of a JSON header (four bytes, little-endian), the header, the pictures."""

import json
import struct


def pack(header: dict, pictures: list[bytes]) -> bytes:
    """One binary message; `sizes`, the bytes of each picture, is added to the header."""
    text = json.dumps({**header, "sizes": [len(picture) for picture in pictures]}).encode()
    return struct.pack("<I", len(text)) + text + b"".join(pictures)


def unpack(message: bytes) -> tuple[dict, list[bytes]]:
    """The header and the pictures of a message."""
    (length,) = struct.unpack_from("<I", message)
    header = json.loads(message[4 : 4 + length])
    pictures, offset = [], 4 + length
    for size in header["sizes"]:
        pictures.append(message[offset : offset + size])
        offset += size
    return header, pictures
