"""The videos of an evaluation. Each is written when it is complete, so that an interrupted evaluation can resume."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from biflow.evaluation.protocol import Protocol
from biflow.files import read_json, write_array, write_json
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
    """The file with the costs of a sample, which is written after its frames."""
    return out / "costs" / f"{sample:03d}.json"


def read_costs(out: Path, sample: int) -> dict:
    """The costs of a sample that is complete: `nfe` of each frame, and `seconds`, its share of the solving time."""
    return read_json(costs_path(out, sample))


def generate(
    model: Model,
    first: UInt8[Tensor, "n 3 h w"],
    protocol: Protocol,
    out: Path,
    samples: Sequence[int],
    *,
    batch: int,
    progress: bool,
) -> None:
    """Stream the videos of `samples`, indices into `first`, that `out` does not hold yet, `batch` at a time.

    Raises UserError for a frame that cannot be solved, and for settings that the model does not support.
    """
    missing = [i for i in samples if not (costs_path(out, i).exists() and video_path(out, i).exists())]
    total, done = (number * protocol.frames for number in (len(samples), len(samples) - len(missing)))
    hidden = None if progress else True
    with tqdm(total=total, initial=done, unit="frame", desc="streaming", disable=hidden) as bar:
        for low in range(0, len(missing), batch):
            _generate_batch(model, first, protocol, out, missing[low : low + batch], bar)


def _generate_batch(model: Model, first: Tensor, protocol: Protocol, out: Path, samples: list[int], bar: tqdm) -> None:
    frames = stream(
        model,
        to_float(first[samples]).to(model.device),
        generators=sample_generators(protocol.seed, samples),
        eps=protocol.eps,
        direction=protocol.direction,
        solver=protocol.solver,
    )
    videos = np.empty((len(samples), protocol.frames, *first.shape[-2:], 3), np.uint8)
    nfe, seconds = np.empty((len(samples), protocol.frames), np.int64), 0.0
    for index, frame in enumerate(islice(drain(frames), protocol.frames)):
        videos[:, index] = frame.pixels.permute(0, 2, 3, 1).numpy()
        nfe[:, index] = frame.nfe
        seconds += frame.seconds
        bar.update(len(samples))
    for row, sample in enumerate(samples):
        write_array(video_path(out, sample), videos[row])
        costs = {"nfe": nfe[row].tolist(), "seconds": seconds / len(samples)}
        write_json(costs_path(out, sample), costs, indent=None)
