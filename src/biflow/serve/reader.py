"""Read one picture of a client in a process of its own, which limits itself first and knows nothing of the server.

It starts quickly because it loads no NumPy and no PyTorch. `biflow.serve.uploads` starts and ends it.
"""

import contextlib
import io
import os
import sys
import threading
import time
import warnings

from PIL import Image, ImageOps, WebPImagePlugin  # noqa: F401 (else Pillow loads all plugins in search of it)
from PIL.JpegImagePlugin import JpegImageFile

from biflow.errors import UserError
from biflow.pictures import to_rgb

READ, REFUSED = 0, 3  # how the process ends: with pixels on its standard output, or with a sentence
MEMORY = 2**30  # bytes
# After so many seconds of a core, which few pictures take, others come first; after so many, which next to none takes,
# everything else does.
SHORT, LONG, NICE = 0.5, 1.0, 10
TOO_MUCH = "The image takes too long or too much memory to read; save it again as a plain JPEG or PNG."
# A phone's photo of 50 million pixels has 10 to 25 MB. Each limit on pixels keeps a decoder below about 500 MB.
MAX_PIXELS = 16_000_000  # that are decoded
MAX_JPEG_PIXELS = 256_000_000  # of a JPEG, which is made smaller while it is read, a few rows at a time
MAX_SCANS_PIXELS = 64_000_000  # of a JPEG whose whole content must be in memory before it can be made smaller
_ACCEPTED = ["PNG", "WEBP", "GIF"]  # and JPEG
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

Image.preinit()  # now, not when a picture has come


def main() -> None:
    """Read "height width seconds hurry" and a picture from standard input; write its pixels, or what is wrong."""
    head = sys.stdin.buffer.readline().split()
    if not head:
        return  # the server has ended, or needs this process no longer
    height, width, seconds, hurry = map(int, head)
    _limit_process(seconds, bool(hurry))
    try:
        result, status = read(sys.stdin.buffer.read(), (height, width)).tobytes(), READ
    except UserError as error:
        result, status = str(error).encode(), REFUSED
    sys.stdout.buffer.write(result)
    sys.stdout.buffer.flush()
    os._exit(status)  # nothing is left to do, and tearing down takes time


def _limit_process(seconds: int, hurry: bool) -> None:
    """Take at most that much time of a core, and MEMORY. Where that is not possible, the server's clock has to do."""
    try:
        import resource
    except ImportError:  # Windows
        return
    if hurry:
        threading.Thread(target=_give_way, daemon=True).start()
    else:
        _rest()
    limits = {"RLIMIT_CPU": seconds, "RLIMIT_AS": MEMORY, "RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0}
    for name, most in limits.items():
        with contextlib.suppress(OSError, ValueError):  # a system that does not know it, or a stricter limit
            resource.setrlimit(getattr(resource, name), (most, most))


def _give_way() -> None:
    _await(SHORT)
    os.setpriority(os.PRIO_PROCESS, os.getpid(), NICE)  # on Linux of the main thread, which decodes
    _await(LONG)
    _rest()


def _await(seconds: float) -> None:
    """Wait until this process has had `seconds` of a core."""
    while (left := seconds - time.process_time()) > 0:
        time.sleep(left)


def _rest() -> None:
    """Run only while nothing else is to be done. On Linux that is less than any niceness."""
    if sys.platform == "linux":
        os.sched_setscheduler(os.getpid(), os.SCHED_IDLE, os.sched_param(0))
    else:
        os.setpriority(os.PRIO_PROCESS, os.getpid(), 19)


def read(data: bytes, size: tuple[int, int]) -> Image.Image:
    """A PNG, JPEG, WebP or GIF (its first picture) as RGB: upright, its centre, resized to `size` (h, w).

    Raises:
        UserError: too many pixels (counted before any are decoded), another type of file, or a damaged one.
    """
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC:
        raise UserError("The image is HEIC, which this server cannot read; save it as JPEG or PNG first.")
    is_jpeg = data.startswith(b"\xff\xd8")
    warnings.simplefilter("ignore")  # also Pillow's about sizes: the limits here are lower
    try:
        image, _ = to_rgb(_jpeg(data, 2 * max(size)) if is_jpeg else _other(data))
        return ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC)
    except UserError:
        raise
    except MemoryError:
        raise UserError(TOO_MUCH) from None
    except Image.DecompressionBombError:
        raise _too_many(MAX_PIXELS) from None
    except Exception as error:  # Pillow's parsers raise many kinds of exception for a damaged file
        if is_jpeg:
            raise UserError("The image cannot be read: this JPEG is damaged.") from error
        raise UserError("The image is not a PNG, JPEG, WebP or GIF, or it is damaged.") from error


def _jpeg(data: bytes, side: int) -> Image.Image:
    """A JPEG, made smaller while it is read, but to no fewer than `side` pixels a side."""
    with JpegImageFile(io.BytesIO(data)) as image:  # Image.open would refuse 200 million pixels
        _limit(image, MAX_JPEG_PIXELS if _in_one_scan(data) else MAX_SCANS_PIXELS)
        image.draft("RGB", (side, side))
        _limit(image, MAX_PIXELS)
        return ImageOps.exif_transpose(image)


def _other(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=_ACCEPTED) as image:
        _limit(image, MAX_PIXELS)
        image.verify()  # which leaves it unusable
    with Image.open(io.BytesIO(data), formats=_ACCEPTED) as image:
        return ImageOps.exif_transpose(image)


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
