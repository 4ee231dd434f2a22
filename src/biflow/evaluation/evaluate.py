"""Evaluate a model by a protocol: generate videos, compare them with the test split, and write metrics.json."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from tqdm import tqdm

from biflow import engines
from biflow.data.pairs import FramePairs
from biflow.engines import Engine
from biflow.errors import UserError
from biflow.evaluation import metrics
from biflow.evaluation.features import jobs
from biflow.evaluation.fvd import too_few
from biflow.evaluation.generate import generate
from biflow.evaluation.networks.features import Features, load_networks
from biflow.evaluation.protocol import Protocol, differences, record
from biflow.files import device, write_array, write_json
from biflow.networks import load_model
from biflow.sampling import first_frames


def evaluate(
    folder: Path,
    data: Path,
    out: Path,
    protocol: Protocol,
    *,
    networks: dict[str, Features] | None = None,
    engine: Engine = "auto",
    batch: int = 8,
    feature_batch: int = 4,
    progress: bool = True,
) -> dict:
    """Evaluate the model in `folder` against the prepared set `data` and return what `out/metrics.json` says.

    - `fvd`, `kvd` (I3D), `fid`, `kid` (Inception, frames of a window), `efficientnet_frechet`, `…_kernel`: `mean`
      over windows and its bootstrap 95 % `interval`, `per_window` with `per_window_intervals`, and `slope`, the rise a
      frame of their least-squares line, with `slope_interval`; of kernel distances the jackknife's `standard_error` of
      the mean. Bootstrap and jackknife take videos for independent.
    - `nfe`: `mean` and `p95` over all frames of all videos, and `over_time`, the mean at each frame.
    - `over_time`: the measures of `biflow.evaluation.over_time`, and `lpips_to_previous`, at each of `frames`, and
      their mean in real videos.
    - `nearest`: how near the last frames come to training frames, and how near real test frames do.
    - `seconds_per_frame`, `windows`, `note` (a warning that belongs beside the numbers, or None) and `protocol`.

    Videos are kept in `out/videos`, features beside them and those of the real set in the user's cache: interrupted,
    the same call goes on at the next video. Several processes (torchrun, accelerate) share the work through `out`; all
    but the first return {}. `networks` replaces those that the protocol names, in tests. Neither batch has an influence
    on the numbers.

    Raises UserError for settings, a model and data that do not go together, and an `out` that holds something else.
    """
    state = PartialState(cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available()))
    model = load_model(folder, device=device())
    test = FramePairs(data, split="test")
    if list(test.size) != list(model.config["size"]):
        sizes = ("x".join(map(str, size)) for size in (test.size, model.config["size"]))
        raise UserError("{} holds {} frames, the model makes {}.".format(data, *sizes))
    if protocol.eps is None:
        protocol = replace(protocol, eps=float(model.config["eps"]) if model.method == "biflow" else 0.0)
    networks = load_networks(protocol.networks, device()) if networks is None else networks
    for network in networks.values():
        if (network.span or protocol.window) < network.shortest:
            raise UserError(f"{network.name} takes at least {network.shortest} frames, not {protocol.window} a window.")
    windows = real_windows(test, protocol)
    said = record(protocol, model, folder, test, {name: network.record() for name, network in networks.items()})
    with state.main_process_first():
        _claim(out, said)
    first = first_frames(data, test.size, protocol.samples, protocol.seed)
    mine = range(state.process_index, protocol.samples, state.num_processes)
    hidden = None if progress and state.is_main_process else True
    with tqdm(total=len(mine) * protocol.frames, unit="frame", desc="streaming", disable=hidden) as bar:
        fields, used = engines.fields(model, engine, rtol=protocol.solver.rtol)
        generate(model, fields, first, protocol, out, mine, batch=batch, bar=bar)
    state.wait_for_everyone()  # features are of any video, whoever made it
    work = {name: jobs(name, network, protocol, said, test, windows, out) for name, network in networks.items()}
    share = [(name, job) for name, parts in work.items() for part in parts for job in part]
    share = share[state.process_index :: state.num_processes]
    with tqdm(total=sum(len(job.starts) for _, job in share), unit="clip", desc="features", disable=hidden) as bar:
        for name, job in share:
            job.run(networks[name], feature_batch, bar)
    state.wait_for_everyone()
    if not state.is_main_process:
        return {}
    write_array(out / "first.npy", first.numpy())
    real = sum(map(len, windows.values()))
    note = too_few(min(real, protocol.samples), networks["i3d"].dim) if "i3d" in networks else None
    result = {"windows": {"real": real, "generated": protocol.samples}, "note": note}
    result |= metrics.costs(out, protocol)
    result["over_time"] = metrics.frames_over_time(first, test, protocol, out)
    for name, parts in work.items():
        if name == "lpips":
            result["over_time"]["lpips_to_previous"] = metrics.to_previous(*parts)
        else:
            result |= metrics.distances(name, *parts, protocol)
    if protocol.nearest:
        result["nearest"] = metrics.nearest_training_frames(data, first, protocol, out)
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


def summary(result: dict) -> str:
    """The numbers in a few lines."""
    settings, model, nfe = (result["protocol"]["settings"], result["protocol"]["model"], result["nfe"])
    lines = []
    for name in (name for names in metrics.DISTANCES.values() for name in names if name in result):
        d = result[name]
        low, high = d["interval"]
        lines.append(
            f"{name.upper()} {d['mean']:.4g} [{low:.4g}, {high:.4g}], mean over {len(d['per_window'])} windows; "
            f"{d['slope']:+.3g} a frame."
        )
    lines.append(
        f"NFE {nfe['mean']:.2f} a frame, 95 % up to {nfe['p95']:g}; {result['seconds_per_frame']:.3f} s a frame."
    )
    lines.append(
        f"Protocol {settings['name']}: {model['method']}, eps {settings['eps']:g}, {settings['samples']} videos."
    )
    return "\n".join([*lines, *([result["note"]] if result["note"] else [])])
