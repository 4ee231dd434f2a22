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
from biflow.files import write_array, write_json
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
    settings = {"eps": protocol.eps, "direction": protocol.direction, "solver": protocol.solver}
    for low in range(0, len(missing), batch):
        part = missing[low : low + batch]
        generators = sample_generators(protocol.seed, part)
        frames = drain(stream(model, to_float(first[part]).to(model.device), generators=generators, **settings))
        title, total = f"videos, {len(missing) - low} to go", protocol.frames
        bar = tqdm(islice(frames, total), title, total, unit="frame", disable=not progress or None)
        pixels, nfe, seconds = zip(*((frame.pixels, frame.nfe, frame.seconds) for frame in bar), strict=True)
        for row, sample in enumerate(part):
            video = torch.stack([frame[row] for frame in pixels])
            write_array(video_path(out, sample), video.permute(0, 2, 3, 1).numpy())
            costs = {"nfe": [counts[row] for counts in nfe], "seconds": sum(seconds) / len(part)}
            write_json(costs_path(out, sample), costs, indent=None)
