"""The training frames that are nearest to generated ones: small distances mean that a model memorised its set."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from biflow.data.windows import Windows


def nearest_frames(
    queries: UInt8[Tensor, "b 3 h w"], training: Windows
) -> tuple[Float[Tensor, " b"], list[tuple[int, int]]]:
    """The frame of `training` with the least root mean square difference to each query, found by exhaustive search.

    Returns the differences, in grey levels, and the places (clip, frame) of the frames.
    """
    x = queries.flatten(1).double()
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    places = [(0, 0)] * len(x)
    for clip in range(len(training.clips)):
        for number, part in enumerate(training.clip(clip).split(256)):
            # |x - y|² = |x|² + |y|² - 2 x y, which is exact in float64 for integers of this size.
            y = part.flatten(1).double()
            squares = (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).min(1)
            for row in (squares.values < best).nonzero().flatten().tolist():
                best[row], places[row] = squares.values[row], (clip, 256 * number + int(squares.indices[row]))
    return (best / x.shape[1]).sqrt(), places
