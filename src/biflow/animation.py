"""Encode animated WebP and GIF files, which play anywhere that shows pictures."""

import contextlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from biflow.errors import UserError
from biflow.files import os_error, replacing
from biflow.video import enlarged

TICKS = {".webp": 1000, ".gif": 100}  # per second, in which the files count time
QUICKEST = {".webp": 10, ".gif": 2}  # ticks between pictures; browsers show faster ones ten times as long


class AnimationWriter:
    """Write frames to an animated .webp or .gif that repeats for ever, one at a time, in nearly constant memory.

    It is used as `VideoWriter` is. A picture stands as many ticks as make the whole play at `fps`, and one that would
    stand for fewer than browsers accept is left out. A GIF has 255 colours in each picture.

    Args:
        path: a name that ends in .webp or .gif.
        fps: frames per second.
        size: (h, w) of the frames to be written.
        scale: enlarges each pixel to a block of this side.

    Raises:
        UserError: a file that cannot be written, a scale or fps out of range, or frames of another size.
    """

    def __init__(self, path: str | Path, fps: float | int, size: tuple[int, int], *, scale: int = 1) -> None:
        self.path, self.size, self.scale, self.frames = Path(path), tuple(size), scale, 0
        self._fps, self._kind, self._shown = fps, self.path.suffix.lower(), -1
        if self._kind not in TICKS:
            raise UserError(f"{path} cannot hold an animation. Name it .webp or .gif.")
        if scale < 1 or fps <= 0:
            raise UserError(f"A video needs a scale of at least 1 and fps above 0, not scale {scale} and fps {fps}.")
        with contextlib.ExitStack() as stack:
            partial = stack.enter_context(replacing(path))
            last = max(QUICKEST[self._kind], round(TICKS[self._kind] / fps))
            options = {"loop": "0"} | ({"final_delay": str(last)} if self._kind == ".gif" else {})
            self._container = av.open(f"file:{partial}", "w", format=self._kind[1:], options=options)
            stack.callback(self._container.close)
            codec = "gif" if self._kind == ".gif" else "libwebp_anim"
            stream = self._container.add_stream(codec, rate=Fraction(fps).limit_denominator(10_000))
            stream.height, stream.width = (side * scale for side in self.size)
            stream.pix_fmt = "pal8" if self._kind == ".gif" else "bgra"
            stream.options = {} if self._kind == ".gif" else {"quality": "80", "compression_level": "4"}
            stream.codec_context.time_base = Fraction(1, TICKS[self._kind])
            self._stream, self._file = stream, stack.pop_all()

    def write(self, frame: UInt8[Tensor, "c h w"]) -> None:
        """Append one frame, uint8 (3, h, w) or (1, h, w), on any device."""
        if tuple(frame.shape[-2:]) != self.size:
            raise UserError(f"{self.path} takes frames of {self.size}, not {tuple(frame.shape)}.")
        at = round(self.frames * TICKS[self._kind] / self._fps)
        self.frames += 1
        if self._shown >= 0 and at - self._shown < QUICKEST[self._kind]:
            return
        self._shown = at
        picture = _paletted(frame, self.scale) if self._kind == ".gif" else _in_colour(frame, self.scale)
        picture.pts, picture.time_base = at, Fraction(1, TICKS[self._kind])
        try:
            self._container.mux(self._stream.encode(picture))
        except OSError as error:  # FFmpeg's errors carry the errno
            raise os_error(error, self.path) from error

    def __enter__(self) -> "AnimationWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        with contextlib.suppress(_Discarded), self._file:
            if kind is not None:
                raise _Discarded
            if not self.frames:
                raise UserError(f"{self.path} got no frames, so it was not written.")
            self._container.mux(self._stream.encode(None))


class _Discarded(Exception):
    """Makes `replacing` remove the file. The exception that ended the writer's `with` block is passed on as it is."""


def _in_colour(frame: Tensor, scale: int) -> av.VideoFrame:
    """A frame in a format that libwebp itself converts: it keeps colours better than FFmpeg does."""
    return av.VideoFrame.from_ndarray(enlarged(frame, scale), format="rgb24").reformat(format="bgra")


def _paletted(frame: Tensor, scale: int) -> av.VideoFrame:
    """A frame in its own 255 best colours, without dithering, which would shimmer from picture to picture."""
    image = Image.fromarray(enlarged(frame, 1)).quantize(255, dither=Image.Dither.NONE)
    colours = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    palette = np.full((256, 4), 255, np.uint8)  # alpha, then the colour
    palette[: len(colours), 1:] = colours
    indices = np.asarray(image).repeat(scale, 0).repeat(scale, 1)
    pair: Any = (np.ascontiguousarray(indices), palette)
    return av.VideoFrame.from_ndarray(pair, format="pal8")
