"""The features of an evaluation, each video's kept as it is done: real ones in the user's cache, for every model."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from biflow.data.pairs import FramePairs
from biflow.errors import UserError
from biflow.evaluation.generate import read_video
from biflow.evaluation.networks.features import Features
from biflow.evaluation.protocol import Protocol
from biflow.files import cache_folder, write_tensors


@dataclass(frozen=True)
class Job:
    """The features of one video: the clips of `span` frames that begin at `starts`, kept in `path`."""

    path: Path
    read: Callable[[], UInt8[Tensor, "t 3 h w"]]
    starts: Sequence[int]
    span: int

    def run(self, network: Features, batch: int, bar: tqdm) -> None:
        """Compute what is not kept yet. Raises UserError for features that are not finite."""
        if self.path.exists():
            bar.update(len(self.starts))
            return
        video, rows = self.read(), []
        for low in range(0, len(self.starts), batch):
            clips = torch.stack([video[start : start + self.span] for start in self.starts[low : low + batch]])
            rows.append(network.compute(clips))
            if not torch.isfinite(rows[-1]).all():
                raise UserError(f"{network.name} of {self.path.stem} is not finite; remove {self.path.parents[1]}.")
            bar.update(len(clips))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(self.path, {"features": torch.cat(rows)})

    def features(self) -> Float[Tensor, "n d"]:
        """What was kept."""
        return load_file(self.path)["features"]


def sampled(length: int, protocol: Protocol, span: int) -> list[int]:
    """The first frames of the clips of a video that networks of frames (span 1) or pairs of frames (2) are given."""
    last = range(protocol.frame_stride - 1, length, protocol.frame_stride)
    return [index - span + 1 for index in last if index - span + 1 >= 0]


def jobs(
    network: str, features: Features, protocol: Protocol, said: dict, test: FramePairs, windows: dict, out: Path
) -> tuple[list[Job], list[Job]]:
    """What `network` is to see: of real videos, and of generated ones. `windows` are the real ones to take."""
    span = features.span or protocol.window
    if features.span:
        real = {clip: sampled(entry["frames"], protocol, span) for clip, entry in enumerate(test.clips)}
        starts = sampled(protocol.frames, protocol, span)
    else:
        real, starts = windows, list(protocol.starts)
    depends_on = [said["data"]["sha256"], features.record(), span, sorted(real.items())]
    key = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:32]
    cache = cache_folder() / "evaluation" / key
    return [
        Job(cache / f"{clip:05d}.safetensors", lambda clip=clip: test.clip(clip), starts, span)
        for clip, starts in sorted(real.items())
        if starts
    ], [
        Job(out / "features" / network / f"{i:03d}.safetensors", lambda i=i: read_video(out, i), starts, span)
        for i in range(protocol.samples)
    ]
