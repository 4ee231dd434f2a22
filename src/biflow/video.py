"""Decode images; encode mp4 files and contact sheets. `biflow.films` decodes films.

Frames are uint8 tensors (3, h, w) in RGB, 0 to 255. Networks take float32 in [-1, 1]. `to_float` and `to_uint8` are the
only two places in the project where one becomes the other.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, TypeVar

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps, features
from torch import Tensor

from biflow.errors import UserError
from biflow.files import os_error, reading, replacing
from biflow.limits import BLOCK, PIXELS, SCANS, check_pixels, check_regular, length
from biflow.pictures import check_mode, to_rgb

log = logging.getLogger("biflow")
Self = TypeVar("Self", bound="Writer")
Bytes = io.BufferedReader | io.BufferedRandom | io.BytesIO

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
# Pillow's names of their formats. It would also run Ghostscript for a PostScript file that is called x.png.
FORMATS = ["PNG", "JPEG", "BMP", "DIB", "PPM", "TIFF", "GIF"]
FORMATS += [name.upper() for name in ("webp", "avif") if name in features.modules and features.check(name)]
STRIP = 512  # rows that are converted at once
H264_FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}


def to_float(frames: UInt8[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
    """uint8 in 0..255 to float32 in [-1, 1], on the same device. Raises TypeError for another type."""
    if frames.dtype != torch.uint8:
        raise TypeError(f"to_float takes uint8 frames, not {frames.dtype}")
    return frames.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(frames: Float[Tensor, "*b c h w"]) -> UInt8[Tensor, "*b c h w"]:
    """Float in [-1, 1] to uint8 in 0..255, clamped and rounded to the nearest, on the same device.

    Raises TypeError for whole numbers.
    """
    if not frames.is_floating_point():
        raise TypeError(f"to_uint8 takes frames of floats, not {frames.dtype}")
    return frames.detach().float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def over_black(frame: UInt8[Tensor, "4 h w"]) -> UInt8[Tensor, "3 h w"]:
    """An RGBA frame over black, the ground of everything transparent in the project."""
    out = np.empty((3, *frame.shape[1:]), np.uint8)
    for top in range(0, frame.shape[1], STRIP):
        strip = np.ascontiguousarray(frame[:, top : top + STRIP].numpy()).astype(np.uint16)
        product = strip[:3] * strip[3:] + 127
        out[:, top : top + STRIP] = (product + 1 + (product >> 8)) >> 8  # product // 255, for any below 65535
    return torch.from_numpy(out)


def resize(frames: UInt8[Tensor, "n c h w"], size: tuple[int, int], *, crop: bool = False) -> UInt8[Tensor, "n c _ _"]:
    """Resize to `size` (h, w), bicubic with antialiasing, within 1/255 of Pillow's result. The result is contiguous.

    The whole frame is squeezed into the new shape, as the reference implementation does. `crop` first cuts out the
    largest centred part with the aspect ratio of `size`.
    """
    if crop:
        height, width = frames.shape[-2:]
        keep_h = min(height, max(1, round(width * size[0] / size[1])))
        keep_w = min(width, max(1, round(height * size[1] / size[0])))
        top, left = (height - keep_h) // 2, (width - keep_w) // 2
        frames = frames[..., top : top + keep_h, left : left + keep_w]
    if tuple(frames.shape[-2:]) != tuple(size):
        frames = F.interpolate(frames, size=tuple(size), mode="bicubic", antialias=True, align_corners=False)
    return frames.contiguous()  # interpolate keeps the order of the channels, also that of a frame of one pixel


def parse_image(file: Bytes | Path, name: str) -> tuple[UInt8[Tensor, "3 h w"], str | None]:
    """Decode one image as RGB. Also returns which kind it was ("grey", "RGBA", ...) if it was another, else None.

    Raises:
        UserError: not a file, an image that Pillow cannot read in full, or one of more pixels than `limits.PIXELS`.
    """
    if isinstance(file, Path):
        check_regular(file, name)
    with reading(name, "cannot be read as an image", "It is damaged or not an image."):
        image = open_image(file, name)
        ImageOps.exif_transpose(image, in_place=True)
        image.load()
        return pixels_of(image)


def open_image(file: Bytes | Path, name: str) -> Image.Image:
    """Open an image with Pillow. Raises UserError for too many pixels or unknown values, and whatever Pillow raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its limit may be above ours
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise UserError(f"{name} has far more than {PIXELS:,} pixels. Make it smaller.") from error
    check_pixels(name, *image.size, file.stat().st_size if isinstance(file, Path) else length(file))
    if image.info.get("progressive") and image.fp and _count(image.fp, b"\xff\xda") > SCANS:
        raise UserError(f"{name} has more than {SCANS} scans, which takes too long. Save it again.")
    check_mode(image, name)
    return image


