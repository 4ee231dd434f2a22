"""The numbers of an evaluation, from the videos and features that it keeps."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from biflow.data.pairs import FramePairs
from biflow.evaluation import over_time
from biflow.evaluation.distances import frechet_distances, kernel_distances, resample
from biflow.evaluation.features import Job
from biflow.evaluation.generate import read_costs, read_video
from biflow.evaluation.nearest import nearest_frames
from biflow.evaluation.protocol import Protocol
from biflow.video import contact_sheet

# What the Fréchet and the kernel distance of a network's features are called.
DISTANCES = {
    "i3d": ("fvd", "kvd"),
    "inception": ("fid", "kid"),
    "efficientnet": ("efficientnet_frechet", "efficientnet_kernel"),
}


def distances(network: str, real: list[Job], generated: list[Job], protocol: Protocol) -> dict:
    """Both distances of a network's features, over windows."""
    rows = [job.features() for job in real]
    groups = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(part) for part in rows]))
    made = torch.stack([job.features() for job in generated])  # (sample, clip, d)
    last = torch.tensor([start + generated[0].span for start in generated[0].starts])
    # A network of windows has one clip in each; one of frames, all of those that end there.
    windows = [
        made[:, (last <= start + protocol.window) & (last - generated[0].span >= start)] for start in protocol.starts
    ]
    samples = torch.arange(protocol.samples).repeat_interleave(windows[0].shape[1])
    count = len(windows)
    mean = torch.full((count,), 1 / count, dtype=torch.float64)
    trend = over_time.trend(torch.tensor(list(protocol.starts)))
    found: dict = {}
    for name, distance in zip(DISTANCES[network], (frechet_distances, kernel_distances), strict=True):
        resampled = resample(
            distance,
            torch.cat(rows),
            [window.flatten(0, 1) for window in windows],
            x_groups=groups,
            y_groups=samples,
            resamples=protocol.resamples,
            jackknife=distance is kernel_distances,
            generator=torch.Generator().manual_seed(protocol.seed),
        )
        over_all, slope = resampled.estimate(mean), resampled.estimate(trend)
        each = [resampled.estimate(one) for one in torch.eye(count, dtype=torch.float64)]
        found[name] = {
            "mean": over_all.value,
            "interval": over_all.interval,
            "standard_error": over_all.standard_error,
            "per_window": [window.value for window in each],
            "per_window_intervals": [window.interval for window in each],
            "slope": slope.value,
            "slope_interval": slope.interval,
        }
    return found


def to_previous(real: list[Job], generated: list[Job]) -> dict:
    """LPIPS of frames to the ones before them: mean over the videos at each of `frames`, and of real videos."""
    made = torch.stack([job.features()[:, 0] for job in generated]).double().mean(0)
    return {
        "frames": [start + 1 for start in generated[0].starts],
        "generated": [round(value, 5) for value in made.tolist()],
        "real": round(float(torch.cat([job.features() for job in real]).double().mean()), 5),
    }


def costs(out: Path, protocol: Protocol) -> dict:
    """`nfe` and `seconds_per_frame`."""
    read = [read_costs(out, i) for i in range(protocol.samples)]
    nfe = np.array([cost["nfe"] for cost in read])
    over_time = nfe.mean(0).round(3).tolist()
    return {
        "nfe": {"mean": float(nfe.mean()), "p95": float(np.quantile(nfe, 0.95)), "over_time": over_time},
        "seconds_per_frame": sum(cost["seconds"] for cost in read) / nfe.size,
    }


def frames_over_time(first: UInt8[Tensor, "n 3 h w"], test: FramePairs, protocol: Protocol, out: Path) -> dict:
    """The measures of `biflow.evaluation.over_time`: mean over the videos at each of `frames`, and of real videos."""
    made = [over_time.measure(read_video(out, i), first[i]) for i in range(protocol.samples)]
    clips = [test.clip(number) for number in range(len(test.clips))]
    real = [over_time.measure(clip[1:], clip[0]) for clip in clips if len(clip) > 1]
    return {
        name: {
            "frames": list(range(protocol.frames)),
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
