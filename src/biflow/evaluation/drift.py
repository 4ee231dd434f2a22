"""Drift: how much else than the noise that was added a BI-FLOW model sees in a frame.

It needs no real frame to compare with. Noise n of level eps is added to a frame, and f^n(x, 0, eps) is split into the
part along n and the rest. Of a frame such as those of training, little is left; an error of the frame looks like noise.
White errors and those of brightness or colour are seen, blur is not.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from biflow.evaluation.jobs import Evaluation
from biflow.model import Model
from biflow.rollout import sample_generators
from biflow.solvers.solution import columns
from biflow.video import to_float

EPS = 0.1  # where videos are streamed without noise
AT_ONCE = 16  # frames
REAL = 256  # frames of test clips, at most


def measure(model: Model, evaluation: Evaluation) -> dict | None:
    """The mean drift of the videos at every `frame_stride`-th frame, over that of real frames; None without an f^n."""
    protocol, test = evaluation.protocol, evaluation.test
    if not model.method.takes_eps:
        return None
    eps, frames = protocol.eps or EPS, list(range(0, protocol.frames, protocol.frame_stride))
    videos = [evaluation.videos.read(number)[frames] for number in range(len(evaluation.videos))]
    places = np.linspace(0, len(test) - 1, min(REAL, len(test))).round().astype(int)
    real, seen = drift(model, test.batch(places)[:, 0], eps), [drift(model, video, eps) for video in videos]
    mean = torch.stack(seen).double().mean(0) / real.double().mean()  # the level depends on eps and on the network
    return {"frames": frames, "generated": mean.round(decimals=5).tolist(), "real": 1.0}


@torch.inference_mode()
def drift(model: Model, frames: UInt8[Tensor, "n 3 h w"], eps: float) -> Float[Tensor, " n"]:
    """eps times the rms of f^n(x, 0, eps) without its part along n, for x = frame + eps n: in [-1, 1] units.

    The model is told no past and no action. The noise of a frame depends on its place among the frames alone.
    """
    found = []
    for part in torch.arange(len(frames)).split(AT_ONCE):
        x, generators = to_float(frames[part]).to(model.device), sample_generators(0, part.tolist())
        n = torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in generators]).to(x)
        n_hat = model.method.noise(model.network, x + eps * n, eps, conditions=model.conditions(len(x)))
        assert n_hat is not None, "it takes a noise level, so it learns noise"
        share = (n_hat * n).flatten(1).sum(1) / n.square().flatten(1).sum(1)
        rest = n_hat - columns(share, n) * n
        found.append(eps * rest.square().flatten(1).mean(1).sqrt())
    return torch.cat(found).float().cpu()
