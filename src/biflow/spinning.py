"""Cycle spinning: every frame is solved a pixel or two aside, so that patches leave no grid.

A network that sees patches of p x p pixels leaves a texture of that period. In a stream it adds up, since each frame is
made of the one before. Where the patches lie elsewhere in every frame, it averages out. (Coifman & Donoho 1995,
*Translation-invariant de-noising*.)
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor


def offsets(largest: int, generators: Sequence[torch.Generator]) -> Int[Tensor, "b 2"]:
    """Pixels down and to the right, uniform from -largest to largest; each sample's from its own generator, on the CPU."""
    drawn = [torch.rand(2, generator=generator, device=generator.device).cpu() for generator in generators]
    return (torch.stack(drawn) * (2 * largest + 1)).long() - largest


def moved(x: Tensor, by: Int[Tensor, "b 2"]) -> Tensor:
    """Pictures (b, ..., h, w) moved by `offsets`. What comes in at a border repeats the pixels that were there."""
    (height, width), by = x.shape[-2:], by.to(x.device)
    rows = (torch.arange(height, device=x.device) - by[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) - by[:, 1:]).clamp(0, width - 1)
    place = torch.arange(len(x), device=x.device)[:, None, None]
    # What is between the indices moves to the end: (b, h, w, ...).
    return x.movedim((-2, -1), (1, 2))[place, rows[:, :, None], columns[:, None, :]].movedim((1, 2), (-2, -1))
