"""Drift: how much else than the noise that was added a BI-FLOW model sees in a frame.

Noise n of level eps is added to a frame, and f^n(x, 0, eps) is split into the part along n and the rest. Of a frame
such as those of training, little is left. An error of a frame that looks like the noise of training is taken for
noise: errors from pixel to pixel, and, with coarse noise in training, those of brightness and colour. Blur is not.
"""

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
    eps, frames = protocol.eps or EPS, list(range(0, protocol.frames, protocol.frame_stride))
    videos = [evaluation.videos.read(number)[frames] for number in range(len(evaluation.videos))]
    real = drift(model, test.spread(REAL)[:, 0], eps)
    if real is None:
        return None
    each = [drift(model, video, eps) for video in videos]
    mean = torch.stack([seen for seen in each if seen is not None]).double().mean(0)
    over_real = mean / real.double().mean()  # the level depends on eps and on the network
    return {"frames": frames, "generated": over_real.round(decimals=5).tolist(), "real": 1.0}


@torch.inference_mode()
def drift(model: Model, frames: UInt8[Tensor, "n 3 h w"], eps: float) -> Float[Tensor, " n"] | None:
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
