"""Evaluate a model by a protocol: generate videos, compare them with the test split, and write metrics.json.

It contains

- `fvd`, `kvd` (I3D), `fid`, `kid` (Inception), and `NAME_frechet`, `NAME_kernel` of any other network: `mean` over
  windows with its bootstrap 95 % `interval`, `per_window` with `per_window_intervals`, and `slope`, the increase per
  frame of their least-squares line, with `slope_interval`; for kernel distances the jackknife `standard_error` of the
  mean; `n`, how many windows or frames are compared at each time. Bootstrap and jackknife treat videos as independent.
- `nfe`: `mean` and `p95` over all frames of all videos, with the bootstrap `interval` of the mean; `over_time`, the
  mean at each frame; `batch_max`, the mean over frames of the largest in any video, as the paper counts steps.
- `eps`, with eps "auto": `mean` over all frames of all videos, and `over_time`, the mean at each frame.
- `over_time`: the measures of `biflow.evaluation.over_time`, `lpips_to_previous`, and `drift` of models that learn
  noise, at each of `frames`, and their mean in real videos; among them `grid`, at the period of the network's patch.
- `nearest`: distances from the last frames to the nearest training frames, and those of real test frames.
- `past_and_actions`: see `biflow.evaluation.past_and_actions`.
- `seconds_per_frame`, `windows`, `note` (a warning that belongs beside the numbers, or None) and `protocol`, whose
  `engine`, `commit` and `hardware` are those that made the videos, and `measured_commit` is that of the measuring code.

Several processes (torchrun, accelerate) share the work through the folder. On GPUs, each of them has to load the model
on a device of its own.
"""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState
from tqdm import tqdm

from biflow.config import NetworkConfig, eps_text, parse
from biflow.data.starts import starts
from biflow.data.windows import Windows
from biflow.documents import read_document, read_json
from biflow.errors import UserError
from biflow.evaluation import actions, drift, metrics, past_and_actions
from biflow.evaluation.jobs import Evaluation, jobs, real_windows
from biflow.evaluation.networks.features import Features, load_networks
from biflow.evaluation.protocol import WITHOUT, Protocol, differences, full_record
from biflow.evaluation.schemas import Claim
from biflow.evaluation.videos import Videos, generate, read_costs
from biflow.files import alone, check_not_others, write_array, write_json
from biflow.model import Model, read_description
from biflow.networks import VideoUNet
from biflow.rollout import check_settings


def evaluate(
    model: Model,
    data: Path | str,
    out: Path | str,
    protocol: Protocol,
    *,
    networks: Mapping[str, Features] | None = None,
    batch: int = 8,
    feature_batch: int = 4,
    progress: bool = True,
) -> dict:
    """Evaluate a model on the prepared set `data` and return the content of `out/metrics.json`.

    Videos and features are kept in `out`, features of real videos in the user's cache: the same call resumes after an
    interruption. Of several processes, all but the first return {}. `networks`, also of your own, replace those of the
    protocol. Batch sizes affect `seconds_per_frame` alone. A network that is not an `nn.Module` has no checksum; use
    another `out` for each such network. Raises UserError for what does not fit together, or for another evaluation in
    `out`.
    """
    state = PartialState(cpu=model.device.type == "cpu", timeout=timedelta(days=1))  # another may have more to do
    out, test = Path(out), Windows(Path(data), split="test")
    if protocol.eps is None:
        protocol = replace(protocol, eps=float(model.eps) if model.method.takes_eps else 0.0)
    solver, backward = protocol.solver or model.method.solver, protocol.direction == "backward"
    protocol = replace(protocol, solver=model.method.solved_by(solver, backward=backward))
    protocol = replace(protocol, actions=actions.settled(protocol.actions, model, test))
    networks = load_networks(protocol.networks, model.device) if networks is None else networks
    _check(model, test, protocol, networks)
    record = full_record(protocol, model, test, networks)
    if file := actions.file_record(protocol.actions):
        record["actions_file"] = file
    evaluation = _evaluation(model, test, out, protocol, record)
    with alone(out) if state.is_main_process else nullcontext():
        with state.main_process_first():
            _claim(out, record)
            write_array(out / "first.npy", evaluation.first.numpy())
        return _measured(model, evaluation, networks, state, (batch, feature_batch), progress)


def _measured(
    model: Model,
    evaluation: Evaluation,
    networks: Mapping[str, Features],
    state: PartialState,
    batches: tuple[int, int],
    progress: bool,
) -> dict:
    """Generate the videos, and measure them: the content of metrics.json. {} for all processes but the first."""
    protocol, (batch, feature_batch) = evaluation.protocol, batches
    work = {name: jobs(name, network, evaluation) for name, network in networks.items()}
    shown = progress and state.is_main_process
    mine = slice(state.process_index, None, state.num_processes)
    for videos in (evaluation.videos, *evaluation.short.values()):
        generate(model, videos, protocol, range(len(videos))[mine], batch=batch, progress=shown)
    state.wait_for_everyone()  # a process computes features of videos that others have generated
    every = [job for real, generated in work.values() for job in (*real, *generated)]
    for job in tqdm(every[mine], "features", unit="video", disable=not shown or None):
        job.features(feature_batch)
    state.wait_for_everyone()
    if not state.is_main_process:
        return {}
    per_frame = metrics.frames(evaluation)
    result = metrics.measure(work, evaluation, per_frame)
    if (seen := drift.measure(model, evaluation)) is not None:
        result["over_time"]["drift"] = seen
    result["past_and_actions"] = past_and_actions.measure(model, evaluation, networks, per_frame, progress=progress)
    measured = {"measured_commit": evaluation.record["commit"]}
    result["protocol"] = {**evaluation.record, **measured, **_made_by(evaluation, model)}
    write_json(evaluation.out / "metrics.json", result)
    return result


