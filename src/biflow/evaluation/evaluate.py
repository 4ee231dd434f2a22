"""Evaluate a model by a protocol: generate videos, compare them with the test split, and write metrics.json."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from biflow import engines
from biflow.data.pairs import FramePairs
from biflow.engines import Engine
from biflow.errors import UserError
from biflow.evaluation.fvd import Features, i3d_features, too_few
from biflow.evaluation.generate import generate, read_costs, read_video
from biflow.evaluation.metrics import frames_over_time, nearest_training_frames, window_distances
from biflow.evaluation.protocol import Protocol, differences, record
from biflow.files import cache_folder, device, write_array, write_json, write_tensors
from biflow.networks import load_model
from biflow.sampling import first_frames


def evaluate(
    folder: Path,
    data: Path,
    out: Path,
    protocol: Protocol,
    *,
    features: Features | None = None,
    engine: Engine = "auto",
    batch: int = 8,
    feature_batch: int = 4,
    progress: bool = True,
) -> dict:
    """Evaluate the model in `folder` against the prepared set `data` and return what `out/metrics.json` says.

    - `fvd`, `kvd`: `mean` over windows and its bootstrap 95 % `interval`, `per_window` with `per_window_intervals`,
      and `slope`, the rise a frame of their least-squares line, with `slope_interval`; `kvd` with the jackknife's
      `standard_error` of the mean. Bootstrap and jackknife take videos for independent.
    - `nfe`: `mean` and `p95` over all frames of all videos, and `over_time`, the mean at each frame.
    - `over_time`: the measures of `biflow.evaluation.over_time` at each frame, and their mean in real videos.
    - `nearest`: how near the last frames come to training frames, and how near real test frames do.
    - `seconds_per_frame`, `windows`, `note` (a warning that belongs beside the numbers, or None) and `protocol`.

    Videos are kept in `out/videos`, features beside them and those of the real set in the user's cache: interrupted,
    the same call goes on at the next video. Several processes (torchrun, accelerate) share the work through `out`.
    `features` replaces I3D, in tests. Neither batch has an influence on the numbers.

    Raises UserError for settings, a model and data that do not go together, and an `out` that holds something else.
    """
    on_cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    state = PartialState(cpu=on_cpu)
    model = load_model(folder, device=device())
    test = FramePairs(data, split="test")
    if list(test.size) != list(model.config["size"]):
        sizes = ("x".join(map(str, size)) for size in (test.size, model.config["size"]))
        raise UserError("{} holds {} frames, the model makes {}.".format(data, *sizes))
    if protocol.eps is None:
        protocol = replace(protocol, eps=float(model.config["eps"]) if model.method == "biflow" else 0.0)
    compares = features or (i3d_features(device()) if "i3d" in protocol.networks else None)
    if compares and protocol.window < compares.shortest:
        raise UserError(f"{compares.name} take at least {compares.shortest} frames, not windows of {protocol.window}.")
    windows = real_windows(test, protocol)
    said = record(protocol, model, folder, test, [compares.record()] if compares else [])
    with state.main_process_first():
        _claim(out, said)
    first = first_frames(data, test.size, protocol.samples, protocol.seed)
    if state.is_main_process:
        write_array(out / "first.npy", first.numpy())
    mine = range(state.process_index, protocol.samples, state.num_processes)
    hidden = None if progress and state.is_main_process else True
    with tqdm(total=len(mine) * protocol.frames, unit="frame", desc="streaming", disable=hidden) as bar:
        fields, used = engines.fields(model, engine)
        generate(model, fields, first, protocol, out, mine, batch=batch, bar=bar)
    if compares:
        clips = sorted(windows)
        key = _key(said, windows)
        jobs: list[tuple[Path, Callable[[], Iterator[Tensor]], int]] = [
            (
                _real_path(key, clip),
                lambda clip=clip: _cut(test.clip(clip), windows[clip], protocol),
                len(windows[clip]),
            )
            for clip in clips[state.process_index :: state.num_processes]
        ]
        jobs += [
            (_fake_path(out, i), lambda i=i: _cut(read_video(out, i), protocol.starts, protocol), len(protocol.starts))
            for i in mine
        ]
        with tqdm(total=sum(count for *_, count in jobs), unit="window", desc="features", disable=hidden) as bar:
            for path, cut, count in jobs:
                if not path.exists():
                    _write_features(path, cut(), compares, feature_batch, bar)
                else:
                    bar.update(count)
    state.wait_for_everyone()
    if not state.is_main_process:
        return {}
    result = {}
    if compares:
        rows = [load_file(_real_path(key, clip))["features"] for clip in clips]
        groups = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(part) for part in rows]))
        fake = torch.stack([load_file(_fake_path(out, i))["features"] for i in range(protocol.samples)], dim=1)
        result = window_distances(torch.cat(rows), groups, fake, protocol)
        result["note"] = too_few(min(len(groups), protocol.samples), compares.dim)
        result["windows"] = {"real": len(groups), "fake": protocol.samples}
    costs = [read_costs(out, i) for i in range(protocol.samples)]
    nfe = np.array([cost["nfe"] for cost in costs])
    result["nfe"] = {
        "mean": float(nfe.mean()),
        "p95": float(np.quantile(nfe, 0.95)),
        "over_time": nfe.mean(0).round(3).tolist(),
    }
    result["seconds_per_frame"] = sum(cost["seconds"] for cost in costs) / nfe.size
    result["over_time"] = frames_over_time(first, test, protocol, out)
    if protocol.nearest:
        result["nearest"] = nearest_training_frames(data, first, protocol, out)
    result["protocol"] = {**said, "engine": used}
    write_json(out / "metrics.json", result)
    return result


def real_windows(test: FramePairs, protocol: Protocol) -> dict[int, list[int]]:
    """Of each clip that is long enough, the first frames of the windows to take. Raises UserError for fewer than 2."""
    every = [
        (number, start)
        for number, clip in enumerate(test.clips)
        for start in range(0, clip["frames"] - protocol.window + 1, protocol.stride)
    ]
    if len(every) < 2:
        longest = max(clip["frames"] for clip in test.clips)
        raise UserError(
            f"The test split of {test.root} holds {len(every)} windows of {protocol.window} frames (its longest clip "
            f"has {longest}), and a distance needs 2; prepare more or longer clips, or take a smaller window."
        )
    picks = np.linspace(0, len(every) - 1, min(len(every), protocol.real_windows or len(every))).round().astype(int)
    taken: dict[int, list[int]] = {}
    for number, start in (every[pick] for pick in picks):
        taken.setdefault(number, []).append(start)
    return taken


def _claim(out: Path, said: dict) -> None:
    """Write down what `out` is for, or make sure that it is for the same."""
    path = out / "protocol.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, said)
        return
    try:
        there = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); remove {out}, or give another --out.") from error
    matters = ("settings", "model", "data", "networks")  # not the code's version: a run goes on after an update
    mine = json.loads(json.dumps(said))  # tuples as the lists that they are in the file
    if different := [d for key in matters for d in differences(there.get(key), mine[key], key)]:
        raise UserError(f"{out} holds an evaluation with another {different[0]}; remove it, or give another --out.")


def _cut(video: Tensor, starts: Sequence[int], protocol: Protocol) -> Iterator[Tensor]:
    return (video[start : start + protocol.window] for start in starts)


def _write_features(path: Path, windows: Iterator[Tensor], features: Features, batch: int, bar: tqdm) -> None:
    rows = []
    for part in torch.stack(list(windows)).split(batch):
        rows.append(features.compute(part))
        if not torch.isfinite(rows[-1]).all():
            raise UserError(f"{features.name} of {path.stem} are not finite; remove {path.parent.parent}.")
        bar.update(len(part))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {"features": torch.cat(rows)})


def _key(said: dict, windows: dict[int, list[int]]) -> str:
    """What the features of the real windows depend on."""
    parts = [said["data"]["sha256"], said["networks"], said["settings"]["window"], sorted(windows.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _real_path(key: str, clip: int) -> Path:
    return cache_folder() / "evaluation" / key / f"{clip:05d}.safetensors"


def _fake_path(out: Path, sample: int) -> Path:
    return out / "features" / f"{sample:03d}.safetensors"


def summary(result: dict) -> str:
    """The numbers in a few lines."""
    settings = result["protocol"]["settings"]
    lines = []
    for name in ("fvd", "kvd"):
        if name in result:
            d = result[name]
            low, high = d["interval"]
            lines.append(
                f"{name.upper()} {d['mean']:.4g} [{low:.4g}, {high:.4g}], mean over {len(d['per_window'])} windows; "
                f"{d['slope']:+.3g} a frame."
            )
    nfe = result["nfe"]
    lines.append(
        f"NFE {nfe['mean']:.2f} a frame, 95 % below {nfe['p95']:g}; {result['seconds_per_frame']:.3f} s a frame."
    )
    model = result["protocol"]["model"]
    lines.append(
        f"Protocol {settings['name']}: {model['method']}, eps {settings['eps']:g}, {settings['samples']} videos."
    )
    return "\n".join([*lines, *([result["note"]] if result.get("note") else [])])
