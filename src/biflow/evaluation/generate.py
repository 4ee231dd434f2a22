"""The videos of an evaluation, each kept as it is done, so that an interrupted run goes on at the next one."""

import json
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from biflow.errors import UserError
from biflow.evaluation.protocol import Protocol
from biflow.files import write_array, write_json
from biflow.networks import VideoUNet
from biflow.paths import Fields
from biflow.rollout import sample_generators, stream
from biflow.solvers import SolverError
from biflow.video import to_float, to_uint8


def video_path(out: Path, sample: int) -> Path:
    """Of the frames of a sample, a uint8 array (t, h, w, 3); any reader of clips takes the folder."""
    return out / "videos" / f"{sample:03d}.npy"


def read_video(out: Path, sample: int) -> UInt8[Tensor, "t 3 h w"]:
    """The frames of a sample that is done."""
    return torch.from_numpy(np.load(video_path(out, sample))).permute(0, 3, 1, 2)


def read_costs(out: Path, sample: int) -> dict:
    """Of a sample that is done: `nfe`, a number a frame, and `seconds`, its share of the time that solving took."""
    return json.loads(_costs_path(out, sample).read_text())


def _costs_path(out: Path, sample: int) -> Path:
    return out / "costs" / f"{sample:03d}.json"


def generate(
    model: VideoUNet,
    fields: Callable[..., Fields],
    first: UInt8[Tensor, "n 3 h w"],
    protocol: Protocol,
    out: Path,
    samples: Iterable[int],
    *,
    batch: int,
    bar: tqdm,
) -> None:
    """Stream the videos of `samples`, numbers into `first`, that are not in `out` yet, `batch` at once.

    Raises UserError for a solver that gives up, and for what the model cannot do.
    """
    device = next(model.parameters()).device
    for folder in (video_path(out, 0).parent, _costs_path(out, 0).parent):
        folder.mkdir(parents=True, exist_ok=True)
    missing = []
    for sample in samples:  # the costs are written last
        if _costs_path(out, sample).exists() and video_path(out, sample).exists():
            bar.update(protocol.frames)
        else:
            missing.append(sample)
    for part in (missing[low : low + batch] for low in range(0, len(missing), batch)):
        made = stream(
            model,
            to_float(first[part]).to(device),
            generators=sample_generators(protocol.seed, part),
            eps=protocol.eps,
            direction=protocol.direction,
            solver=protocol.solver,
            fields=fields,
        )
        videos = np.empty((len(part), protocol.frames, *first.shape[-2:], 3), np.uint8)
        nfe, seconds = [], 0.0
        try:
            begun = time.perf_counter()
            for index, frame in enumerate(islice(made, protocol.frames)):
                pixels = to_uint8(frame.x).cpu()
                seconds += time.perf_counter() - begun  # the copy waited for the device
                videos[:, index] = pixels.permute(0, 2, 3, 1).numpy()
                nfe.append(frame.nfe.tolist())
                bar.update(len(part))
                begun = time.perf_counter()
        except SolverError as error:
            raise UserError(f"Frame {len(nfe) + 1} of the videos {part} could not be solved: {error}") from error
        for row, sample in enumerate(part):
            write_array(video_path(out, sample), videos[row])
            costs = {"nfe": [evaluations[row] for evaluations in nfe], "seconds": seconds / len(part)}
            write_json(_costs_path(out, sample), costs, indent=None)
