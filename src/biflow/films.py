"""Decode films: any container and codec of FFmpeg's that people have, as upright RGB frames with square pixels."""

import contextlib
import itertools
import logging
import statistics
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.stream import Disposition
from jaxtyping import UInt8
from torch import Tensor

from biflow.config.checks import RATES
from biflow.errors import UserError
from biflow.files import reading
from biflow.film_filters import Filters
from biflow.limits import OPENING, READING, check_pixels, length, little_memory, most_pixels, open_regular
from biflow.video import Bytes, over_black

log = logging.getLogger("biflow")
Frames = Generator[UInt8[Tensor, "3 h w"], None, None]  # decoded one at a time

_ENDINGS = (
    "mp4 m4v mov qt 3gp 3g2 mj2 insv mkv webm avi divx gif mpg mpeg mpe m1v m2v vob ts mts m2ts m2t tp trp wmv asf "
    "wtv flv f4v ogv ogg ogm dv mxf rm rmvb nut nsv roq bik fli flc amv swf y4m ivf h264 264 avc h265 265 hevc obu av1 "
    "vc1 mjpg mjpeg"
)
VIDEO_SUFFIXES = frozenset(f".{ending}" for ending in _ENDINGS.split())
# FFmpeg's names of the formats that such files have. None refers to other files or to the network, as playlists do.
_FORMATS = (
    "mov,mp4,matroska,webm,avi,gif,mpeg,mpegts,mpegvideo,m4v,asf,flv,live_flv,ogg,dv,mxf,rm,yuv4mpegpipe,ivf,h264,hevc,"
    "obu,av1,mjpeg,nut,nsv,wtv,roq,bink,flic,vc1,amv,swf"
)
_NOT_THE_FILM = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
_STILLS = ("mjpeg", "png", "bmp", "gif", "webp")  # codecs of covers that are not marked as such
_NTSC = (24000 / 1001, 30000 / 1001, 60000 / 1001)
_LARGE = 3840 * 2160  # pixels of a frame
_PROBED = 100  # time stamps that tell the rate
BREAK = 60.0  # seconds without a frame that are left out: the clock was set, or the recorder was off


@dataclass
class Video:
    """A clip whose frames are read once, in order.

    Attributes:
        frames: the frames, decoded one at a time. Close it to stop early.
        fps: frames per second; None if unknown. Where the rate varies, the usual one.
        length: number of frames, which may be an estimate; None if unknown.
        part: name of the clip within its file, such as "[3]", if the file holds several.
        actions: (n, k), what was done after each frame, if the file holds that too.
        times: the second at which each frame that was read so far is shown, and after the last one the second at which
            it ends. None for clips without time stamps.
        changes: what was done to the frames that were read so far, such as "deinterlaced".
    """

    frames: Frames
    fps: float | None
    length: int | None = None
    part: str = ""
    actions: np.ndarray | None = None
    times: list[float] | None = None
    changes: list[str] = field(default_factory=list)


def decode(file: str | Path | Bytes, name: str | None = None) -> Video:
    """Open a film and stream its frames, one in memory at a time.

    Raises:
        UserError: here or while frames are read, if the file is damaged or not a film. Damage that a decoder would hide
            is damage too.
    """
    name = name or str(file)
    with _open(file, name) as container:
        fps = _rate(container, _film(container, name))
    container = _open(file, name)
    stream = _film(container, name)
    length = stream.frames or None
    if length is None and stream.average_rate and container.duration and fps:
        length = max(1, round(container.duration / 1e6 * min(fps, float(stream.average_rate))))
    times, changes = [], []
    frames = _frames(container, Filters(stream, changes, name), name, fps, length, times)
    return Video(frames, fps, length, times=times, changes=changes)


def _open(file: str | Path | Bytes, name: str) -> Any:
    source: Any = file
    if isinstance(file, str | Path):
        with open_regular(Path(file), name) as opened:
            size = length(opened)
        source = f"file:{file}"  # or "12:30.mp4" would be a protocol called 12
    else:
        size = length(file)
        file.seek(0)
    options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
    with reading(name, "cannot be opened as a video", "It is damaged or not a video."), little_memory():
        return av.open(
            source,
            options={"max_pixels": str(most_pixels(size))},
            container_options=options,
            metadata_errors="replace",
            timeout=(OPENING, READING),
        )


def _film(container: Any, name: str) -> Any:
    """The stream of the film: not a cover picture, nor a thumbnail."""
    films = [stream for stream in container.streams.video if not stream.disposition & _NOT_THE_FILM]
    if not films:
        what = "only a cover picture" if container.streams.video else "no video stream"
        container.close()
        raise UserError(f"{name} has {what}.")
    if not (films := [stream for stream in films if stream.codec_context]):
        container.close()
        raise UserError(f"{name} has a codec that FFmpeg cannot decode. Convert it to H.264.")

    def likely(stream: Any) -> tuple:
        still = stream.frames == 1 or stream.codec_context.name in _STILLS
        return not still, stream.disposition & Disposition.default, stream.width * stream.height

    stream = max(films, key=likely)
    try:
        check_pixels(name, stream.width, stream.height, container.size)
    except UserError:
        container.close()
        raise
    large = stream.width * stream.height > _LARGE  # each thread of another kind holds a frame of its own
    stream.thread_type = "SLICE" if large else "AUTO"
    stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(most_pixels(container.size))}
    return stream


