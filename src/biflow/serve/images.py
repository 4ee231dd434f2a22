"""Images from clients, which are not trusted, and to them."""

import base64
import io
import warnings
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from biflow.errors import UserError
from biflow.video import parse_image, resize

Format = Literal["jpeg", "webp", "png"]
FORMATS: tuple[str, ...] = get_args(Format)
# A phone's photo of 50 million pixels has 10 to 25 MB. Each limit on pixels keeps a decoder below about 500 MB.
MAX_BYTES = 32 * 2**20
MAX_PIXELS = 16_000_000  # that are decoded
MAX_JPEG_PIXELS = 256_000_000  # of a JPEG, which is made smaller while it is read, a few rows at a time
MAX_SCANS_PIXELS = 64_000_000  # of a JPEG whose whole content must be in memory before it can be made smaller
_ACCEPTED = ["PNG", "WEBP", "GIF"]  # and JPEG
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# Encoding takes about a millisecond, far less than solving, and the pictures have no visible artefacts.
_SETTINGS: dict[str, dict] = {
    "jpeg": {"quality": 92, "subsampling": 0},
    "webp": {"quality": 90, "method": 0},
    "png": {"compress_level": 1},
}


def encode(pixels: UInt8[Tensor, "3 h w"], form: str) -> bytes:
    """A frame as a file of the format `form`, one of FORMATS."""
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(file, form.upper(), **_SETTINGS[form])
    return file.getvalue()


def data_url(picture: UInt8[Tensor, "3 h w"]) -> str:
    """A frame as the address of an image."""
    return "data:image/jpeg;base64," + base64.b64encode(encode(picture, "jpeg")).decode()


def decode(data: bytes, size: tuple[int, int]) -> UInt8[Tensor, "3 h w"]:
    """An uploaded PNG, JPEG, WebP or GIF (its first picture) as a frame: upright, its centre, resized to `size` (h, w).

    Raises:
        UserError: too many bytes or pixels (counted before any are decoded), another type of file, or a damaged one.
    """
    if len(data) > MAX_BYTES:
        raise UserError(f"The image has more than {MAX_BYTES // 2**20} MB; make it smaller first.")
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC:
        raise UserError("The image is HEIC, which this server cannot read; save it as JPEG or PNG first.")
    if data.startswith(b"\xff\xd8"):
        frame = _jpeg(data, 2 * max(size))
    else:
        _check(data)
        frame, _ = parse_image(io.BytesIO(data), "The image")
    return resize(frame[None], size, crop=True)[0]


def _jpeg(data: bytes, side: int) -> UInt8[Tensor, "3 h w"]:
    """A JPEG, made smaller while it is read, but to no fewer than `side` pixels a side."""
    try:
        with JpegImageFile(io.BytesIO(data)) as image:  # Image.open would refuse 200 million pixels
            _limit(image, MAX_JPEG_PIXELS if _in_one_scan(data) else MAX_SCANS_PIXELS)
            image.draft("RGB", (side, side))
            _limit(image, MAX_PIXELS)
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except UserError:
        raise
    except Exception as error:  # Pillow's parsers raise many kinds of exception for a damaged file
        raise UserError("The image cannot be read: this JPEG is damaged.") from error
    return torch.from_numpy(np.array(upright)).permute(2, 0, 1)


def _check(data: bytes) -> None:
    """Refuse what is not an image of another type, or has too many pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
            with Image.open(io.BytesIO(data), formats=_ACCEPTED) as image:
                _limit(image, MAX_PIXELS)
                image.verify()
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many(MAX_PIXELS) from error
    except Exception as error:
        raise UserError("The image is not a PNG, JPEG, WebP or GIF, or it is damaged.") from error


def _limit(image: Image.Image, most: int) -> None:
    if image.width * image.height > most:
        raise _too_many(most)


def _too_many(most: int) -> UserError:
    return UserError(f"The image has more than {most // 10**6} million pixels; make it smaller first.")


def _in_one_scan(data: bytes) -> bool:
    """Whether a JPEG is neither progressive nor stored a colour at a time, so that it can be read row by row."""
    at, sequential, components = 2, False, 0
    while at + 4 < len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at] != 0xFF or (marker != 0xFF and length < 2):
            return False
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame: 8 bytes, then the number of colours
            sequential, components = marker in (0xC0, 0xC1), data[at + 9] if at + 9 < len(data) else 0
        if marker == 0xDA:  # the first scan
            return sequential and data[at + 4] == components
        at += 1 if marker == 0xFF else 2 + length
    return False


def preview(first: UInt8[Tensor, "n 3 h w"]) -> bytes:
    """A PNG of 1200x630 with up to 8 first frames, for links to the page. It is plain if there are none."""
    columns, rows, side = (4, 2, 300) if len(first) >= 8 else (2, 1, 600) if len(first) >= 2 else (1, 1, 600)
    sheet = Image.new("RGB", (1200, 630), (17, 21, 20))
    left, top = (1200 - columns * side) // 2, (630 - rows * side) // 2
    for i, picture in enumerate(first[: columns * rows]):
        tile = ImageOps.fit(Image.fromarray(picture.permute(1, 2, 0).numpy()), (side, side), Image.Resampling.NEAREST)
        sheet.paste(tile, (left + i % columns * side, top + i // columns * side))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()
