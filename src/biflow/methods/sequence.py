"""SEQUENCE: full-sequence diffusion, an ODE from noise to all frames of a clip at once. Eq. (1)

It is the paper's first column of Fig. 1: nothing streams, since no frame is finished before the others. Frames that are
given keep to their own straight way from noise, while the others are solved (outpainting). That part is not in the
paper.
"""

import torch
from torch import Tensor

from biflow.config import TrainConfig
from biflow.methods.method import Given, Loss, Method, Terms, squared_error
from biflow.methods.noise import Noise, noise_like
from biflow.paths import Network, PerSample, Query, State, linear
from biflow.solvers import Field


def sequence_loss(network: Network, clips: State, n: State, alpha: PerSample) -> Terms:
    """|| f(x_alpha, alpha) - (x - n) ||², x_alpha = n + alpha (x - n), for clips x (b, span, *shape). Eq. (1)

    As in the paper's Eq. (1), alpha runs from noise (0) to the clip (1). Returns the term v.
    """
    return {"v": squared_error(network(Query(linear(n, clips, alpha), alpha=alpha)).v, clips - n)}


class Sequence(Method):
    """Noise to a whole clip. Its states are clips of `span` frames, of which those that are not known are NaN."""

    name, title = "sequence", "SEQUENCE"
    clips = True
    spans = True
    backward = False
    in_between = False
    motion_unit = False

    def loss(self, network: Network, clips: Tensor, generator: torch.Generator, config: TrainConfig) -> Loss:
        alpha = torch.rand(len(clips), generator=generator, device=clips.device)
        n = torch.randn(clips.shape, generator=generator, device=clips.device)
        return Loss(sequence_loss(network, clips, n, alpha), {"alpha": alpha})

    def start(self, frame: State, eps: float, generators: Noise) -> tuple[State, Given]:
        n = noise_like(frame, generators)
        return n, (frame - n,)

    def field(self, network: Network, eps: float, backward: bool) -> Field:
        def field(x: Tensor, alpha: Tensor, known: Tensor) -> Tensor:
            return torch.where(known.isnan(), network(Query(x, alpha=alpha)).v, known)

        return field


SEQUENCE = Sequence()