def pixels_of(image: Image.Image) -> tuple[UInt8[Tensor, "3 h w"], str | None]:
    """The pixels of an image over black, and which kind it was if it was not RGB, as `to_rgb` says."""
    out, kinds = np.empty((3, image.height, image.width), np.uint8), []
    for top in range(0, image.height, STRIP):  # copies of a whole image in each form may take more than 1 GiB
        strip, kind = to_rgb(image.crop((0, top, image.width, min(top + STRIP, image.height))))
        kinds.append(kind)
        out[:, top : top + STRIP] = np.asarray(strip).transpose(2, 0, 1)
    return torch.from_numpy(out), next((kind for kind in kinds if kind and "black" not in kind), kinds[0])


def _count(file: IO[bytes], marker: bytes) -> int:
    """How often a marker occurs in a file, which stays where it is."""
    place, count, rest = file.tell(), 0, b""
    file.seek(0)
    while block := file.read(BLOCK):
        count += (rest + block).count(marker)
        rest = block[-1:]
    file.seek(place)
    return count


def read_image(path: str | Path, size: tuple[int, int] | int | None = None) -> UInt8[Tensor, "3 h w"]:
    """Read an image as RGB, resized to `size` if given: (h, w), or one number for a square.

    Grey, palette and RGBA images (over black) are converted, which the logger "biflow" reports. Raises UserError.
    """
    frame, converted = parse_image(Path(path), str(path))
    if converted:
        log.warning("%s is %s; converted to RGB.", path, converted)
    if size is not None:
        frame = resize(frame[None], (size, size) if isinstance(size, int) else size)[0]
    return frame


LARGEST = 16383  # pixels of a side: WebP has no more, and H.264 hardly


class Writer:
    """What writing a file of moving pictures is, whatever its format; `VideoWriter` says how it is used.

    A subclass opens `_container` with `_stream`, and closes it by `_file`, a stack that began with `replacing`.
    """

    _container: Any
    _stream: Any
    _file: contextlib.ExitStack

    def __init__(self, path: str | Path, fps: float | int, size: tuple[int, int], scale: int) -> None:
        self.path, self.size, self.scale, self.frames = Path(path), tuple(size), scale, 0  # frames written so far
        if scale < 1 or fps <= 0:
            raise UserError(f"A video needs a scale of at least 1 and fps above 0, not scale {scale} and fps {fps}.")
        if max(size) * scale > LARGEST:
            large = f"{size[1] * scale}x{size[0] * scale} at scale {scale}, and a side has at most {LARGEST} pixels"
            raise UserError(f"The video would have {large}. Choose a smaller scale.", setting="scale")

    def _encode(self, picture: av.VideoFrame) -> list[Any]:
        """Write a picture; the packets that came of it."""
        try:
            packets = self._stream.encode(picture)
            self._container.mux(packets)
        except OSError as error:  # FFmpeg's errors carry the errno
            raise os_error(error, self.path) from error
        return packets

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind, error, trace) -> None:
        failed = kind is not None  # then it does not matter whether the file can be closed
        with contextlib.suppress(Exception) if failed else contextlib.nullcontext(), self._file:
            if failed:
                raise _Discarded
            if not self.frames:
                raise UserError(f"{self.path} got no frames, so it was not written.")
            self._container.mux(self._stream.encode(None))


class _Discarded(Exception):
    """Makes `replacing` remove a video. The exception that ended the writer's `with` block is passed on as it is."""


