"""Truth: how near generated frames are to the real clip, under what was done in it.

The model is compared with two baselines: the same model without the actions, and copies of the first frame.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from biflow.evaluation import intervals
from biflow.evaluation.images import psnr, ssim
from biflow.evaluation.networks.features import Features
from biflow.evaluation.turning import compare
from biflow.evaluation.videos import Videos

Images = UInt8[Tensor, "b 3 h w"]


def measure(
    own: Videos,
    dropped: Videos,
    real: Sequence[UInt8[Tensor, "t 3 h w"]],
    frames: Sequence[int],
    lpips: Features | None,
) -> dict[str, dict[str, list[Float[Tensor, " n"]]]]:
    """By measure, and by "model", "dropped" and "copy": for each of the frames, counted from 1, a value per video.

    Args:
        own: videos under the clip's own actions.
        dropped: the same without actions.
        real: what follows in the clips.
        frames: which to compare.
        lpips: left out if None.
    """
    measures = {"psnr": psnr, "ssim": ssim}
    if lpips:
        measures["lpips"] = lambda x, y: compare(lpips, list(zip(x, y, strict=True)))
    sources = {
        "model": torch.stack([own.read(i) for i in range(len(own))]),
        "dropped": torch.stack([dropped.read(i) for i in range(len(dropped))]),
        "copy": own.first[:, None].expand(-1, own.frames, -1, -1, -1),
    }
    clips = torch.stack(list(real))
    return {
        name: {
            source: [function(videos[:, frame - 1], clips[:, frame - 1]) for frame in frames]
            for source, videos in sources.items()
        }
        for name, function in measures.items()
    }


def summed(values: dict[str, dict[str, list[Tensor]]], resamples: int, seed: int) -> dict[str, dict]:
    """The means of `measure` and their intervals over videos, and those of what the model is ahead of both others."""

    def both(parts: list[Tensor]) -> dict[str, list]:
        means = [float(part.mean()) for part in parts]
        return {"mean": means, "intervals": [intervals.of_mean(part, resamples, seed) for part in parts]}

    result = {}
    for name, sources in values.items():
        result[name] = {source: both(parts) for source, parts in sources.items()}
        for other in ("dropped", "copy"):
            ahead = [ours - theirs for ours, theirs in zip(sources["model"], sources[other], strict=True)]
            result[name][f"model_minus_{other}"] = both(ahead)
    return result
