"""What an evaluation computes of each video: features, in a file for each.

A file is written when it is complete, so that an interrupted evaluation can resume. The features of real videos are in
the user's cache, as all models share them.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from biflow.data.windows import Windows, evenly
from biflow.errors import UserError
from biflow.evaluation.networks.features import Features
from biflow.evaluation.protocol import Protocol
from biflow.evaluation.videos import Videos
from biflow.files import cache_folder, write_tensors
from biflow.tensors import read_tensors


@dataclass(frozen=True)
class Evaluation:
    """What the parts of an evaluation share.

    Attributes:
        protocol: its settings.
        record: what `biflow.evaluation.protocol.full_record` says of it.
        test: the test split.
        videos: those that are compared with it.
        short: the short videos of `biflow.evaluation.past_and_actions`, by name.
        period: pixels after which a texture that the network leaves would repeat: its patch.
        out: the folder of its files.
    """

    protocol: Protocol
    record: dict
    test: Windows
    videos: Videos
    short: dict[str, Videos]
    period: int
    out: Path

    @property
    def first(self) -> UInt8[Tensor, "n 3 h w"]:
        """The first frame of each sample."""
        return self.videos.first


@dataclass(frozen=True)
class Job:
    """The features of one video.

    Attributes:
        path: the file of the features.
        network: computes them.
        read: reads the video.
        starts: first frames of the clips.
        span: frames per clip.
        backward: whether the video runs backward in time. Its clips are turned round, to be compared with real ones.
    """

    path: Path
    network: Features
    read: Callable[[], UInt8[Tensor, "t 3 h w"]]
    starts: Sequence[int]
    span: int
    backward: bool = False

    def features(self, batch: int = 1) -> Float[Tensor, "n d"]:
        """The features, which are written to the file if it does not exist.

        Raises UserError for features that are not finite.
        """
        if not self.path.exists():
            video = self.read()
            clips = (video[start : start + self.span] for start in self.starts)
            clips = (clip.flip(0) for clip in clips) if self.backward else clips
            write_tensors(self.path, {"features": compute(self.network, clips, batch, str(self.path))})
        expected = {"features": torch.empty(len(self.starts), self.network.dim, device="meta")}
        try:
            return read_tensors(self.path, expected, what="a file of features")["features"]
        except UserError as error:
            raise UserError(f"{error} Remove it, and evaluate again to make it anew.") from error


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


def jobs(name: str, network: Features, evaluation: Evaluation) -> tuple[list[Job], list[Job]]:
    """The jobs of a network for the real videos and for the generated ones."""
    protocol, test, out, videos = evaluation.protocol, evaluation.test, evaluation.out, evaluation.videos
    span = network.span or protocol.window
    if network.span:
        real = {clip: sampled(entry["frames"], protocol, span) for clip, entry in enumerate(test.clips)}
        starts = sampled(protocol.frames, protocol, span)
    else:
        real, starts = real_windows(test, protocol), list(protocol.starts(protocol.frames))
    depends_on = [evaluation.record["data"]["sha256"], network.record(), span, sorted(real.items())]
    key = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:32]
    backward = protocol.direction == "backward"
    cache, folder = cache_folder() / "evaluation" / key, out / "features" / f"{name}{'_turned' * backward}"
    return [
        Job(cache / f"{clip:05d}.safetensors", network, lambda clip=clip: test.clip(clip), starts, span)
        for clip, starts in sorted(real.items())
        if starts
    ], [
        Job(folder / f"{i:03d}.safetensors", network, lambda i=i: videos.read(i), starts, span, backward)
        for i in range(protocol.samples)
    ]


def sampled(length: int, protocol: Protocol, span: int) -> list[int]:
    """The first frames of the clips of `span` frames that end with every `frame_stride`-th frame of a video."""
    return list(range(-span % protocol.frame_stride, length - span + 1, protocol.frame_stride))


def real_windows(test: Windows, protocol: Protocol) -> dict[int, list[int]]:
    """The first frames of the real windows, by clip. Raises UserError if there are fewer than 2."""
    every = [(number, start) for number, clip in enumerate(test.clips) for start in protocol.starts(clip["frames"])]
    if len(every) < 2:
        found = f"{len(every)} of {protocol.window} frames; its longest clip has {max(c['frames'] for c in test.clips)}"
        hint = "Prepare more or longer clips, or use a protocol with a smaller window."
        raise UserError(f"A distance needs at least 2 windows, but the test split of {test.root} has {found}. {hint}")
    picks = evenly(len(every), protocol.real_windows or len(every))
    windows: dict[int, list[int]] = {}
    for number, start in (every[pick] for pick in picks):
        windows.setdefault(number, []).append(start)
    return windows
