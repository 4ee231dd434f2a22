"""The numbers of an evaluation, from its videos, their costs and their features."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from biflow.data.windows import Windows
from biflow.evaluation import over_time
from biflow.evaluation.distances import SINGLE, resample, too_few
from biflow.evaluation.intervals import of_mean
from biflow.evaluation.jobs import Evaluation, Job, real_windows
from biflow.evaluation.protocol import Protocol
from biflow.evaluation.videos import read_costs, read_video
from biflow.video import contact_sheet

# What the Fréchet and the kernel distance between a network's features are called, if not NETWORK_frechet and _kernel.
NAMES = {"i3d": ("fvd", "kvd"), "inception": ("fid", "kid")}


Work = dict[str, tuple[list[Job], list[Job]]]
PerFrame = dict[str, tuple[list[Float[Tensor, " t"]], list[Float[Tensor, " _"]]]]


def measure(work: Work, evaluation: Evaluation, per_frame: PerFrame) -> dict:
    """The numbers of all videos.

    Args:
        work: the jobs of each network, which are done: for the real videos and the generated ones.
        evaluation: whose videos they are.
        per_frame: what `frames` measures.
    """
    protocol, test = evaluation.protocol, evaluation.test
    real = sum(map(len, real_windows(test, protocol).values()))
    result = {"windows": {"real": real, "generated": protocol.samples}, "note": None, **costs(evaluation.out, protocol)}
    every = list(range(protocol.frames))
    result["over_time"] = {name: _over_time(every, *values) for name, values in per_frame.items()}
    for name, parts in work.items():
        if name == "lpips":
            result["over_time"]["lpips_to_previous"] = to_previous(*parts)
        else:
            result |= distances(name, *parts, protocol)
    result["note"] = _note(evaluation, result, work)
    if protocol.nearest:
        result["nearest"] = nearest_training_frames(evaluation)
    return result


def _note(evaluation: Evaluation, result: dict, work: Work) -> str | None:
    """What limits the distances of a result, in sentences."""
    samples, places = evaluation.protocol.samples, len(np.unique(evaluation.videos.places, axis=0))
    notes: list[str | None] = []
    for network, of in (("i3d", "windows"), ("inception", "frames")):
        if network in work:
            names, dim = NAMES[network], work[network][1][0].network.dim
            notes.append(too_few(min(result[names[0]]["n"].values()), dim, of=of, names=names))
    if "i3d" in work and places < samples:
        notes.append(f"The {samples} videos start from only {places} frames: the intervals are too narrow.")
    if "i3d" in work and len(work["i3d"][0]) == 1:
        notes.append(f"Only one test clip is as long as a window, so {SINGLE}")
    return " ".join(filter(None, notes)) or None


def distances(network: str, real: list[Job], generated: list[Job], protocol: Protocol) -> dict:
    """The Fréchet and the kernel distance between features of this network, over the windows of the videos."""
    rows = [job.features() for job in real]
    groups = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(part) for part in rows]))
    videos = torch.stack([job.features() for job in generated])  # (sample, clip, d)
    starts = torch.tensor(generated[0].starts)
    ends = starts + generated[0].span
    # One clip for a network of windows, all that the window contains for a network of frames.
    begins = protocol.starts(protocol.frames)
    windows = [videos[:, (begin <= starts) & (ends <= begin + protocol.window)].flatten(0, 1) for begin in begins]
    samples = torch.arange(protocol.samples).repeat_interleave(len(windows[0]) // protocol.samples)
    resampled = resample(torch.cat(rows), windows, groups, samples, resamples=protocol.resamples, seed=protocol.seed)
    count = len(windows)
    mean, each = torch.full((count,), 1 / count, dtype=torch.float64), torch.eye(count, dtype=torch.float64)
    trend = over_time.trend(torch.tensor(begins))
    result = {}
    for name, distance in zip(NAMES.get(network, (f"{network}_frechet", f"{network}_kernel")), resampled, strict=True):
        average, slope, *single = map(distance.estimate, (mean, trend, *each))
        result[name] = {
            "mean": average.value,
            "interval": average.interval,
            "standard_error": average.standard_error,
            "per_window": [window.value for window in single],
            "per_window_intervals": [window.interval for window in single],
            "slope": slope.value,
            "slope_interval": slope.interval,
            "n": {"real": sum(map(len, rows)), "generated": len(windows[0])},
        }
    return result


def to_previous(real: list[Job], generated: list[Job]) -> dict:
    """LPIPS between frames and the previous ones: the mean over the videos at each of `frames`, and in real videos."""
    frames = [start + 1 for start in generated[0].starts]
    return _over_time(frames, [job.features()[:, 0] for job in generated], [job.features()[:, 0] for job in real])


def costs(out: Path, protocol: Protocol) -> dict:
    """`nfe` and `seconds_per_frame` of the videos in a folder, and `eps` where it was chosen from frame to frame."""
    samples = [read_costs(out, i, protocol.frames) for i in range(protocol.samples)]
    nfe = np.array([sample["nfe"] for sample in samples])
    over_time = nfe.mean(0).round(3).tolist()
    each = torch.from_numpy(nfe.mean(1))
    counts = {
        "mean": float(nfe.mean()),
        "interval": of_mean(each, protocol.resamples, protocol.seed),
        "p95": float(np.quantile(nfe, 0.95)),
        "batch_max": float(nfe.max(0).mean()),
        "over_time": over_time,
    }
    found = {"nfe": counts, "seconds_per_frame": sum(sample["seconds"] for sample in samples) / nfe.size}
    levels = [sample["eps"] for sample in samples if "eps" in sample]
    if len(levels) == len(samples):
        eps = np.array(levels)
        found["eps"] = {"mean": round(float(eps.mean()), 4), "over_time": eps.mean(0).round(4).tolist()}
    return found


def frames(evaluation: Evaluation) -> PerFrame:
    """The measures of `over_time` at each frame of each generated and of each real video."""
    measures = {**over_time.MEASURES, "grid": lambda frames, first: over_time.grid(frames, evaluation.period)}
    test, videos = evaluation.test, evaluation.videos
    found: PerFrame = {name: ([], []) for name in measures}
    for number in range(len(videos)):
        video = videos.read(number)
        for name, function in measures.items():
            found[name][0].append(function(video, videos.first[number]))
    for clip in (test.clip(number) for number in range(len(test.clips)) if test.clips[number]["frames"] > 1):
        for name, function in measures.items():
            found[name][1].append(function(clip[1:], clip[0]))
    return found


def _over_time(frames: list[int], videos: list[Float[Tensor, " t"]], real: list[Float[Tensor, " _"]]) -> dict:
    mean, real_mean = torch.stack(videos).double().mean(0), torch.cat(real).double().mean()
    return {"frames": frames, "generated": mean.round(decimals=5).tolist(), "real": round(real_mean.item(), 5)}


def nearest_training_frames(evaluation: Evaluation) -> dict:
    """Rms distances (grey levels) from last frames, and real test frames, to training frames; and `out/nearest.png`."""
    count, out = min(evaluation.protocol.nearest, evaluation.protocol.samples), evaluation.out
    training = Windows(evaluation.test.root, split="train")
    last = torch.stack([read_video(out, i)[-1] for i in range(count)])
    (generated, places), (real, _) = (nearest_frames(frames, training) for frames in (last, evaluation.first[:count]))
    caption = f"Above: the last frames of {count} videos. Below: the training frame nearest to each (rms of pixels)."
    contact_sheet([list(last), [training.frame(*place) for place in places]], out / "nearest.png", caption)
    return {
        "generated": generated.round(decimals=3).tolist(),
        "real": real.round(decimals=3).tolist(),
        "frames": [f"{training.clips[clip]['name']}: {frame}" for clip, frame in places],
    }


def nearest_frames(
    queries: UInt8[Tensor, "b 3 h w"], training: Windows
) -> tuple[Float[Tensor, " b"], list[tuple[int, int]]]:
    """The frame of `training` with the least root mean square difference to each query, found by exhaustive search.

    Returns the differences, in grey levels, and the places (clip, frame) of the frames. Small differences mean that a
    model memorised its set.
    """
    x = queries.flatten(1).double()
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    places = [(0, 0)] * len(x)
    for clip in range(len(training.clips)):
        for number, part in enumerate(training.parts(clip, 256)):
            # |x - y|² = |x|² + |y|² - 2 x y, which is exact in float64 for integers of this size.
            y = part.flatten(1).double()
            squares = (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).min(1)
            for row in (squares.values < best).nonzero().flatten().tolist():
                best[row], places[row] = squares.values[row], (clip, 256 * number + int(squares.indices[row]))
    return (best / x.shape[1]).sqrt(), places
