"""Noise: for training, white or with coarse parts in it; for streaming, white and one generator per sample."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from biflow.paths import State

Noise = Sequence[torch.Generator] | Tensor  # a generator for each sample, or the noise itself

CELLS = (1, 4, 16)  # per side: a whole frame's colour, a corridor's, a texture's


def draw_noise(shape: Sequence[int], generator: torch.Generator, *, coarse: float = 0.0) -> Float[Tensor, "b c h w"]:
    """White noise ~ N(0, 1), plus `coarse` times noise of 1, 4 and 16 cells per side, enlarged bilinearly to the frame.

    White noise has next to nothing at low frequencies, so nothing teaches a network to undo a shift in brightness.
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


def noise_like(x: State, generators: Noise) -> State:
    """White noise of the shape of x, each sample's from its own generator, so that it does not depend on the batch."""
    if isinstance(generators, Tensor):
        return generators
    noise = [torch.randn(x.shape[1:], generator=generator, device=generator.device) for generator in generators]
    return torch.stack(noise).to(x.device, x.dtype)
