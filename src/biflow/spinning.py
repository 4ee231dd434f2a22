"""Cycle spinning: every frame is solved a pixel or two aside, so that patches leave no grid.

A network that sees patches of p x p pixels leaves a texture of that period. In a stream it adds up, since each frame is
made of the one before. Where the patches lie elsewhere in every frame, it averages out. (Coifman & Donoho 1995,
*Translation-invariant de-noising*.)
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def offsets(largest: int, generators: Sequence[torch.Generator]) -> Int[Tensor, "b 2"]:
    """Pixels down and to the right, each sample's from its own generator, on the CPU. For 0, nothing is drawn."""
    if not largest:
        return torch.zeros((len(generators), 2), dtype=torch.int64)
    drawn = torch.stack([torch.rand(2, generator=one, device=one.device) for one in generators])
    return spread(drawn.cpu(), largest)


def spread(uniform: Float[Tensor, "b 2"], largest: int) -> Int[Tensor, "b 2"]:
    """Numbers from [0, 1) as pixels from -largest to largest.

    These two are half as often as the others: modulo 2 largest, all are equally likely, so that patches of that side
    lie everywhere equally often.
    """
    return (uniform * (2 * largest) + 0.5).long() - largest


def moved(x: Tensor, by: Int[Tensor, "b 2"], border: Tensor | None = None) -> Tensor:
    """Pictures (b, ..., h, w) moved by `offsets`. What comes in at a border is as in `border`, or is repeated."""
    if not by.any():
        return x
    (height, width), by = x.shape[-2:], by.to(x.device)
    rows = torch.arange(height, device=x.device) - by[:, :1]
    columns = torch.arange(width, device=x.device) - by[:, 1:]
    place = torch.arange(len(x), device=x.device)[:, None, None]
    row, column = rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    # What is between the indices moves to the end: (b, h, w, ...).
    found = x.movedim((-2, -1), (1, 2))[place, row, column].movedim((1, 2), (-2, -1))
    if border is None:
        return found
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    return torch.where(inside.view(len(x), *(1,) * (x.ndim - 3), height, width), found, border)
