"""The features of an evaluation, one file per video. Those of real videos are cached, as all models share them."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from biflow.data.windows import Windows
from biflow.errors import UserError
from biflow.evaluation.generate import read_video
from biflow.evaluation.networks.features import Features
from biflow.evaluation.protocol import Protocol
from biflow.files import cache_folder, read_tensors, write_tensors


@dataclass(frozen=True)
class Job:
    """The features of one video.

    Attributes:
        path: the file of the features.
        network: computes them.
        read: reads the video.
        starts: first frames of the clips.
        span: frames per clip.
    """

    path: Path
    network: Features
    read: Callable[[], UInt8[Tensor, "t 3 h w"]]
    starts: Sequence[int]
    span: int

    def run(self, batch: int) -> None:
        """Write the file, unless it exists. Raises UserError for features that are not finite."""
        if not self.path.exists():
            video = self.read()
            clips = (video[start : start + self.span] for start in self.starts)
            write_tensors(self.path, {"features": compute(self.network, clips, batch, str(self.path))})

    def features(self) -> Float[Tensor, "n d"]:
        """The features in the file."""
        return read_tensors(self.path)["features"]


def compute(
    network: Features, clips: Iterable[UInt8[Tensor, "t 3 h w"]], batch: int, source: str
) -> Float[Tensor, "n d"]:
    """The features of clips, `batch` at a time. Raises UserError, naming the `source`, if they are not finite."""
    clips, rows = iter(clips), [torch.empty(0, network.dim)]
    while part := list(islice(clips, batch)):
        rows.append(network.compute(torch.stack(part)))
        if not torch.isfinite(rows[-1]).all():
            raise UserError(f"{network.name}: features of {source} are not finite; look for damaged frames there.")
    return torch.cat(rows)


def jobs(
    name: str, network: Features, protocol: Protocol, record: dict, test: Windows, out: Path
) -> tuple[list[Job], list[Job]]:
    """The jobs of a network for the real videos and for the generated ones. `record` is that of the protocol."""
    span = network.span or protocol.window
    if network.span:
        real = {clip: sampled(entry["frames"], protocol, span) for clip, entry in enumerate(test.clips)}
        starts = sampled(protocol.frames, protocol, span)
    else:
        real, starts = real_windows(test, protocol), list(protocol.starts)
    depends_on = [record["data"]["sha256"], network.record(), span, sorted(real.items())]
    key = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:32]
    cache = cache_folder() / "evaluation" / key
    return [
        Job(cache / f"{clip:05d}.safetensors", network, lambda clip=clip: test.clip(clip), starts, span)
        for clip, starts in sorted(real.items())
        if starts
    ], [
        Job(out / "features" / name / f"{i:03d}.safetensors", network, lambda i=i: read_video(out, i), starts, span)
        for i in range(protocol.samples)
    ]


def sampled(length: int, protocol: Protocol, span: int) -> list[int]:
    """The first frames of the clips of `span` frames that end with every `frame_stride`-th frame of a video."""
    starts = range(protocol.frame_stride - span, length - span + 1, protocol.frame_stride)
    return [start for start in starts if start >= 0]


def real_windows(test: Windows, protocol: Protocol) -> dict[int, list[int]]:
    """The first frames of the real windows, by clip. Raises UserError if there are fewer than 2."""
    every = [
        (number, start)
        for number, clip in enumerate(test.clips)
        for start in range(0, clip["frames"] - protocol.window + 1, protocol.stride)
    ]
    if len(every) < 2:
        found = f"{len(every)} of {protocol.window} frames; its longest clip has {max(c['frames'] for c in test.clips)}"
        hint = "Prepare more or longer clips, or use a protocol with a smaller window."
        raise UserError(f"A distance needs at least 2 windows, but the test split of {test.root} has {found}. {hint}")
    picks = np.linspace(0, len(every) - 1, min(len(every), protocol.real_windows or len(every))).round().astype(int)
    windows: dict[int, list[int]] = {}
    for number, start in (every[pick] for pick in picks):
        windows.setdefault(number, []).append(start)
    return windows
