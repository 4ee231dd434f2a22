"""CONDIFF: conditional diffusion, an ODE from noise to each frame given the last one. Eq. (1)"""

import torch
from torch import Tensor

from biflow.config import TrainConfig
from biflow.methods.method import Given, Loss, Method, Terms, squared_error
from biflow.methods.noise import Noise, noise_like
from biflow.paths import Network, PerSample, Query, State, linear
from biflow.solvers import Field


def condiff_loss(network: Network, x0: State, x1: State, n: State, alpha: PerSample) -> Terms:
    """|| f(x_alpha, alpha | x0) - (x1 - n) ||², x_alpha = n + alpha (x1 - n). Eq. (1), conditional on x0.

    Here alpha runs from noise (0) to the next frame (1), as in the paper's Eq. (1). Returns the term v.
    """
    return {"v": squared_error(network(Query(linear(n, x1, alpha), alpha=alpha, condition=x0)).v, x1 - n)}


class ConDiff(Method):
    """Noise to frame, given the last frame. It has no time between frames, and no backward direction."""

    name, title = "condiff", "CONDIFF"
    backward = False
    in_between = False
    motion_unit = False

    def loss(self, network: Network, clips: Tensor, generator: torch.Generator, config: TrainConfig) -> Loss:
        x0, x1 = clips.unbind(1)
        alpha, _ = torch.rand((2, len(x0)), generator=generator, device=x0.device)
        n = torch.randn(x0.shape, generator=generator, device=x0.device)
        return Loss(condiff_loss(network, x0, x1, n, alpha), {"alpha": alpha})

    def start(self, frame: State, eps: float, generators: Noise) -> tuple[State, Given]:
        return noise_like(frame, generators), (frame,)

    def field(self, network: Network, eps: float, backward: bool) -> Field:
        return lambda x, alpha, last: network(Query(x, alpha=alpha, condition=last)).v


CONDIFF = ConDiff()
