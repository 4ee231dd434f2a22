"""Images for clients, and how large theirs may be."""

import base64
import io
from typing import Literal, get_args

from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

Format = Literal["jpeg", "webp", "png"]
FORMATS: tuple[str, ...] = get_args(Format)
MAX_BYTES = 32 * 2**20  # of a picture that a client sends
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
