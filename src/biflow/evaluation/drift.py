"""Drift of the videos of an evaluation, over time and over that of real frames; see `biflow.drift`."""

import torch

from biflow.drift import EPS, drift
from biflow.evaluation.jobs import Evaluation
from biflow.model import Model

REAL = 256  # frames of test clips, at most


def measure(model: Model, evaluation: Evaluation) -> dict | None:
    """The mean drift of the videos at every `frame_stride`-th frame, over that of real frames; None without an f^n."""
    protocol, test = evaluation.protocol, evaluation.test
    eps = EPS if protocol.eps in (None, "auto", 0) else float(protocol.eps)
    frames = list(range(0, protocol.frames, protocol.frame_stride))
    videos = [evaluation.videos.read(number)[frames] for number in range(len(evaluation.videos))]
    real = drift(model, test.spread(REAL)[:, 0], eps)
    if real is None:
        return None
    each = [drift(model, video, eps) for video in videos]
    mean = torch.stack([seen for seen in each if seen is not None]).double().mean(0)
    over_real = mean / real.double().mean()  # the level depends on eps and on the network
    return {"frames": frames, "generated": over_real.round(decimals=5).tolist(), "real": 1.0}
