"""Which training frame a generated one is nearest to: a model that has learned its set by heart shows here."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from biflow.data.pairs import FramePairs


@dataclass(frozen=True)
class Nearest:
    """The nearest training frames: their rms distances in grey levels, and clip and frame of each."""

    distance: Float[Tensor, " b"]
    clip: list[int]
    frame: list[int]


def nearest_frames(queries: UInt8[Tensor, "b 3 h w"], training: FramePairs) -> Nearest:
    """The frame of `training` with the least root mean square difference to each query, by looking at all of them."""
    x = queries.flatten(1).double()
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    where = [(0, 0)] * len(x)
    for clip in range(len(training.clips)):
        for start, part in zip(range(0, 10**9, 256), training.clip(clip).split(256), strict=False):
            # |x - y|² = |x|² + |y|² - 2 x y; float64 keeps it exact for integers of this size.
            y = part.flatten(1).double()
            squares = (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).min(1)
            for row in (squares.values < best).nonzero().flatten().tolist():
                best[row], where[row] = squares.values[row], (clip, start + int(squares.indices[row]))
    distance = (best / x.shape[1]).sqrt()
    return Nearest(distance, [clip for clip, _ in where], [frame for _, frame in where])