def _rate(container: Any, stream: Any) -> float | None:
    """The usual number of frames per second by the first time stamps. Where the stated one agrees, it is exact."""
    stated = [float(rate) for rate in (stream.base_rate, stream.average_rate) if rate]
    stamps = list(itertools.islice(_stamps(container, stream), _PROBED))
    gaps = [gap for gap in np.diff(np.sort(stamps)) if gap > 0]
    if not gaps:
        return next((rate for rate in stated[::-1] if RATES[0] <= rate <= RATES[1]), None)
    rate = 1 / usual_interval(gaps)
    rate = next((other for other in stated if abs(other / rate - 1) < 0.02), rate)
    if not RATES[0] <= rate <= RATES[1]:
        return None
    near = min((float(round(rate)), *_NTSC), key=lambda other: abs(rate - other))
    return round(near if abs(rate / near - 1) < 2e-3 else rate, 3) if near else round(rate, 3)


def _stamps(container: Any, stream: Any) -> Iterator[float]:
    """The time stamps of packets, which need no decoding; those of frames where a packet may hold one field of two."""
    fields = container.format.name in ("mpegts", "mpeg") and stream.codec_context.name in ("h264", "mpeg2video")
    with contextlib.suppress(av.FFmpegError):  # damage, as reading will say
        for packet in _packets(container, stream):
            if not fields and packet.pts is not None and not packet.is_discard:
                yield float(packet.pts * packet.time_base)
            elif fields:
                yield from (frame.time for frame in packet.decode() if frame.time is not None)


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    packets = container.demux(stream)
    while True:
        try:
            with little_memory():  # headers may come between packets
                packet = next(packets, None)
        except IndexError:  # at the end, where PyAV flushes streams too that have begun in the middle
            return
        if packet is None:
            return
        yield packet


def usual_interval(gaps: Sequence[float]) -> float:
    """The mean of the intervals between frames that are near their median.

    A phone in the dark, a pause of a screen recording or a picture that a GIF holds makes some of them longer.
    """
    usual = statistics.median_low(gaps)  # of two, the shorter one
    return statistics.fmean(gap for gap in gaps if abs(gap / usual - 1) < 0.25)


def _frames(
    container: Any, filters: Filters, name: str, fps: float | None, length: int | None, times: list[float]
) -> Frames:
    packets, end, interval, begun, shift = 0, 0.0, 1 / fps if fps else 0.0, False, 0.0
    joined = container.format.name == "mpegts"  # whose packets are also marked where recordings were joined
    try:
        with container:
            for packet in _packets(container, filters.stream):
                if packet.is_corrupt and not joined:
                    raise UserError(f"{name} is damaged or cut short. Fetch or encode it again.")
                packets += packet.size > 0 or packet.dts is not None  # an AVI has empty ones for dropped frames
                begun |= packet.is_keyframe
                if packet.size and not begun:
                    continue  # what comes before the first key frame, where a broadcast was cut, shows nothing
                for frame in filters.decode(packet):
                    if frame.is_corrupt:
                        raise UserError(f"{name} is damaged: frame {len(times)} cannot be decoded in full.")
                    start = frame.time
                    if start is not None and start < 0:
                        continue  # before the beginning, as after a cut without encoding anew
                    usual = times[-1] + interval if times else 0.0
                    start = usual if start is None else start - shift
                    if times and not -1 < start - usual < BREAK:
                        shift, start = shift + start - usual, usual
                        filters.note("taken without breaks in its time stamps")
                    start = usual if times and start <= times[-1] else start
                    times.append(start)
                    lasting = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
                    end = start + (lasting if interval / 2 < lasting < BREAK else interval)
                    yield from map(_pixels, filters.push(frame))
            yield from map(_pixels, filters.flush())
    except av.ArgumentError as error:  # what decoders say to frames beyond max_pixels
        raise UserError(f"{name} is damaged, or has frames of far too many pixels.") from error
    except av.FFmpegError as error:
        raise UserError(f"{name} is damaged ({error.strerror}). Fetch or encode it again.") from error
    times.append(end)
    if length and packets < 0.9 * length:  # no error, because sound may last longer than the pictures
        log.warning("%s ends after %d of about %d frames; it may be cut short.", name, packets, length)


def _pixels(frame: Any) -> UInt8[Tensor, "3 h w"]:
    plane, (channels, height, width) = frame.planes[0], (len(frame.format.components), frame.height, frame.width)
    rows = torch.frombuffer(plane, dtype=torch.uint8).view(-1, plane.line_size)[:height, : width * channels]
    pixels = rows.view(height, width, channels).permute(2, 0, 1)  # not copied yet
    if len(pixels) == 4:  # over black. The filter premultiply does the same, but makes 254 of 255.
        pixels = over_black(pixels)
    return pixels.contiguous()
