"""The numbers of an evaluation, from the videos and features that it keeps."""

from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from biflow.data.pairs import FramePairs
from biflow.evaluation import over_time
from biflow.evaluation.distances import frechet_distances, kernel_distances, resample
from biflow.evaluation.generate import read_video
from biflow.evaluation.nearest import nearest_frames
from biflow.evaluation.protocol import Protocol
from biflow.video import contact_sheet


def window_distances(
    real: Float[Tensor, "n d"], groups: Int[Tensor, " n"], fake: Float[Tensor, "w s d"], protocol: Protocol
) -> dict:
    """FVD and KVD over windows, from features of real windows (of the videos `groups`) and of each sample's windows."""
    count = len(fake)
    mean = torch.full((count,), 1 / count, dtype=torch.float64)
    trend = over_time.trend(torch.tensor(list(protocol.starts)))
    found = {}
    for name, distances in (("fvd", frechet_distances), ("kvd", kernel_distances)):
        resampled = resample(
            distances,
            real,
            list(fake),
            x_groups=groups,
            resamples=protocol.resamples,
            jackknife=name == "kvd",
            generator=torch.Generator().manual_seed(protocol.seed),
        )
        over_all, slope = resampled.estimate(mean), resampled.estimate(trend)
        windows = [resampled.estimate(one) for one in torch.eye(count, dtype=torch.float64)]
        found[name] = {
            "mean": over_all.value,
            "interval": over_all.interval,
            "standard_error": over_all.standard_error,
            "per_window": [window.value for window in windows],
            "per_window_intervals": [window.interval for window in windows],
            "slope": slope.value,
            "slope_interval": slope.interval,
        }
    return found


def frames_over_time(first: UInt8[Tensor, "n 3 h w"], test: FramePairs, protocol: Protocol, out: Path) -> dict:
    """The measures of `biflow.evaluation.over_time`: at each frame, mean over the videos, and of real videos."""
    made = [over_time.measure(read_video(out, i), first[i]) for i in range(protocol.samples)]
    clips = [test.clip(number) for number in range(len(test.clips))]
    real = [over_time.measure(clip[1:], clip[0]) for clip in clips if len(clip) > 1]
    return {
        name: {
            "generated": [round(v, 5) for v in torch.stack([m[name] for m in made]).mean(0).tolist()],
            "real": round(float(torch.cat([m[name] for m in real]).mean()), 5),
        }
        for name in over_time.MEASURES
    }


def nearest_training_frames(data: Path, first: UInt8[Tensor, "n 3 h w"], protocol: Protocol, out: Path) -> dict:
    """How near (rms in grey levels) last frames, and real test frames, come to training frames; `out/nearest.png`."""
    count = min(protocol.nearest, protocol.samples)
    training = FramePairs(data, split="train")
    last = torch.stack([read_video(out, i)[-1] for i in range(count)])
    found, real = nearest_frames(last, training), nearest_frames(first[:count], training)
    neighbours = [training.frame(clip, frame) for clip, frame in zip(found.clip, found.frame, strict=True)]
    caption = f"Above: the last frames of {count} videos. Below: the training frame nearest to each (rms of pixels)."
    contact_sheet([list(last), neighbours], out / "nearest.png", caption)
    return {
        "generated": [round(d, 3) for d in found.distance.tolist()],
        "real": [round(d, 3) for d in real.distance.tolist()],
        "frames": [
            f"{training.clips[clip]['name']}: {frame}" for clip, frame in zip(found.clip, found.frame, strict=True)
        ],
    }
