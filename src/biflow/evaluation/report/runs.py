"""Evaluated models, and which of them may be in one table."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from biflow.config import eps_text
from biflow.documents import checked, map_array, parsed_json, read_bytes
from biflow.errors import UserError, shown
from biflow.evaluation.past_and_actions import PARTS, explained
from biflow.evaluation.protocol import Protocol
from biflow.evaluation.schemas import Distance, Metrics, Settings
from biflow.evaluation.videos import video_path
from biflow.methods import METHODS

log = logging.getLogger("biflow")
SHOWN = 4  # videos of each run that the page shows
ENDS = 16  # videos of each run of which a picture shows the last frame; no fewer than SHOWN

VARIED = ("eps", "solver", "direction", "nearest", "actions")  # what may differ within a table
# Settings that evaluations by earlier versions lack. They concern additional numbers only.
NEW = {name: json.loads(json.dumps(getattr(Protocol(), name))) for name in ("short_videos", "truth", "turn")}


class Run:
    """An evaluated model.

    Attributes:
        folder: the folder of the evaluation.
        metrics: the content of its metrics.json; `protocol`, `settings`, and the means `fvd` and `nfe` are
            parts of it.
        extra: the parts of `biflow.evaluation.past_and_actions`, None for one that was left out; {} for an evaluation
            by an earlier version.
        data: the name of the data.
        model: what is recorded of the model, for comparison.
        method: the method, of which only `name`, `title` and `takes_eps` are known if it is not one of `METHODS`.
        label: the name in tables and plots, as in the paper. A `Group` adds what tells its runs apart.
        level: the noise level, for sorting: infinity where it was chosen from frame to frame.
        mean_eps: the mean of those that were chosen from frame to frame, if they were.
        eps: the noise level in words.
        solver: how frames were solved, in words.
        slope: the rise of FVD per frame; None where a single window gives no trend.
        lpips: LPIPS between frames and the previous ones, over that of real videos, if it was measured.
        lost: those of its files that pictures need and that are missing or damaged.
        size: (h, w) of its frames; None where files are lost.
        comparable: equal for runs whose numbers may be compared: data, and all settings except those that the paper
            varies, and the actions, which are part of the label.

    """

    def __init__(self, folder: Path, metrics: Metrics):
        self.folder, self.metrics, self.protocol = folder, metrics, metrics["protocol"]
        self.settings, self.data = self.protocol["settings"], self.protocol["data"]["name"]
        self.fvd, self.nfe, eps = metrics["fvd"]["mean"], metrics["nfe"]["mean"], self.settings["eps"]
        self.model = json.dumps(self.protocol["model"], sort_keys=True)
        self.level = math.inf if eps == "auto" else eps
        self.mean_eps = metrics["eps"]["mean"] if "eps" in metrics else None
        self.eps = eps_text(eps, self.mean_eps)
        name = self.protocol["model"]["method"]
        self.method = METHODS.get(name) or SimpleNamespace(name=name, title=name, takes_eps=self.level > 0)
        self.label = f"{self.method.title} ε {self.eps}" if self.method.takes_eps else self.method.title
        self.label += ", backward" if self.settings["direction"] == "backward" else ""
        actions, file = self.settings.get("actions"), self.protocol.get("actions_file")
        if file:
            actions = f"{file['name']} ({file['sha256'][:8]})"
        self.label += f", actions {_script(actions)}" if actions else ""
        solver = self.settings["solver"]
        steps = f" x {solver['steps']}" if solver["steps"] else f", {solver['rtol']:g}"
        self.solver = ("reference" if solver["reference"] else solver["method"]) + steps
        self.slope = metrics["fvd"]["slope"] if len(metrics["fvd"]["per_window"]) > 1 else None
        lpips = metrics["over_time"].get("lpips_to_previous")
        self.lpips = float(np.mean(lpips["generated"]) / lpips["real"]) if lpips and lpips["real"] else None
        self.lost, self.size = _lost(folder, self.settings)
        found = metrics.get("past_and_actions")
        self.extra = {name: found.get(name) for name in PARTS} if found else {}
        settings = {k: v for k, v in {**NEW, **self.settings}.items() if k not in VARIED}
        data, networks = self.protocol["data"]["sha256"], self.protocol["networks"]
        self.comparable = json.dumps([self.data, settings, data, networks], sort_keys=True)


class Group:
    """Runs whose numbers may be compared.

    Attributes:
        name: for titles and file names.
        runs: all of them.
        equal_cost: those of the paper's Table 2, with 20 Euler steps per frame.
        main: the others, as in Table 1.
        forward: those of `main` that the plots show.
        pictured: those of `forward` whose videos are still there.
        of_frames: those with FID and KID.
        notes: what limits their distances, each note once.
        how: what the numbers of the past and of actions are, with their protocol, a sentence each.
        best: of models at several noise levels, the run with the lowest FVD, which the paper marks with a star.
    """

    def __init__(self, name: str, runs: list[Run]):
        self.name, self.runs = name, runs
        solvers = [(run, run.settings["solver"]) for run in runs]
        twenty = [run for run, solver in solvers if (solver["method"], solver["steps"]) == ("euler", 20)]
        self.equal_cost = [run for run in twenty if round(run.nfe) == 20]  # not where several frames share the steps
        for run in self.equal_cost:
            run.label += ", 20 steps"
        _tell_apart(runs)
        self.main = [run for run in runs if run not in self.equal_cost]
        self.forward = [run for run in self.main if run.settings["direction"] == "forward"]
        whole = [run for run in self.forward if not run.lost]
        self.pictured = [run for run in whole if run.size == whole[0].size]
        self.notes = list(dict.fromkeys(filter(None, (run.metrics.get("note") for run in runs))))
        self.how = list(dict.fromkeys(line for run in runs for line in explained(run.extra)))
        self.of_frames = [run for run in runs if {"fid", "kid"} <= distances(run.metrics).keys()]
        noisy = [run for run in self.forward if run.method.takes_eps]
        models = [model for model, _ in {(run.model, run.level) for run in noisy}]  # once for each level
        compared = [run for run in noisy if models.count(run.model) > 1]
        self.best = min(compared, key=lambda run: run.fvd, default=None)

    def directions(self) -> list[tuple[Run, Run]]:
        """Pairs (backward, forward) that are the same in all else, and whose videos are still there."""
        pairs: dict[str, dict[str, Run]] = {}
        for run in (run for run in self.runs if not run.lost):
            varied = {name: run.settings.get(name) for name in VARIED if name != "direction"}
            key = json.dumps([run.model, varied, run.protocol.get("engine"), run.size], sort_keys=True)
            pairs.setdefault(key, {})[run.settings["direction"]] = run
        for alone in (pair["backward"] for pair in pairs.values() if "forward" not in pair):
            log.info("%s: no run is the same but forward, so there is no picture of both directions.", alone.label)
        return [(pair["backward"], pair["forward"]) for pair in pairs.values() if len(pair) == 2]


def distances(metrics: Metrics) -> dict[str, Distance]:
    """The distances of an evaluation over time, by their names: fvd and kvd, and perhaps fid and kid."""
    found = {"fvd": metrics["fvd"], "kvd": metrics["kvd"], "fid": metrics.get("fid"), "kid": metrics.get("kid")}
    return {name: distance for name, distance in found.items() if distance}


def _script(actions: str) -> str:
    """Actions in a line that is no longer than a label can be."""
    line = shown(" ".join(actions.split()))
    return line if len(line) <= 40 else f"{line[:39]}…"


def _past(run: Run) -> str:
    """How many past frames its model sees."""
    count = run.protocol["model"].get("context", 0)
    return f"{count or 'no'} past frame{'' if count == 1 else 's'}"


def _tell_apart(runs: list[Run]) -> None:
    """Add to labels that several runs share in what these differ, such as the solver, or else the folder."""
    details: list[Callable[[Run], str]] = [
        _past,
        lambda run: run.solver,
        lambda run: str(run.protocol.get("engine", "an unknown engine")),
        lambda run: run.folder.name,
        lambda run: str(run.folder),
    ]
    for detail in details:
        labels = [run.label for run in runs]
        for label in {label for label in labels if labels.count(label) > 1}:
            same = [run for run in runs if run.label == label]
            if len({detail(run) for run in same}) > 1:
                for run in same:
                    run.label = f"{label}, {detail(run)}"


def _lost(folder: Path, settings: Settings) -> tuple[list[Path], tuple[int, int] | None]:
    """The files that pictures need and that are missing or damaged, and the (h, w) of the frames where none is."""
    samples, frames = settings["samples"], settings["frames"]
    shapes = {folder / "first.npy": (samples, 3, None, None)}
    shapes |= {video_path(folder, i): (frames, None, None, 3) for i in range(min(ENDS, samples))}
    lost, size = [], None
    for path, shape in shapes.items():
        shape = shape if size is None else (samples, 3, *size) if path.name == "first.npy" else (frames, *size, 3)
        try:
            found = map_array(path, np.uint8, shape, "").shape
        except UserError:
            lost.append(path)
        else:
            size = found[2:] if path.name == "first.npy" else found[1:3]
    return lost, None if lost or size is None else (size[0], size[1])


def _contradiction(metrics: Metrics) -> str:
    """What of the metrics does not go together; "" if all does."""
    settings = metrics["protocol"]["settings"]
    windows = len(range(0, settings["frames"] - settings["window"] + 1, settings["stride"]))
    for name, found in distances(metrics).items():
        if not len(found["per_window"]) == len(found["per_window_intervals"]) == windows:
            return f"{name} has {len(found['per_window'])} windows, but its settings give {windows}"
    for name, values in metrics["over_time"].items():
        if len(values["frames"]) != len(values["generated"]):
            return f"over_time.{name} has {len(values['frames'])} frames, but {len(values['generated'])} values"
    return ""


def read_runs(folders: list[Path]) -> list[Run]:
    """The evaluated models in these folders, sorted by data, method and eps. Raises UserError if one holds none.

    The logger "biflow" names files that pictures need and that are gone.
    """
    runs, without = [], []
    for folder in folders:
        path = folder / "metrics.json"
        if not path.is_file():
            raise UserError(f"{folder} holds no metrics.json; give folders written by `biflow evaluate`.")
        content = parsed_json(read_bytes(path), str(path), "Evaluate again.")
        if isinstance(content, dict) and "fvd" not in content and "nfe" in content:
            without.append(folder)
            continue
        metrics: Metrics = checked(content, Metrics, f"{path} cannot be read as an evaluation", "Evaluate again.")
        if why := _contradiction(metrics):
            raise UserError(f"{path} cannot be read as an evaluation: {why}. Evaluate again.")
        runs.append(Run(folder, metrics))
    if without:
        more = f" and {len(without) - 3} more" if len(without) > 3 else ""
        what = f"{', '.join(map(str, without[:3]))}{more} {'has' if len(without) == 1 else 'have'} no FVD"
        if not runs:
            raise UserError(f"{what}. Evaluate with the network i3d.")
        log.warning("%s: left out of the report.", what)
    for run in (run for run in runs if run.lost):
        more = f" and {len(run.lost) - 3} more" if len(run.lost) > 3 else ""
        files = ", ".join(map(str, run.lost[:3])) + more
        log.warning("Gone or damaged: %s. The report shows no videos of this run.", files)
    order = [*METHODS, *(run.method.name for run in runs)]
    return sorted(runs, key=lambda run: (run.data, order.index(run.method.name), run.level, run.label))


def groups(runs: list[Run]) -> list[Group]:
    """The runs in groups named after their data, with a number if the data is that of several groups."""
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(run.comparable, []).append(run)
    data = [part[0].data for part in members.values()]
    names = [name if data.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(data)]
    for number in range(len(names)):
        while names[number] in names[:number]:  # a set may be called as another one with its number
            names[number] += "_"
    return [Group(name, part) for name, part in zip(names, members.values(), strict=True)]
