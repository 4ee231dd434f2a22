"""Small films as phones, browsers, camcorders and editors write them."""

import struct
from fractions import Fraction

import av
import numpy as np

RED, GREEN, BLUE, YELLOW = (200, 60, 40), (40, 180, 60), (50, 70, 200), (200, 200, 60)


def quadrants(height=64, width=64):
    """(h, w, 3): red and green above blue and yellow."""
    picture = np.zeros((height, width, 3), np.uint8)
    half_h, half_w = height // 2, width // 2
    picture[:half_h, :half_w], picture[:half_h, half_w:] = RED, GREEN
    picture[half_h:, :half_w], picture[half_h:, half_w:] = BLUE, YELLOW
    return picture


def middles(frame):
    """The colours in the middle of the quadrants of a frame (3, h, w), as `quadrants` orders them."""
    h, w = frame.shape[-2:]
    return [frame[:, y, x].tolist() for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]


def grey(level, height=32, width=48):
    return np.full((height, width, 3), level, np.uint8)


def write_film(
    path,
    pictures,
    *,
    fps=25,
    times=None,
    codec="libx264",
    pixels="yuv420p",
    options=None,
    container=None,
    form=None,
    ratio=None,
    tags=None,
):
    """Write uint8 pictures, (h, w, 3) or (h, w, 4), or frames of PyAV, shown at `times` in seconds or `fps`."""
    with av.open(f"file:{path}", "w", format=form, options=container or {}) as out:
        stream = None
        for number, picture in enumerate(pictures):
            if isinstance(picture, np.ndarray):
                kind = "rgba" if picture.shape[-1] == 4 else "rgb24"
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=kind)
            if stream is None:
                stream = out.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
                stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, pixels
                stream.options = options or ({"crf": "5", "bf": "0"} if codec == "libx264" else {})
                if times is not None:
                    stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
                if ratio:
                    stream.codec_context.sample_aspect_ratio = ratio
                for name, value in (tags or {}).items():
                    setattr(stream.codec_context, name, value)
            base = stream.codec_context.time_base or 1 / Fraction(fps).limit_denominator(1001)
            picture.time_base, picture.pts = base, number if times is None else round(times[number] / base)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return path


def set_display_matrix(path, a, b, c, d):
    """Write a display matrix into the track header of an mp4 (ISO/IEC 14496-12, 8.3.2)."""
    data, one = bytearray(path.read_bytes()), 1 << 16
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def of_planes(planes, form):
    """A frame of PyAV with exactly these planes, (h, w) uint8 or uint16."""
    frame = av.VideoFrame(*planes[0].shape[::-1], form)
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(plane, values.dtype).reshape(-1, plane.line_size // values.itemsize)
        rows[: len(values), : values.shape[1]] = values
    return frame
