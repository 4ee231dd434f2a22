"""Images from clients, which are not trusted, and to them."""

import io
import warnings
from typing import Literal, get_args

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from biflow.errors import UserError
from biflow.video import parse_image, resize

Format = Literal["jpeg", "webp", "png"]
FORMATS: tuple[str, ...] = get_args(Format)
MAX_BYTES = 4 * 2**20
MAX_PIXELS = 12_000_000
_ACCEPTED = ["PNG", "JPEG", "WEBP", "GIF"]
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


def decode(data: bytes, size: tuple[int, int]) -> UInt8[Tensor, "3 h w"]:
    """An uploaded PNG, JPEG, WebP or GIF (its first picture) as a frame: its centre, resized to `size` (h, w).

    Raises:
        UserError: too many bytes or pixels (counted before any are decoded), another type of file, or a damaged one.
    """
    if len(data) > MAX_BYTES:
        raise UserError(f"The image has more than {MAX_BYTES // 2**20} MB; make it smaller first.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
            with Image.open(io.BytesIO(data), formats=_ACCEPTED) as image:
                pixels = image.width * image.height
                if pixels <= MAX_PIXELS:
                    image.verify()
    except Image.DecompressionBombError:
        pixels = MAX_PIXELS + 1
    except Exception as error:  # Pillow's parsers raise many kinds of exception for a damaged file
        raise UserError("The image is not a PNG, JPEG, WebP or GIF, or it is damaged.") from error
    if pixels > MAX_PIXELS:
        raise UserError(f"The image has more than {MAX_PIXELS // 10**6} million pixels; make it smaller first.")
    frame, _ = parse_image(io.BytesIO(data), "The image")
    return resize(frame[None], size, crop=True)[0]
