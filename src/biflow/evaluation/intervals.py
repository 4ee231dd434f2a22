"""Bootstrap intervals of means and ratios over videos, which are what is independent."""

import torch
from jaxtyping import Float
from torch import Tensor


def redrawn(rows: Float[Tensor, "n *c"], resamples: int, seed: int) -> Float[Tensor, "b *c"]:
    """The mean of the rows, one a video, if videos are drawn anew with replacement `resamples` times (Efron 1979)."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(rows), (resamples, len(rows)), generator=generator)
    return torch.stack([rows[draw].double().mean(0) for draw in draws])


def interval(drawn: Float[Tensor, " b"]) -> list[float]:
    """The 95 % percentile interval."""
    return [float(drawn.quantile(share)) for share in (0.025, 0.975)]


def of_mean(values: Float[Tensor, " n"], resamples: int, seed: int) -> list[float]:
    """The interval of the mean of a value per video."""
    return interval(redrawn(values, resamples, seed))


def of_ratio(x: Float[Tensor, "n 2"], y: Float[Tensor, "m 2"], resamples: int, seed: int) -> list[float]:
    """The interval of a mean in one set of videos over that in another. A row is the sum and the count of a video.

    Videos that count nothing, such as clips without actions, are not drawn.
    """
    counting = [rows[rows[:, 1] > 0] for rows in (x, y)]
    over, under = (redrawn(rows, resamples, seed + number).unbind(1) for number, rows in enumerate(counting))
    return interval((over[0] / over[1]) / (under[0] / under[1]))
