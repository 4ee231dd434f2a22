"""Read picture formats that can move: animated WebP, PNG and AVIF, and TIFF with several pages of one size."""

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image

from biflow import video
from biflow.files import reading
from biflow.films import BREAK, Frames, Video, usual_interval
from biflow.limits import check_pixels, length

MOVING = {".webp", ".png", ".apng", ".tif", ".tiff"} | ({".avif"} if "AVIF" in video.FORMATS else set())
HEAD = 4096  # bytes
LATE = 1 << 20  # bytes of a PNG before its pixels, such as a colour profile
UNTIMED = 0.1  # seconds of a picture that states 0, as in browsers


def moves(open_file: Callable[[], Any], suffix: str) -> bool:
    """Whether an image file holds several pictures. A file that cannot be read does not.

    The first bytes of most say that they do not, which is quick: a folder may hold 100,000 frames.
    """
    if suffix.lower() not in MOVING:
        return False
    with contextlib.suppress(Exception), open_file() as file:
        head = file.read(HEAD)
        if head.startswith(b"\x89PNG") and b"IDAT" not in head:
            head += file.read(LATE)
        animated = b"acTL" in head.partition(b"IDAT")[0]
        animated |= head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)
        animated |= head[4:8] == b"ftyp" and b"avis" in head[8:64]
        if animated or head[:2] in (b"II", b"MM"):
            file.seek(0)
            try:
                return _several(file)
            except Exception:
                return animated  # damaged, as reading it will say
    return False


def _several(file: Any) -> bool:
    """Whether a file holds several pictures. Pages of other sizes are copies of one picture, or parts of a document."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damage is reported when the file is read
        image = Image.open(file, formats=video.FORMATS)
        count, size = getattr(image, "n_frames", 1), image.size
        if count > 1 and image.format == "TIFF":
            image.seek(1)
        return count > 1 and image.size == size


def read_moving(open_file: Callable[[], Any], name: str, conversions: Counter) -> Iterator[Video]:
    """The clip of an image file that holds several pictures, as the format composes them, over black.

    The file is opened twice.

    Raises:
        UserError: a damaged file, or one of more pixels than Pillow regards as safe.
    """
    durations = [_duration(image) for image in _pictures(open_file, name)]
    timed, times = any(durations), [0.0]

    def frames() -> Frames:
        for image in _pictures(open_file, name):
            pixels, converted = video.pixels_of(image)
            if converted:
                conversions[converted] += 1
            times.append(times[-1] + (_duration(image) or UNTIMED))
            yield pixels

    fps = round(1 / usual_interval([duration or UNTIMED for duration in durations]), 3) if timed else None
    yield Video(frames(), fps, len(durations), times=times if timed else None)


def _duration(image: Image.Image) -> float:
    """The seconds for which a picture is shown; 0 if it does not say, or says that it is a break of a film."""
    seconds = float(image.info.get("duration", 0)) / 1000
    return seconds if 0 < seconds < BREAK else 0.0


def _pictures(open_file: Callable[[], Any], name: str) -> Iterator[Image.Image]:
    """The pictures of a file, each to be used before the next is asked for. Raises UserError for damage."""
    with reading(name, "cannot be read as an animation", "It is damaged."), open_file() as file:
        image = video.open_image(file, name)
        still = bool(image.info.get("default_image"))  # of a PNG: for programs that do not show animations
        size = length(file)
        for number in range(still, getattr(image, "n_frames", 1)):
            image.seek(number)
            check_pixels(name, *image.size, size)  # pages of a TIFF may differ
            image.load()
            yield image
