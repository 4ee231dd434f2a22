"""FVD and KVD of two sets of videos, with the whole protocol beside the numbers."""

import logging
import time
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from biflow.errors import UserError
from biflow.evaluation.distances import frechet_distances, kernel_distances, resample
from biflow.evaluation.networks.features import Features
from biflow.evaluation.protocol import made_by
from biflow.evaluation.windows import VideoSet

log = logging.getLogger("biflow")
RESAMPLES = 200


def extract(
    videos: VideoSet, features: Features, *, window: int, stride: int, size: int | None, batch: int, bar: tqdm
) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
    """The features of each window, and the number of the video that it is from. Raises UserError if there are none."""
    rows, numbers = [], []
    clips = videos.clips(window, stride, size)
    while part := list(islice(clips, batch)):
        frames = torch.stack([clip.frames for clip in part])
        rows.append(features.compute(frames))
        if not torch.isfinite(rows[-1]).all():
            raise UserError(f"{features.name} of {videos.path} are not finite; look for damaged frames there.")
        numbers += [clip.video for clip in part]
        bar.update(len(part))
    if len(numbers) < 2:
        raise UserError(
            f"{videos.path} gives {len(numbers)} windows of {window} frames, and a distance needs 2; "
            "give more or longer videos, or a smaller --window."
        )
    return torch.cat(rows), torch.tensor(numbers)


def compare(
    real: Path,
    fake: Path,
    features: Features,
    *,
    real_split: str = "test",
    fake_split: str = "all",
    window: int = 32,
    stride: int = 16,
    size: int | None = None,
    mixed_rates: bool = False,
    batch: int = 4,
    seed: int = 0,
    progress: bool = True,
) -> dict:
    """FVD and KVD between two sets of videos in sliding windows, as the content of a JSON file.

    `fvd` and `kvd` hold `value`, `standard_error` (KVD's jackknife) and a bootstrap 95 % `interval`, both of which
    take videos, not windows, for independent; `windows` how many each set gave; `protocol` all that the numbers
    depend on; `note` a warning if they deserve one. The splits are those of prepared sets. The batch has no influence.
    Overlapping windows of one video are alike, which the kernel's unbiasedness does not provide for: as everywhere in
    the field, all pairs of windows count.

    Raises UserError for empty sets, too short or damaged videos, mixed sizes, and mixed frame rates unless allowed.
    """
    for name, value in (("window", window), ("stride", stride), ("size", size or 1), ("batch", batch)):
        if value < 1:
            raise UserError(f"{name} is {value}, but must be at least 1.")
    if window < features.shortest:
        raise UserError(f"{features.name} take clips of at least {features.shortest} frames, not --window {window}.")
    begun = time.perf_counter()
    sets = {"real": VideoSet(real, real_split), "fake": VideoSet(fake, fake_split)}
    total = sum(videos.survey(window, stride, size) for videos in sets.values())
    if size is None and None not in (sets["real"].size, sets["fake"].size) and sets["real"].size != sets["fake"].size:
        raise _sizes_differ(sets)
    rates = sorted({rate for videos in sets.values() for rate in videos.rates})
    if not mixed_rates and rates and rates[-1] > 1.01 * rates[0]:  # 29.97 and 30 are one rate
        raise UserError(
            f"The videos run at {rates[0]:g} to {rates[-1]:g} frames a second, and a distance takes a frame for a "
            "frame; bring them to one rate, or say --mixed-rates true."
        )
    rows, numbers = {}, {}
    with tqdm(total=total, unit="window", desc="features", disable=None if progress else True) as bar:
        for name, videos in sets.items():
            rows[name], numbers[name] = extract(
                videos, features, window=window, stride=stride, size=size, batch=batch, bar=bar
            )
    fvd, kvd = (
        resample(
            distances,
            rows["real"],
            [rows["fake"]],
            x_groups=numbers["real"],
            y_groups=numbers["fake"],
            resamples=RESAMPLES,
            jackknife=distances is kernel_distances,
            generator=torch.Generator().manual_seed(seed),  # the same videos redrawn for both
        ).estimate(torch.ones(1, dtype=torch.float64))
        for distances in (frechet_distances, kernel_distances)
    )
    windows = {name: len(numbers[name]) for name in sets}
    return {
        "fvd": asdict(fvd),
        "kvd": asdict(kvd),
        "windows": windows,
        "note": warnings_of(sets, windows, features.dim),
        "protocol": {
            "features": features.record(),
            "window": window,
            "stride": stride,
            "mixed_rates": mixed_rates,
            "size": size,
            "resize": "none before the features" if size is None else f"squeezed to {size}x{size}, bicubic, antialias",
            **{name: _record(videos) for name, videos in sets.items()},
            "kernel": "(x.y / d + 1)^3, unbiased",
            "bootstrap": {
                "resamples": RESAMPLES,
                "seed": seed,
                "redrawn": {name: "videos" if videos.videos > 1 else "windows" for name, videos in sets.items()},
            },
            **made_by(),
            "seconds": round(time.perf_counter() - begun, 1),
        },
    }


def warnings_of(sets: dict[str, VideoSet], windows: dict[str, int], dim: int) -> str | None:
    """What must be said beside numbers from so few windows or videos, or None."""
    told = []
    if few := too_few(min(windows.values()), dim):
        told.append(few)
    single = [name for name, videos in sets.items() if videos.videos == 1]
    if single:
        told.append(
            f"The {' and the '.join(single)} set is one video, so its overlapping windows are taken for independent: "
            "the intervals are too narrow."
        )
    return " ".join(told) or None


def too_few(windows: int, dim: int) -> str | None:
    """What to say beside a distance of that many windows of `dim` features, or None. n features span n - 1 of them."""
    if windows > dim:
        return None
    return (
        f"N = {windows} windows are too few for {dim} feature dimensions: the covariance is singular and FVD biased "
        "upwards. KVD is the steadier number; compare FVD only at the same N."
    )


def summary(result: dict) -> str:
    """The numbers of `compare` in a few lines."""
    fvd, kvd, windows = result["fvd"], result["kvd"], result["windows"]
    error = "" if kvd["standard_error"] is None else f" ± {kvd['standard_error']:.3g}"
    lines = [
        f"FVD {fvd['value']:.2f} [{fvd['interval'][0]:.2f}, {fvd['interval'][1]:.2f}], "
        f"KVD {kvd['value']:.4g}{error} [{kvd['interval'][0]:.4g}, {kvd['interval'][1]:.4g}], "
        f"from {windows['real']} real and {windows['fake']} fake windows.",
    ]
    return "\n".join([*lines, *([result["note"]] if result["note"] else [])])


def _record(videos: VideoSet) -> dict:
    return {
        "path": str(videos.path),
        "split": videos.split if videos.prepared else None,
        "videos": videos.videos,
        "frames": videos.frames,
        "too_short": videos.short,
        "frame_size": list(videos.size or ()),
        "fps": sorted(videos.rates),
    }


def _sizes_differ(sets: dict[str, VideoSet]) -> UserError:
    real, fake = (f"{videos.path} has frames of {'x'.join(map(str, videos.size or ()))}" for videos in sets.values())
    return UserError(f"{real}, and {fake}; bring both to one size with --size N.")
