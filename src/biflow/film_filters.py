"""What a frame of a film passes after its decoder: one graph of FFmpeg's filters.

It removes the combs of interlaced film, maps HDR to SDR, makes pixels square and turns the picture upright.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.filter import Graph

from biflow.limits import check_pixels

_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own drop alpha
_SD = 576  # lines of standard definition; untagged film of more is BT.709
_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics, as H.273 numbers them
_BT2020 = 9  # primaries, likewise
# What turns a frame upright, by the signs of (a, b, c, d) in its display matrix (ISO/IEC 14496-12, 8.3.2).
_TURNS = {
    (1, 0, 0, 1): (),
    (-1, 0, 0, -1): (("hflip", ""), ("vflip", "")),
    (-1, 0, 0, 1): (("hflip", ""),),
    (1, 0, 0, -1): (("vflip", ""), ("copy", "")),  # alone it may only point to the rows in another order
    (0, 1, -1, 0): (("transpose", "clock"),),
    (0, -1, 1, 0): (("transpose", "cclock"),),
    (0, 1, 1, 0): (("transpose", "cclock_flip"),),
    (0, -1, -1, 0): (("transpose", "clock_flip"),),
}


class Filters:
    """FFmpeg's decoder of a stream, and its filter graph, which is set up anew where the kind of frames changes."""

    def __init__(self, stream: Any, changes: list[str], name: str):
        self.stream, self.changes, self.name = stream, changes, name
        self.graph: Graph | None = None
        self.kind: tuple = ()
        self.interlaced = False
        other = _ALPHA_DECODERS.get(stream.codec_context.name)
        self.decoder: Any = None
        if other and stream.metadata.get("alpha_mode") == "1":
            self.decoder = av.CodecContext.create(other, "r")
            self.decoder.extradata = stream.codec_context.extradata

    def decode(self, packet: Any) -> list:
        if self.decoder is None:
            return packet.decode()
        return self.decoder.decode(packet if packet.size else None)

    def push(self, frame: Any) -> Iterator[Any]:
        """Give a frame, and take those that are ready: one each, or later where the graph has to know the next ones."""
        self.interlaced |= frame.interlaced_frame
        matrix = next((bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), b"")
        kind = (frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range, frame.color_trc)
        kind = (*kind, frame.color_primaries, matrix, self.interlaced)
        if kind != self.kind:
            yield from self.flush()
            self.graph, self.kind = _linked(frame, self.stream, self._filters(frame, matrix)), kind
        assert self.graph is not None
        self.graph.vpush(frame)
        yield from _pulled(self.graph)

    def flush(self) -> Iterator[Any]:
        if self.graph:
            self.graph.vpush(None)
            yield from _pulled(self.graph)
            self.graph = None

    def _filters(self, frame: Any, matrix: bytes) -> list[tuple[str, str]]:
        filters = []
        if self.interlaced and frame.format.name.startswith("yuv"):
            filters.append(("bwdif", "mode=send_frame:deint=interlaced"))
            self.note("deinterlaced")
        scale, ratio = [], self.stream.sample_aspect_ratio
        if frame.colorspace == 2 and max(frame.height, frame.width * 9 // 16) > _SD:  # 2: not stated
            scale.append("in_color_matrix=bt709")
        if frame.color_trc in _HDR:
            # White of SDR is that of BT.2408, at 203 nits. What is brighter is cut.
            scale.append("out_primaries=bt709:out_transfer=iec61966-2-1:intent=relative_colorimetric")
            self.note(f"mapped from HDR ({_HDR[frame.color_trc]}) to SDR")
        elif frame.color_primaries == _BT2020:
            scale.append("out_primaries=bt709")
        if ratio and ratio != 1 and Fraction(1, 10) < ratio < 10:
            width = max(1, round(frame.width * ratio))
            check_pixels(self.name, width, frame.height)
            scale.append(f"w={width}:h={frame.height}")
            self.note("made square in its pixels")
        filters.append(("scale", ":".join(["flags=bicubic", *scale])))
        alpha = any(component.is_alpha for component in frame.format.components)
        if alpha and self.stream.codec_context.name != "gif":  # which has alpha always
            self.note("put over black where it is transparent")
        turns = _TURNS[_signs(matrix)]
        if turns:
            self.note("turned upright")
        return [*filters, ("format", "rgba" if alpha else "rgb24"), *turns]

    def note(self, change: str) -> None:
        """Record what was done to the film, once."""
        if change not in self.changes:
            self.changes.append(change)


def _signs(matrix: bytes) -> tuple[int, int, int, int]:
    """The nearest of the eight orientations to a display matrix."""
    if not matrix:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (-1 if a < 0 else 1), 0, 0, (-1 if d < 0 else 1)
    return 0, (-1 if b < 0 else 1), (-1 if c < 0 else 1), 0


def _linked(frame: Any, stream: Any, filters: list[tuple[str, str]]) -> Graph:
    graph = Graph()
    graph.threads = 1  # the decoder has the other cores
    source = graph.add_buffer(stream, frame.width, frame.height, frame.format)
    graph.link_nodes(source, *(graph.add(name, arguments) for name, arguments in [*filters, ("buffersink", "")]))
    graph.configure()
    return graph


def _pulled(graph: Graph) -> Iterator[Any]:
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
