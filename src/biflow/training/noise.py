"""The noise n that BI-FLOW trains on: white, as the paper's, or with coarse parts in it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CELLS = (1, 4, 16)  # a side: a whole frame's colour, a corridor's, a texture's


def draw_noise(shape: Sequence[int], generator: torch.Generator, *, coarse: float = 0.0) -> Float[Tensor, "b c h w"]:
    """White noise ~ N(0, 1), and `coarse` times noise of 1, 4 and 16 cells a side, enlarged bilinearly to the frame.

    White noise has next to nothing at low frequencies, so that nothing teaches a network to undo a shift in brightness.
    Coarse parts do, as offset noise (Guttenberg 2023) and pyramid noise (Whitaker 2023) do in image diffusion. They are
    for training: streamed with white noise, such a model takes the drift of its own frames for coarse noise and removes
    it. On the generator's device; with `coarse` 0 the numbers are those of torch.randn.
    """
    n = torch.randn(tuple(shape), generator=generator, device=generator.device)
    if coarse:
        for cells in CELLS:
            part = torch.randn((*shape[:2], cells, cells), generator=generator, device=generator.device)
            n += coarse * F.interpolate(part, tuple(shape[2:]), mode="bilinear")
    return n
