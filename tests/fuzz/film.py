"""Films of each container and codec that PyAV can write."""

import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np

from tests.fuzz.reading import read
from tests.making_films import grey, quadrants, set_display_matrix, write_film

KINDS = [
    ("mp4", "libx264", "yuv420p"),
    ("mov", "png", "rgba"),
    ("mkv", "ffv1", "yuv420p"),
    ("webm", "libvpx-vp9", "yuv420p"),
    ("avi", "mjpeg", "yuvj420p"),
    ("gif", "gif", "rgb8"),
    ("mpg", "mpeg1video", "yuv420p"),
    ("mts", "mpeg2video", "yuv420p"),
    ("wmv", "wmv2", "yuv420p"),
    ("flv", "flv", "yuv420p"),
    ("ogv", "libvpx", "yuv420p"),
    ("mxf", "mpeg2video", "yuv420p"),
    ("nut", "rawvideo", "yuv420p"),
]


def seeds() -> list[bytes]:
    """Short films of 16x16 pixels."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for ending, codec, pixels in KINDS:
            path = Path(folder, f"x.{ending}")
            form = {"mts": "mpegts", "mpg": "mpeg", "wmv": "asf"}.get(ending)
            pictures = [np.roll(quadrants(16, 16), 4 * number, 1) for number in range(4)]
            write_film(path, pictures, codec=codec, pixels=pixels, form=form)
            found.append(path.read_bytes())
            if ending == "mp4":
                set_display_matrix(path, 0, 1, -1, 0)
                found.append(path.read_bytes())
        write_film(path.with_suffix(".mp4"), [grey(90, 16, 16)] * 3, ratio=Fraction(3, 2))
        fragments = {"movflags": "frag_keyframe+empty_moov"}
        found.append(path.with_suffix(".mp4").read_bytes())
        write_film(path.with_suffix(".mp4"), [grey(90, 16, 16)] * 3, container=fragments)
        found.append(path.with_suffix(".mp4").read_bytes())
    return found


def one(data: bytes) -> None:
    """Read it as a film, whose format is found by its content."""
    read({"x.mp4": data})


def mend(data: bytes) -> bytes:
    """Nothing: films have no checksums that would be in the way."""
    return data
