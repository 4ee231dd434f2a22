"""Images in from a client that nobody trusts, and out to it."""

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
# A quarter of a frame's worth of quality is a millisecond of encoding: these are far below a solve, and look clean.
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
        UserError: too many bytes or pixels (counted before anything is unpacked), another type, or damaged.
    """
    if len(data) > MAX_BYTES:
        raise UserError(f"The image has more than {MAX_BYTES // 2**20} MB; make it smaller first.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is the tighter one
            with Image.open(io.BytesIO(data), formats=_ACCEPTED) as image:
                pixels = image.width * image.height
                if pixels <= MAX_PIXELS:
                    image.verify()
    except Image.DecompressionBombError:
        pixels = MAX_PIXELS + 1
    except Exception as error:  # Pillow's parsers fail with many kinds of exception on a broken file
        raise UserError("The image is not a PNG, JPEG, WebP or GIF, or it is damaged.") from error
    if pixels > MAX_PIXELS:
        raise UserError(f"The image has more than {MAX_PIXELS // 10**6} million pixels; make it smaller first.")
    frame, _ = parse_image(io.BytesIO(data), "The image")
    return resize(frame[None], size, crop=True)[0]
