"""The card of a model, README.md in its folder: what is known of it, and nothing else. `biflow info` prints the same.

What is known comes from the files of the folder: `config.json`, the weights, `evidence.json` of an exported model or
the newest checkpoint of a run, and evaluations of exactly these weights.
"""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import jinja2
import yaml

from biflow import methods
from biflow.config import TrainConfig, eps_text
from biflow.data.windows import Windows, is_prepared
from biflow.documents import checked, read_document, read_json
from biflow.errors import UserError
from biflow.files import sha256, write_text
from biflow.hub import model_folder, repository
from biflow.model import read_description, weights_file
from biflow.moments import FILE as MOMENTS
from biflow.schemas import Evidence, ModelFile, Results, State
from biflow.tensors import entries

CARD, PICTURE, EVIDENCE = "README.md", "stream.webp", "evidence.json"
MARK = "<!-- biflow wrote this card"
UNKNOWN = "not recorded"
NO_LICENCE = "Unknown: none was named when the model was exported. Ask its authors before you use or share it."
Rows = dict[str, str]


def write_card(folder: Path, state: Mapping[str, Any] | None = None) -> None:
    """Write README.md of a model folder, unless somebody has made it theirs. Raises UserError.

    `state` is that of a run whose weights were just written.
    """
    path = folder / CARD
    if path.exists() and MARK not in path.read_text("utf-8", errors="replace"):
        return
    known = _record(folder) if state is None else _of_run(folder, state)
    description = read_description(folder / "config.json")
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    template = environment.from_string((Path(__file__).parent / "card.md").read_text("utf-8"))
    content = {
        "front": yaml.safe_dump(_front(known, description), sort_keys=False, allow_unicode=True),
        "name": name_of(folder),
        "picture": (folder / PICTURE).exists(),
        "about": _about(description),
        "first": (folder / "first").is_dir(),
        "clips": methods.get(description.get("method", "biflow")).clips,
        "sections": _sections(folder, description, known),
        "results": bool(known.get("results")),
        "limits": _limits(description, known),
        "licence": (f"`{known['license']}`." if known.get("license") else NO_LICENCE) + _notices(folder),
    }
    write_text(path, template.render(content))


def info(model: Path) -> str:
    """What is known of a model, a run, a model on the Hub or a prepared set, as plain text. Raises UserError."""
    folder = model_folder(model)
    if is_prepared(folder):
        return _plain(name_of(folder), "A prepared set.", {"Data": {"folder": str(folder), **_of_set(folder)}})
    if not (folder / "config.json").exists():
        raise UserError(f"No model in {folder}. Give a run, a model folder, an id on the Hub, or a prepared set.")
    description, known = read_description(folder / "config.json"), _record(folder)
    sections = _sections(folder, description, known)
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = f"{sum(path.stat().st_size for path in files) / 1e6:.1f} MB in {_count(len(files), 'file')}"
    sections = {"Files": {"folder": str(folder), "size": size}, **sections}
    sections["Licence"] = {"licence": known.get("license") or "unknown"}
    return _plain(name_of(folder), _about(description), sections)


def name_of(folder: Path) -> str:
    """What a model is called: its id on the Hub, or the name of its folder."""
    return (repository(folder) or "").partition("@")[0] or folder.resolve().name


def results_of(evaluation: Path, weights: Path) -> Results:
    """The numbers of an evaluation by `biflow evaluate` of exactly these weights, with their protocol.

    Raises:
        UserError: there is no evaluation, or it is of other weights.
    """
    metrics = read_json(evaluation / "metrics.json")
    try:
        protocol = metrics["protocol"]
        if protocol["model"]["sha256"] != sha256(weights):
            raise UserError(f"{evaluation} is an evaluation of other weights than {weights}; evaluate these.")
        numbers = {
            name: {key: part[key] for key in ("mean", "interval")}
            for name, part in metrics.items()
            if isinstance(part, dict) and "per_window" in part
        }
        speed = {"nfe": metrics["nfe"]["mean"], "seconds_per_frame": metrics["seconds_per_frame"]}
        kept = ("settings", "data", "hardware", "engine", "commit")
        results = {"numbers": numbers, **speed, "protocol": {key: protocol.get(key) for key in kept}}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{evaluation / 'metrics.json'} is not an evaluation by this version of biflow.") from error
    return checked(results, Results, f"{evaluation / 'metrics.json'} holds no results for a card", "Evaluate again.")


