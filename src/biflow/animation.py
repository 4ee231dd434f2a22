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
from biflow.files import replacing
from biflow.video import Writer, enlarged

TICKS = {".webp": 1000, ".gif": 100}  # per second, in which the files count time
QUICKEST = {".webp": 10, ".gif": 2}  # ticks between pictures; browsers show faster ones ten times as long


class AnimationWriter(Writer):
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
        self._fps, self._kind, self._shown = fps, Path(path).suffix.lower(), -1
        if self._kind not in TICKS:
            raise UserError(f"{path} cannot hold an animation. Name it .webp or .gif.")
        super().__init__(path, fps, size, scale)
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
        self._encode(picture)


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
