"""Drift: how much else than the noise that was added a BI-FLOW model sees in a frame.

Noise n of level eps is added to a frame, and f^n(x, 0, eps) is split into the part along n and the rest. Of a frame
such as those of training, little is left. An error of a frame that looks like the noise of training is taken for
noise: errors from pixel to pixel, and, with coarse noise in training, those of brightness and colour. Blur is not.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from biflow.model import Model
from biflow.rollout import sample_generators
from biflow.solvers.solution import columns
from biflow.video import to_float

EPS = 0.1  # a level that all models with noise have learned
AT_ONCE = 16  # frames


@torch.inference_mode()
def drift(model: Model, frames: UInt8[Tensor, "n 3 h w"], eps: float = EPS) -> Float[Tensor, " n"] | None:
    """eps times the rms of f^n(x, 0, eps) without its part along n, for x = frame + eps n: in [-1, 1] units.

    None if the model learns no noise. It is told no past and no action. The noise of a frame depends on its place among
    the frames alone.
    """
    found = []
    for part in torch.arange(len(frames)).split(AT_ONCE):
        x, generators = to_float(frames[part]).to(model.device), sample_generators(0, part.tolist())
        n = torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in generators]).to(x)
        n_hat = model.method.noise(model.network, x + eps * n, eps, conditions=model.conditions(len(x)))
        if n_hat is None:
            return None
        share = (n_hat * n).flatten(1).sum(1) / n.square().flatten(1).sum(1)
        rest = n_hat - columns(share, n) * n
        found.append(eps * rest.square().flatten(1).mean(1).sqrt())
    return torch.cat(found).float().cpu()
