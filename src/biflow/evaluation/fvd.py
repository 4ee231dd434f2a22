"""FVD and KVD between two sets of videos, with the protocol beside the numbers."""

import time
from dataclasses import asdict

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from biflow.config import Fvd
from biflow.errors import UserError
from biflow.evaluation.distances import SINGLE, resample, too_few
from biflow.evaluation.jobs import compute
from biflow.evaluation.networks.features import Features
from biflow.evaluation.protocol import environment
from biflow.evaluation.windows import VideoSet


def compare(settings: Fvd, features: Features, *, resamples: int = 200, progress: bool = True) -> dict:
    """FVD and KVD between two sets of videos in sliding windows, as the content of a JSON file.

    - `fvd`, `kvd`: `value`, `standard_error` (KVD's jackknife) and a bootstrap 95 % `interval`. Both errors treat
      videos, not windows, as independent. KVD takes all pairs of windows, as usual in the field; its unbiasedness
      would need independent ones.
    - `windows`: their number in each set. `note`: a warning, or None. `protocol`: all that the numbers depend on.

    Raises UserError for empty sets, short or damaged videos, mixed sizes, and mixed frame rates unless allowed.
    """
    begun = time.perf_counter()
    features.check(settings.window)
    steps = {"window": settings.window, "stride": settings.stride, "side": settings.size}
    real = VideoSet(settings.real, settings.real_split, **steps)
    fake = VideoSet(settings.fake, settings.fake_split, **steps)
    totals = real.survey(), fake.survey()
    _check(real, fake, settings)
    x, x_groups = extract(real, features, settings.batch, totals[0], progress=progress)
    y, y_groups = extract(fake, features, settings.batch, totals[1], progress=progress)
    drawn = {"resamples": resamples, "seed": settings.seed}
    both = resample(x, [y], x_groups, y_groups, **drawn)
    fvd, kvd = (asdict(distance.estimate(torch.ones(1, dtype=torch.float64))) for distance in both)
    sets = {"real": real, "fake": fake}
    notes = [too_few(min(len(x), len(y)), features.dim)]
    if single := [name for name, videos in sets.items() if videos.videos == 1]:
        notes.append(f"The {' and the '.join(single)} set is a single video, so {SINGLE}")
    protocol = _protocol(settings, features, sets, drawn)
    protocol["seconds"] = round(time.perf_counter() - begun, 1)
    result = {"fvd": fvd, "kvd": kvd, "windows": {"real": len(x), "fake": len(y)}}
    return {**result, "note": " ".join(filter(None, notes)) or None, "protocol": protocol}


def extract(
    videos: VideoSet, features: Features, batch: int, total: int, *, progress: bool
) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
    """The features of each window, and the number of its video. Raises UserError for fewer than 2 windows."""
    numbers = []
    bar = tqdm(videos.clips(), f"features of {videos.path}", total, unit="window", disable=not progress or None)
    rows = compute(features, (numbers.append(video) or frames for video, frames in bar), batch, str(videos.path))
    if len(rows) < 2:
        hint = "use more or longer videos, or a smaller window."
        found = f"{videos.path} gives {len(rows)} windows of {videos.window} frames; {hint}"
        raise UserError(f"A distance needs at least 2 windows, but {found}", setting="window")
    return rows, torch.tensor(numbers)


def _check(real: VideoSet, fake: VideoSet, settings: Fvd) -> None:
    """Raise UserError for sets of different sizes or frame rates, unless the settings allow it."""
    if settings.size is None and real.size and fake.size and real.size != fake.size:
        sizes = [f"{path} has frames of {h}x{w}" for path, (h, w) in ((real.path, real.size), (fake.path, fake.size))]
        raise UserError(f"{', and '.join(sizes)}; choose a size to bring both to.", setting="size")
    rates = sorted(real.rates | fake.rates)
    if not settings.mixed_rates and rates and rates[-1] > 1.01 * rates[0]:  # 29.97 and 30 are one rate
        hint = "are compared frame by frame; bring them to one rate, or allow mixed rates."
        message = f"The videos have {rates[0]:g} to {rates[-1]:g} frames per second, and {hint}"
        raise UserError(message, setting="mixed_rates")


def _protocol(settings: Fvd, features: Features, sets: dict[str, VideoSet], drawn: dict) -> dict:
    size = settings.size
    redrawn = {name: "videos" if videos.videos > 1 else "windows" for name, videos in sets.items()}
    return {
        "features": features.record(),
        **{name: getattr(settings, name) for name in ("window", "stride", "mixed_rates", "size")},
        "resize": "none before the features" if size is None else f"squeezed to {size}x{size}, bicubic, antialias",
        **{name: videos.record() for name, videos in sets.items()},
        "kernel": "(x.y / d + 1)^3, unbiased",
        "bootstrap": {**drawn, "redrawn": redrawn},
        **environment(),
    }


def summary(result: dict) -> str:
    """The numbers of `compare` in a few lines."""
    fvd, kvd, windows = result["fvd"], result["kvd"], result["windows"]
    error = "" if kvd["standard_error"] is None else f" ± {kvd['standard_error']:.3g}"
    line = (
        f"FVD {fvd['value']:.2f} [{fvd['interval'][0]:.2f}, {fvd['interval'][1]:.2f}], "
        f"KVD {kvd['value']:.4g}{error} [{kvd['interval'][0]:.4g}, {kvd['interval'][1]:.4g}], "
        f"from {windows['real']} real and {windows['fake']} fake windows."
    )
    return "\n".join(filter(None, [line, result["note"]]))