def _made_by(evaluation: Evaluation, model: Model) -> dict[str, str | None]:
    """The engine, commit and hardware that made the videos; several, if an interruption has changed them."""
    every = (evaluation.videos, *evaluation.short.values())
    costs = [read_costs(videos.out, i, videos.frames) for videos in every for i in range(len(videos))]
    usual = {"engine": model.engine, **read_json(evaluation.out / "protocol.json")}  # costs of earlier versions lack it
    found = {key: {made.get(key) or usual.get(key) for made in costs} for key in ("engine", "commit", "hardware")}
    return {key: " and ".join(sorted(filter(None, names))) or None for key, names in found.items()}


def _evaluation(model: Model, test: Windows, out: Path, protocol: Protocol, record: dict) -> Evaluation:
    """What is to be generated, from which frames and under which actions."""
    begin = starts(test.root, test.size, protocol.samples, protocol.seed, past=model.context)
    assert begin.places is not None
    backward = protocol.direction == "backward"
    rows = actions.rows(protocol.actions, model, test, begin.places, protocol.frames, backward=backward)
    videos = Videos(out, begin.frames, rows, protocol.frames, begin.places)
    short = past_and_actions.short_videos(model, test, protocol, out)
    return Evaluation(protocol, record, test, videos, short, _patch(model), out)


def _patch(model: Model) -> int:
    """The side of the patches that the network works on; 2 if it works on none or is not known."""
    if isinstance(model.network, VideoUNet):
        side = model.network.network.patch
    else:  # an engine
        file = model.folder / "config.json" if model.folder else None
        network = read_description(file).get("network") if file and file.exists() else None
        side = parse(NetworkConfig, network or {}).patch
    return side if side > 1 else 2


def _check(model: Model, test: Windows, protocol: Protocol, networks: Mapping[str, Features]) -> None:
    """Raise UserError for what does not fit together."""
    check_settings(model, protocol.eps, protocol.direction, in_between=1)
    if model.shape is not None and test.size != model.size:
        data, frames = ("x".join(map(str, size)) for size in (test.size, model.size))
        raise UserError(f"{test.root} has {data} frames, but the model makes {frames} ones.", setting="data")
    for network in networks.values():
        network.check(network.span or protocol.window, test.size)
        if network.span and protocol.window < -(-network.span // protocol.frame_stride) * protocol.frame_stride:
            what = f"{network.name} sees one frame in {protocol.frame_stride}, and windows have {protocol.window}"
            raise UserError(f"{what}. Use a smaller frame_stride.", setting="window")
    real_windows(test, protocol)


def _claim(out: Path, record: dict) -> None:
    """Write down what `out` is for, or make sure that it is for the same."""
    path, now = out / "protocol.json", json.loads(json.dumps(record))
    check_not_others(out, ("metrics.json", "first.npy", "nearest.png", "videos", "costs", "features"), path.name)
    begun = path.exists()
    failure, advice = "does not describe an evaluation", "Remove the folder, or use another."
    before: dict = {**read_document(path, Claim, failure, advice)} if begun else now
    # An earlier version knew fewer settings, which had their defaults, and wrote down less of the model and the data.
    usual = {**now, "settings": json.loads(json.dumps(asdict(Protocol()))), "model": now["model"] | WITHOUT}
    before |= {key: {**usual[key], **before.get(key, {})} for key in ("settings", "model", "data")}
    # Not the version of the code: a run may resume after an update.
    matters = ("settings", "model", "data", "networks", "actions_file")
    if different := [d for key in matters for d in differences(before.get(key), now.get(key), key)]:
        message = f"{out} holds an evaluation with another {different[0]}; remove it, or use another folder."
        raise UserError(message, setting="out")
    if not begun:
        write_json(path, record)


def summary(result: dict) -> str:
    """The numbers in a few lines."""
    nfe, settings = result["nfe"], result["protocol"]["settings"]
    lines = [
        f"{name.upper()} {d['mean']:.4g} [{d['interval'][0]:.4g}, {d['interval'][1]:.4g}], mean over "
        + (f"{len(d['per_window'])} windows; {d['slope']:+.3g} per frame." if len(d["per_window"]) > 1 else "1 window.")
        for name, d in result.items()
        if isinstance(d, dict) and "per_window" in d
    ]
    extra = result.get("past_and_actions", {"notes": []})
    level = eps_text(settings["eps"], result["eps"]["mean"] if "eps" in result else None)
    under = f", actions {settings['actions']}" if settings.get("actions") else ""
    lines += [
        *past_and_actions.summary(extra),
        f"NFE {nfe['mean']:.2f} per frame, 95 % up to {nfe['p95']:g}; {result['seconds_per_frame']:.3f} s per frame.",
        f"Protocol {settings['name']}: {result['protocol']['model']['method']}, eps {level}{under}, "
        f"{settings['samples']} videos.",
    ]
    return "\n".join(filter(None, [*lines, result["note"], *extra["notes"]]))