def read_evidence(folder: Path) -> Evidence:
    """What `evidence.json` of a model folder says, nothing if there is none. Raises UserError if it is damaged."""
    path = folder / EVIDENCE
    if not path.exists():
        return {}
    return read_document(path, Evidence, "is not a record of a training", "Remove it, or export the model again.")


def _record(folder: Path) -> dict[str, Any]:
    """What was written down when the model was trained: evidence.json, or the state of a run's newest checkpoint."""
    if (folder / EVIDENCE).exists():
        return dict(read_evidence(folder))
    for path in sorted((folder / "checkpoints").glob("step_*/state.json"), reverse=True):
        with contextlib.suppress(UserError):  # a damaged checkpoint, which the next training replaces
            return _of_run(folder, read_document(path, State, "is not the state of a run", ""))
    return {}


def _of_run(folder: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a run with this state, with an evaluation in its folder of the weights that it has."""
    known: dict[str, Any] = {**state, "hours": state["seconds"] / 3600}
    for path in sorted(folder.glob("*/metrics.json")):
        with contextlib.suppress(UserError):  # of weights that the run has left behind
            known["results"] = results_of(path.parent, weights_file(folder))
    return known


def _notices(folder: Path) -> str:
    links = [f"[{path.name}]({path.name})" for kind in ("LICENSE*", "NOTICE*") for path in sorted(folder.glob(kind))]
    return f" See also {', '.join(links)}." if links else ""


def _front(known: dict, description: ModelFile) -> dict[str, Any]:
    """The header that the Hub reads."""
    front: dict[str, Any] = {"library_name": "biflow", "pipeline_tag": "image-to-video"}
    front["tags"] = ["biflow", "diffusers", "video-generation", "flow-matching", description.get("method", "biflow")]
    if given := known.get("license"):  # the Hub takes identifiers of its list, and other names beside "other"
        simple = re.fullmatch(r"[a-z0-9.+-]+", given)
        front |= {"license": given} if simple else {"license": "other", "license_name": given}
    return {**front, "tags": list(dict.fromkeys(front["tags"]))}


def _about(description: ModelFile) -> str:
    method, fps = methods.get(description.get("method", "biflow")), description.get("fps")
    height, width = description.get("size", (64, 64))
    rate = f" and {fps:g} frames per second" if fps else ""
    steered = ", and takes actions" if description.get("actions") else ""
    does = "It continues a picture as video, frame by frame"
    if method.clips:
        does = f"It makes clips of {description.get('span', 1)} frames, all at once"
    return f"A {method.title} video model. {does}, at {width}x{height}{rate}{steered}."


def _sections(folder: Path, description: ModelFile, known: dict) -> dict[str, Rows]:
    sections = {"Model": _of_model(folder, description), "Training": _of_training(known), "Data": _of_data(known)}
    return sections | ({"Results": _of_results(known["results"])} if known.get("results") else {})


def _of_model(folder: Path, description: ModelFile) -> Rows:
    method, actions = methods.get(description.get("method", "biflow")), description.get("actions")
    shape = description.get("network") or {}
    rows = {"method": method.title, "frames": "{1}x{0}".format(*description.get("size", (64, 64)))}
    fps, context = description.get("fps"), description.get("context")
    rows["rate"] = f"{fps:g} frames per second" if fps else "unknown"
    if method.takes_eps:
        rows["noise level"] = f"{description.get('eps', 0.1):g}"
    if (span := description.get("span", 1)) > 1:
        rows["frames per solve"] = str(span)
    if context:
        rows["past frames"] = str(context)
    if actions:
        rows["actions"] = ", ".join([*actions["columns"]])
    weights = weights_file(folder)
    if weights.exists():
        tensors = entries(weights).values()
        parameters, kinds = sum(prod(one.shape) for one in tensors), {one.dtype for one in tensors}
        widths = f", widths {', '.join(map(str, shape['channels']))}" if shape.get("channels") else ""
        rows["network"] = f"{parameters / 1e6:.1f} million parameters{widths}"
        rows["weights"] = f"{weights.stat().st_size / 1e6:.1f} MB, {', '.join(sorted(kinds))}: {weights.name}"
    if (folder / "first").is_dir():
        names = [path.name for path in (folder / "first").iterdir()]
        rows["first frames"] = str(len([name for name in names if name[:1] != "." and name != MOMENTS]))
    return rows


def _of_training(known: dict) -> Rows:
    if not known:
        return {"training": UNKNOWN}
    config, step = known.get("config", {}), known.get("step")
    steps = config.get("steps")
    share = f" of {steps:,} ({step / steps:.0%})" if step and steps and step < steps else ""
    usual = asdict(TrainConfig())
    settings = {key: value for key, value in config.items() if value != _plain_value(usual.get(key))}
    shown = (f"{key} {_short(value)}" for key, value in settings.items() if key not in ("network", "steps"))
    rows = {"steps": f"{step:,}{share}" if step else UNKNOWN}
    frames = methods.get(config.get("method", "biflow")).frames(config.get("span", 1))
    what = "pairs of frames" if frames == 2 else f"windows of {frames} frames"
    rows["samples"] = f"{known['samples']:,} {what}" if known.get("samples") else UNKNOWN
    rows["time"] = f"{known['hours']:.2g} hours" if known.get("hours") else UNKNOWN
    rows["hardware"] = known.get("hardware") or UNKNOWN
    rows["losses"] = ", ".join(f"{name} {value:.3g}" for name, value in known.get("losses", {}).items()) or UNKNOWN
    rows["settings"] = ", ".join(shown) or "the defaults"
    rows["commit"] = known.get("commit") or UNKNOWN
    return rows


def _of_data(known: dict) -> Rows:
    data = known.get("data")
    if not data:
        return {"data": UNKNOWN}
    rows = {"name": data["name"]} if data.get("name") else {}
    rows |= {"clips": f"{data['clips']:,}", "frames": f"{data['frames']:,} of {{1}}x{{0}}".format(*data["size"])}
    rows |= {"rate": f"{data['fps']:g} frames per second" if data.get("fps") else "unknown"}
    return rows | ({"actions": ", ".join(data["columns"])} if data.get("columns") else {})


def _of_results(results: dict) -> Rows:
    settings, data = results["protocol"]["settings"], results["protocol"]["data"]
    rows = {
        name.upper(): "{:.4g} (95 % interval {:.4g} to {:.4g})".format(part["mean"], *part["interval"])
        for name, part in results["numbers"].items()
    }
    rows["speed"] = f"{results['nfe']:.2f} evaluations and {results['seconds_per_frame']:.3f} s per frame"
    rows["speed"] += f" on {results['protocol']['hardware']}, {results['protocol']['engine']}"
    solver = settings["solver"]
    steps = f", {solver['steps']} steps" if solver["steps"] else f", rtol {solver['rtol']:g}"
    rows["protocol"] = f"{settings['name']}: {settings['samples']} videos of {settings['frames']} frames, "
    rows["protocol"] += f"noise level {eps_text(settings['eps'])}, {solver['method']}{steps}, {settings['direction']}"
    rows["compared with"] = f"{data['name']}, {data['split']} split: {data['clips']} clips, {data['frames']:,} frames"
    return rows | {"code": results["protocol"]["commit"] or UNKNOWN}


def _limits(description: ModelFile, known: dict) -> list[str]:
    height, width = description.get("size", (64, 64))
    method, data = methods.get(description.get("method", "biflow")), known.get("data")
    seen = description.get("context", 0)
    whole = " (the set has {clips:,} clips and {frames:,} frames, test clips included)"
    amount = whole.format(**data) if data else ""
    past = f"the {seen} frames before it" if seen else "nothing before it"
    limits = [
        f"Frames are {width}x{height}. Pictures of another size are resized to start from.",
        f"It has seen only the training clips of its set{amount}, and makes up what they did not show.",
    ]
    if method.clips:
        limits.append("It does not stream: all frames of a clip are made together.")
    else:
        limits.append(f"It sees the current frame and {past}. What is out of sight is forgotten.")
    if method.takes_eps:
        limits.append("At noise level 0 it predicts without correcting itself, and long streams drift.")
    return limits


def _of_set(folder: Path) -> Rows:
    windows = Windows(folder, split="all")
    clips, sides = windows.clips, "{1}x{0}".format(*windows.size)
    splits = {split: [clip["frames"] for clip in clips if clip["split"] == split] for split in ("train", "test")}
    rows = {split: f"{_count(len(frames), 'clip')}, {_count(sum(frames), 'frame')}" for split, frames in splits.items()}
    rows |= {"frames": sides, "rate": f"{windows.fps:g} frames per second" if windows.fps else "unknown"}
    return rows | ({"actions": ", ".join(windows.actions.columns)} if windows.actions else {})


def _plain(name: str, about: str, sections: dict[str, Rows]) -> str:
    width = max(len(label) for rows in sections.values() for label in rows)
    lines = [name, about]
    for title, rows in sections.items():
        lines += ["", title, *(f"  {label:{width}}  {text}" for label, text in rows.items())]
    return "\n".join(lines)


def _plain_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
