"""The videos of an evaluation, each in a file that is written when it is complete, so that an evaluation can resume."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from biflow.documents import map_array, read_document
from biflow.errors import UserError
from biflow.evaluation.protocol import Protocol
from biflow.evaluation.schemas import Costs
from biflow.files import write_array, write_json
from biflow.machine import commit, hardware
from biflow.model import Model
from biflow.rollout import drain, sample_generators
from biflow.sequences import follow
from biflow.video import to_float

ANEW = "Remove it, and evaluate again to make it anew."


def video_path(out: Path, sample: int) -> Path:
    """The file with the frames of a sample, uint8 (t, h, w, 3). Any reader of clips can read its folder."""
    return out / "videos" / f"{sample:03d}.npy"


def read_video(out: Path, sample: int) -> UInt8[Tensor, "t 3 h w"]:
    """The frames of a sample that is complete. Raises UserError if its file is damaged."""
    frames = map_array(video_path(out, sample), np.uint8, (None, None, None, 3), ANEW)
    return torch.from_numpy(frames.copy()).permute(0, 3, 1, 2)


def costs_path(out: Path, sample: int) -> Path:
    """The file with `nfe` of each frame of a sample, `seconds`, its share of the solving time, and `eps` if it varies.

    It also names the engine, the commit and the hardware that made them, and is written after the frames.
    """
    return out / "costs" / f"{sample:03d}.json"


def read_costs(out: Path, sample: int, frames: int) -> Costs:
    """What a sample of so many frames has cost. Raises UserError if the file is damaged."""
    path = costs_path(out, sample)
    costs = read_document(path, Costs, "does not hold the costs of a video", ANEW)
    for count in map(len, (costs["nfe"], costs.get("eps", costs["nfe"]))):
        if count != frames:
            raise UserError(f"{path} holds the costs of {count} frames, not {frames}. {ANEW}")
    return costs


@dataclass(frozen=True)
class Videos:
    """Videos to generate, all of one length.

    Attributes:
        out: the folder that holds `videos` and `costs`.
        starts: the frame to start from, the newest, after those before it.
        rows: what is done before each frame, NaN for an action that the model is not told; None if it takes none.
        frames: per video, not counting the first frame that is given.
        places: the number of the test clip that each starts from, and the place in it.
    """

    out: Path
    starts: UInt8[Tensor, "n j 3 h w"]
    rows: Float[np.ndarray, "n t k"] | None
    frames: int
    places: Int[np.ndarray, "n 2"]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def first(self) -> UInt8[Tensor, "n 3 h w"]:
        """The frames to start from."""
        return self.starts[:, -1]

    def read(self, sample: int) -> UInt8[Tensor, "t 3 h w"]:
        """The frames of a sample that is complete, without the first one. Raises UserError if its file is damaged."""
        video, wanted = read_video(self.out, sample), (self.frames, *self.starts.shape[2:])
        if tuple(video.shape) != wanted:
            path = video_path(self.out, sample)
            raise UserError(f"{path} holds frames of shape {tuple(video.shape)}, not {wanted}. {ANEW}")
        return video

    def whole(self, sample: int) -> UInt8[Tensor, "t 3 h w"]:
        """The same with the first frame before them."""
        return torch.cat([self.first[sample, None], self.read(sample)])

    def actions(self, part: Sequence[int]) -> Iterator[Any] | None:
        """The actions of these samples, for `stream`."""
        if self.rows is None:
            return None
        return iter(self.rows[part].swapaxes(0, 1))


def generate(
    model: Model, videos: Videos, protocol: Protocol, samples: Sequence[int], *, batch: int, progress: bool
) -> None:
    """Stream those of these samples that the folder does not hold yet, `batch` at a time.

    Raises UserError for a frame that cannot be solved, and for settings that the model does not support.
    """
    out, total, code = videos.out, videos.frames, {"commit": commit(), "hardware": hardware()}
    missing = [i for i in samples if not (costs_path(out, i).exists() and video_path(out, i).exists())]
    settings = {"eps": protocol.eps, "direction": protocol.direction, "solver": protocol.solver}
    for low in range(0, len(missing), batch):
        part = missing[low : low + batch]
        generators = sample_generators(protocol.seed, part)
        first = to_float(videos.starts[part]).to(model.device)
        first = first if first.shape[1] > 1 else first[:, 0]  # several frames are for models of a known shape only
        frames = drain(follow(model, first, actions=videos.actions(part), generators=generators, **settings))
        title = f"{out.name}, {len(missing) - low} to go"
        bar = tqdm(islice(frames, total), title, total, unit="frame", disable=not progress or None)
        shown = ((frame.pixels, frame.nfe, frame.eps, frame.seconds) for frame in bar)
        pixels, nfe, eps, seconds = zip(*shown, strict=True)
        for row, sample in enumerate(part):
            video = torch.stack([frame[row] for frame in pixels])
            for features in out.glob(f"features/*/{sample:03d}.safetensors"):  # of a video that this one replaces
                features.unlink()
            write_array(video_path(out, sample), video.permute(0, 2, 3, 1).numpy())
            costs = {"nfe": [counts[row] for counts in nfe], "seconds": sum(seconds) / len(part)}
            costs |= {"engine": model.engine, **code}
            costs |= {"eps": [round(levels[row], 4) for levels in eps]} if eps[0] else {}
            write_json(costs_path(out, sample), costs, indent=None)
