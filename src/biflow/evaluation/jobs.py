"""What an evaluation keeps of each video: its frames, its costs and its features, each in a file.

A file is written when it is complete, so that an interrupted evaluation can resume. The features of real videos are in
the user's cache, as all models share them.
"""

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
from tqdm import tqdm

from biflow.data.windows import Windows
from biflow.errors import UserError
from biflow.evaluation.networks.features import Features
from biflow.evaluation.protocol import Protocol
from biflow.files import cache_folder, read_tensors, write_array, write_json, write_tensors
from biflow.model import Model
from biflow.rollout import drain, sample_generators, stream
from biflow.video import to_float


def video_path(out: Path, sample: int) -> Path:
    """The file with the frames of a sample, uint8 (t, h, w, 3). Any reader of clips can read its folder."""
    return out / "videos" / f"{sample:03d}.npy"


def read_video(out: Path, sample: int) -> UInt8[Tensor, "t 3 h w"]:
    """The frames of a sample that is complete."""
    return torch.from_numpy(np.load(video_path(out, sample))).permute(0, 3, 1, 2)


def costs_path(out: Path, sample: int) -> Path:
    """The file with `nfe` of each frame of a sample, and `seconds`, its share of the solving time.

    It is written after the frames.
    """
    return out / "costs" / f"{sample:03d}.json"


@dataclass(frozen=True)
class Evaluation:
    """What the parts of an evaluation share.

    Attributes:
        protocol: its settings.
        record: what `biflow.evaluation.protocol.full_record` says of it.
        test: the test split.
        first: the first frame of each sample.
        out: the folder of its files.
    """

    protocol: Protocol
    record: dict
    test: Windows
    first: UInt8[Tensor, "n 3 h w"]
    out: Path


def generate(model: Model, evaluation: Evaluation, samples: Sequence[int], *, batch: int, progress: bool) -> None:
    """Stream the videos of these samples that the folder does not hold yet, `batch` at a time, and write `first.npy`.

    Raises UserError for a frame that cannot be solved, and for settings that the model does not support.
    """
    protocol, out = evaluation.protocol, evaluation.out
    write_array(out / "first.npy", evaluation.first.numpy())
    missing = [i for i in samples if not (costs_path(out, i).exists() and video_path(out, i).exists())]
    settings = {"eps": protocol.eps, "direction": protocol.direction, "solver": protocol.solver}
    for low in range(0, len(missing), batch):
        part = missing[low : low + batch]
        generators = sample_generators(protocol.seed, part)
        first = to_float(evaluation.first[part]).to(model.device)
        frames = drain(stream(model, first, generators=generators, **settings))
        title, total = f"videos, {len(missing) - low} to go", protocol.frames
        bar = tqdm(islice(frames, total), title, total, unit="frame", disable=not progress or None)
        pixels, nfe, seconds = zip(*((frame.pixels, frame.nfe, frame.seconds) for frame in bar), strict=True)
        for row, sample in enumerate(part):
            video = torch.stack([frame[row] for frame in pixels])
            write_array(video_path(out, sample), video.permute(0, 2, 3, 1).numpy())
            costs = {"nfe": [counts[row] for counts in nfe], "seconds": sum(seconds) / len(part)}
            write_json(costs_path(out, sample), costs, indent=None)


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

    def features(self, batch: int = 1) -> Float[Tensor, "n d"]:
        """The features, which are written to the file if it does not exist.

        Raises UserError for features that are not finite.
        """
        if not self.path.exists():
            video = self.read()
            clips = (video[start : start + self.span] for start in self.starts)
            write_tensors(self.path, {"features": compute(self.network, clips, batch, str(self.path))})
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


def jobs(name: str, network: Features, evaluation: Evaluation) -> tuple[list[Job], list[Job]]:
    """The jobs of a network for the real videos and for the generated ones."""
    protocol, test, out = evaluation.protocol, evaluation.test, evaluation.out
    span = network.span or protocol.window
    if network.span:
        real = {clip: sampled(entry["frames"], protocol, span) for clip, entry in enumerate(test.clips)}
        starts = sampled(protocol.frames, protocol, span)
    else:
        real, starts = real_windows(test, protocol), list(protocol.starts(protocol.frames))
    depends_on = [evaluation.record["data"]["sha256"], network.record(), span, sorted(real.items())]
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
    return list(range(-span % protocol.frame_stride, length - span + 1, protocol.frame_stride))


def real_windows(test: Windows, protocol: Protocol) -> dict[int, list[int]]:
    """The first frames of the real windows, by clip. Raises UserError if there are fewer than 2."""
    every = [(number, start) for number, clip in enumerate(test.clips) for start in protocol.starts(clip["frames"])]
    if len(every) < 2:
        found = f"{len(every)} of {protocol.window} frames; its longest clip has {max(c['frames'] for c in test.clips)}"
        hint = "Prepare more or longer clips, or use a protocol with a smaller window."
        raise UserError(f"A distance needs at least 2 windows, but the test split of {test.root} has {found}. {hint}")
    picks = np.linspace(0, len(every) - 1, min(len(every), protocol.real_windows or len(every))).round().astype(int)
    windows: dict[int, list[int]] = {}
    for number, start in (every[pick] for pick in picks):
        windows.setdefault(number, []).append(start)
    return windows