class VideoWriter(Writer):
    """Write frames to an H.264 file (yuv420p, BT.709), one at a time, in constant memory.

    >>> with VideoWriter("out.mp4", fps=25, size=(64, 64), scale=4) as video:
    ...     video.write(frame)  # uint8 (3, 64, 64)

    H.264 needs even sides: an odd one gains a row or a column, copied from the edge. Frames are never resampled. The
    file appears when the `with` block ends without an exception, as `files.replacing` describes.

    Args:
        path: a name that ends in .mp4, .mkv or .mov.
        fps: frames per second.
        size: (h, w) of the frames to be written.
        scale: enlarges each pixel to a block of this side, so that players show a small video sharply.
        crf: quality of x264, from 0 (lossless) to 51.

    Raises:
        UserError: another suffix, a scale or fps out of range, or a file that cannot be written.
    """

    def __init__(self, path: str | Path, fps: float | int, size: tuple[int, int], *, scale: int = 1, crf: int = 20):
        if Path(path).suffix.lower() not in H264_FORMATS:
            raise UserError(f"{path} cannot hold H.264. Name it .mp4, .mkv or .mov.")
        super().__init__(path, fps, size, scale)
        self.bytes = 0  # written so far
        with contextlib.ExitStack() as stack:
            partial = stack.enter_context(replacing(path))
            self._container = av.open(f"file:{partial}", "w", format=H264_FORMATS[self.path.suffix.lower()])
            stack.callback(self._container.close)
            stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(10_000))
            height, width = (side * scale + side * scale % 2 for side in self.size)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            # Sampling needs the cores itself. "veryfast" takes seven times as long and, where pixels are blocks, gives
            # a worse picture for as many bytes.
            stream.options = {"crf": str(crf), "preset": "ultrafast", "threads": "1"}
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709, as H.273 numbers it
            context.color_range = 1  # limited, as players expect
            self._stream, self._file, self._reformatter = stream, stack.pop_all(), VideoReformatter()

    def write(self, frame: UInt8[Tensor, "c h w"]) -> None:
        """Append one frame, uint8 (3, h, w) or (1, h, w), on any device. Raises UserError for another size."""
        if frame.dtype != torch.uint8 or tuple(frame.shape[-2:]) != self.size:
            raise UserError(f"{self.path} takes uint8 frames of {self.size}, not {frame.dtype} {tuple(frame.shape)}.")
        how: dict[str, Any] = {"format": "yuv420p", "dst_colorspace": "ITU709", "dst_color_range": "MPEG"}
        height, width = (side * self.scale for side in self.size)
        if self.scale > 1 and not (height % 2 or width % 2):  # sharp also in colour, at an eighth of the time
            pixels, how = enlarged(frame, 1), how | {"width": width, "height": height, "interpolation": "POINT"}
        else:
            pixels = np.pad(enlarged(frame, self.scale), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = self._reformatter.reformat(av.VideoFrame.from_ndarray(pixels, format="rgb24"), **how)
        picture.pts = self.frames
        self.bytes += sum(packet.size for packet in self._encode(picture))
        self.frames += 1


def enlarged(frame: UInt8[Tensor, "c h w"], scale: int) -> UInt8[np.ndarray, "new_h new_w 3"]:
    """A frame as an RGB array, each pixel a block of the side `scale`."""
    pixels = frame.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(pixels.repeat(scale, 0).repeat(scale, 1))


def contact_sheet(
    rows: list[list[UInt8[Tensor, "c h w"]]],
    path: str | Path,
    caption: Sequence[str] | str = (),
    row_labels: Sequence[str] = (),
    *,
    scale: int = 2,
    gap: int = 4,
) -> None:
    """Write a PNG with rows of frames, lines of caption above them, and labels at the left of the rows.

    All frames have one size. Rows may differ in length. `scale` enlarges each pixel to a block of that side, and `gap`
    is the number of pixels between frames. Raises UserError if there are no frames.
    """
    if not any(rows):
        raise UserError(f"There are no frames to put on {path}.")
    font, line = ImageFont.load_default(14), 20
    captions = [caption] if isinstance(caption, str) else caption
    tiles = [[enlarged(frame, scale) for frame in row] for row in rows]
    height, width, _ = next(row for row in tiles if row)[0].shape
    left = gap + max((round(font.getlength(label)) + 2 * gap for label in row_labels), default=0)
    top = gap + line * len(captions) + (gap if captions else 0)
    sheet_w = left + max(map(len, rows)) * (width + gap)
    sheet_w = max([sheet_w, *(round(font.getlength(text)) + 2 * gap for text in captions)])
    sheet = Image.new("RGB", (sheet_w, top + len(rows) * (height + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, text in enumerate(captions):
        draw.text((gap, gap + index * line), text, fill="black", font=font)
    for row, pictures in enumerate(tiles):
        y = top + row * (height + gap)
        if row < len(row_labels):
            draw.text((gap, y + height // 2), row_labels[row], fill="black", font=font, anchor="lm")
        for column, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (left + column * (width + gap), y))
    with replacing(path) as partial:
        sheet.save(partial, "PNG")
