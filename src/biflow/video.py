"""Decode and encode: images and videos in, mp4 and contact sheets out.

Frames are uint8 tensors (3, h, w) in RGB, 0 to 255. Networks want float32 in [-1, 1]; `to_float` and `to_uint8` are the
only two places in the project where one becomes the other.
"""

import contextlib
import errno
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from biflow.errors import UserError

log = logging.getLogger("biflow")
Bytes = io.BufferedReader | io.BytesIO

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".webm", ".mov", ".gif", ".m4v"}
H264_SUFFIXES = {".mp4", ".mkv", ".mov"}


def to_float(frames: UInt8[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
    """uint8 in 0..255 to float32 in [-1, 1], on the device where the frames are."""
    return frames.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(frames: Float[Tensor, "*b c h w"]) -> UInt8[Tensor, "*b c h w"]:
    """Float in [-1, 1] to uint8 in 0..255, clamped and rounded to the nearest, on the device where the frames are."""
    return frames.detach().float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def resize(
    frames: UInt8[Tensor, "n c h w"], size: tuple[int, int], *, crop: bool = False
) -> UInt8[Tensor, "n c new_h new_w"]:
    """Resize to `size` (h, w), bicubic with antialiasing; within 1/255 of what Pillow does.

    The whole frame is squeezed to the new shape, as the reference implementation does. `crop` cuts the largest centred
    part that has the aspect of `size` first.
    """
    if crop:
        height, width = frames.shape[-2:]
        keep_h = min(height, max(1, round(width * size[0] / size[1])))
        keep_w = min(width, max(1, round(height * size[1] / size[0])))
        top, left = (height - keep_h) // 2, (width - keep_w) // 2
        frames = frames[..., top : top + keep_h, left : left + keep_w]
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    return F.interpolate(frames, size=tuple(size), mode="bicubic", antialias=True, align_corners=False)


def parse_image(file: Bytes | Path, name: str) -> tuple[UInt8[Tensor, "3 h w"], str | None]:
    """Decode one image; also say which kind it was ("grey", "RGBA", …) if it had to be converted to RGB, else None.

    Raises UserError for what Pillow cannot read in full, and for images of more pixels than Pillow holds safe.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file)
            if image.mode in ("I", "F"):
                raise UserError(f"{name} has {image.mode} pixels of unknown range; save it as 8-bit RGB.")
            image = ImageOps.exif_transpose(image)
            image.load()
            converted = None
            if image.mode.startswith("I;16"):
                converted = "16-bit grey"
                image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
            elif image.mode != "RGB":
                converted = {"L": "grey", "1": "black and white", "P": "palette"}.get(image.mode, image.mode)
            if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
            pixels = np.array(image.convert("RGB"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{name} has more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller first.") from error
    except FileNotFoundError as error:
        raise UserError(f"{name} does not exist; check the path.") from error
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders fail with many kinds of exception on a broken file
        raise UserError(f"{name} cannot be read as an image ({error}); it is damaged or no image.") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), converted


def read_image(path: str | Path, size: tuple[int, int] | int | None = None) -> UInt8[Tensor, "3 h w"]:
    """Read an image as RGB; `size` (h, w), or one number for a square, resizes it.

    Grey, palette and RGBA (over black) are converted, and the logger "biflow" says so. Raises UserError.
    """
    frame, converted = parse_image(Path(path), str(path))
    if converted:
        log.warning("%s is %s; converted to RGB.", path, converted)
    if size is not None:
        frame = resize(frame[None], (size, size) if isinstance(size, int) else size)[0]
    return frame


@dataclass
class Video:
    """Frames to be read once, in order. `fps` and `length` are what the container says; None where it says nothing.

    `part` names this clip within its file, such as "[3]", where a file holds several.
    """

    frames: Iterator[UInt8[Tensor, "3 h w"]]
    fps: float | None
    length: int | None = None
    part: str = ""


def decode(file: str | Path | Bytes, name: str | None = None) -> Video:
    """Open a video (mp4, avi, mkv, webm, mov, gif) and stream its frames; one frame is in memory at a time.

    Raises UserError, here or while the frames are read, if the file is no video or is damaged.
    """
    import av

    name = name or str(file)
    if isinstance(file, str | Path) and not Path(file).exists():
        raise UserError(f"{name} does not exist; check the path.")
    try:
        container = av.open(str(file) if isinstance(file, Path) else file, "r")
    except (av.FFmpegError, ValueError, OSError) as error:
        raise UserError(f"{name} cannot be opened as a video ({error}); it is damaged or no video.") from error
    if not container.streams.video:
        container.close()
        raise UserError(f"{name} holds no video stream; give a file that does.")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    fps = float(stream.average_rate) if stream.average_rate else None
    length = stream.frames or None
    if length is None and fps and container.duration:
        length = max(1, round(container.duration / 1e6 * fps))

    def frames() -> Iterator[Tensor]:
        count = 0
        try:
            with container:
                for packet in container.demux(stream):
                    if packet.is_corrupt:
                        raise UserError(f"{name} is damaged or cut short; fetch or encode it again.")
                    for frame in packet.decode():
                        pixels = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)  # type: ignore[union-attr]
                        turns = round(getattr(frame, "rotation", 0) / 90) % 4  # phones store upright film lying down
                        count += 1
                        yield torch.rot90(pixels, turns, (1, 2)).contiguous()
        except av.FFmpegError as error:
            raise UserError(f"{name} is damaged ({error}); fetch or encode it again.") from error
        if length and count < 0.9 * length:  # an estimate, so it is no error: sound may go on after the last picture
            log.warning("%s ends after %d of about %d frames; it may be cut short.", name, count, length)

    return Video(frames(), fps, length)


class VideoWriter:
    """Write frames to an H.264 file (yuv420p, BT.709), one at a time, in constant memory.

    `size` is (h, w) of the frames that come; `scale` enlarges each pixel to a block (whole numbers only), so that
    players show a 64x64 video properly. H.264 needs even sides: an odd one gains one row or column, copied from the
    edge; frames are never resampled. The file gets its name only when the writer is left without an exception; until
    then it is a hidden file beside it, and after an exception it is gone.

    >>> with VideoWriter("out.mp4", fps=25, size=(64, 64), scale=4) as video:
    ...     video.write(frame)  # uint8 (3, 64, 64)
    """

    def __init__(self, path: str | Path, fps: float | int, size: tuple[int, int], *, scale: int = 1, crf: int = 18):
        import av

        self.path, self.size, self.scale, self.frames = Path(path), tuple(size), scale, 0
        if self.path.suffix.lower() not in H264_SUFFIXES:
            raise UserError(f"{path} cannot hold H.264; name it .mp4, .mkv or .mov.")
        if scale < 1 or fps <= 0:
            raise UserError(f"A video needs a scale of at least 1 and fps above 0, not scale {scale} and fps {fps}.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = self.path.with_name(f".{self.path.stem}.partial{self.path.suffix}")
        with _told_if_full(self.path):
            self._container = av.open(str(self._partial), "w")
        stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(10_000))
        height, width = (side * scale + side * scale % 2 for side in self.size)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = {"crf": str(crf), "preset": "veryfast"}  # sampling needs the cores itself
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709, in the numbers of H.273
        context.color_range = 1  # limited, as players expect
        self._stream = stream

    def write(self, frame: UInt8[Tensor, "c h w"]) -> None:
        """Append one frame, uint8 (3, h, w) or (1, h, w), on any device. Raises UserError if its size is another."""
        import av

        if frame.dtype != torch.uint8 or tuple(frame.shape[-2:]) != self.size:
            raise UserError(f"{self.path} takes uint8 frames of {self.size}, not {frame.dtype} {tuple(frame.shape)}.")
        pixels = frame.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
        pixels = pixels.repeat(self.scale, 0).repeat(self.scale, 1)
        height, width = pixels.shape[:2]
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        picture.pts = self.frames
        with _told_if_full(self.path):
            self._container.mux(self._stream.encode(picture))
        self.frames += 1

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            with _told_if_full(self.path):
                if kind is None and self.frames:
                    self._container.mux(self._stream.encode(None))
                self._container.close()
            if kind is None:
                if not self.frames:
                    raise UserError(f"{self.path} got no frames; nothing was written.")
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _told_if_full(path: Path):
    try:
        yield
    except OSError as error:  # FFmpeg's errors are OSErrors and carry the errno too
        if error.errno != errno.ENOSPC:
            raise
        raise UserError(f"No space left to write {path}; free some, or write elsewhere.") from error


def contact_sheet(
    rows: list[list[UInt8[Tensor, "c h w"]]],
    path: str | Path,
    caption: Sequence[str] | str = (),
    row_labels: list[str] | None = None,
    *,
    scale: int = 2,
    gap: int = 4,
) -> None:
    """Write a PNG: rows of frames (uint8, all of one size), caption lines on top, labels at the left of the rows.

    Rows may differ in length. `scale` enlarges each pixel to a block. The file appears whole or not at all.
    """
    if not any(rows):
        raise UserError(f"There are no frames to put on {path}.")
    font, line = ImageFont.load_default(14), 20
    captions = [caption] if isinstance(caption, str) else list(caption)
    height, width = (side * scale for side in next(row for row in rows if row)[0].shape[-2:])
    labels = row_labels or []
    left = gap + max((round(font.getlength(label)) + 2 * gap for label in labels), default=0)
    top = gap + line * len(captions) + (gap if captions else 0)
    sheet_w = left + max(map(len, rows)) * (width + gap)
    sheet_w = max(sheet_w, *(round(font.getlength(text)) + 2 * gap for text in captions), 0)
    sheet = Image.new("RGB", (sheet_w, top + len(rows) * (height + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, text in enumerate(captions):
        draw.text((gap, gap + index * line), text, fill="black", font=font)
    for row, frames in enumerate(rows):
        y = top + row * (height + gap)
        if row < len(labels):
            draw.text((gap, y + height // 2), labels[row], fill="black", font=font, anchor="lm")
        for column, frame in enumerate(frames):
            tile = Image.fromarray(frame.expand(3, -1, -1).permute(1, 2, 0).cpu().contiguous().numpy())
            sheet.paste(tile.resize((width, height), Image.Resampling.NEAREST), (left + column * (width + gap), y))
    data = io.BytesIO()
    sheet.save(data, "PNG")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with _told_if_full(path):
            partial.write_bytes(data.getvalue())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
