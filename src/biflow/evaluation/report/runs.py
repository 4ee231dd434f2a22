"""Evaluated models, and which of them may be in one table."""

import json
from pathlib import Path
from types import SimpleNamespace

from biflow.errors import UserError
from biflow.evaluation.past_and_actions import PARTS, explained
from biflow.evaluation.protocol import Protocol
from biflow.methods import METHODS

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
        method: the method, of which only `name`, `title` and `takes_eps` are known if it is not one of `METHODS`.
        label: the name in tables and plots, as in the paper.
        comparable: equal for runs whose numbers may be compared: data, and all settings except those that the paper
            varies, and the actions, which are part of the label.

    Raises:
        KeyError, TypeError: the metrics are not those of an evaluation.
    """

    def __init__(self, folder: Path, metrics: dict):
        self.folder, self.metrics, self.protocol = folder, metrics, metrics["protocol"]
        self.settings, self.data = self.protocol["settings"], self.protocol["data"]["name"]
        self.fvd, self.nfe, eps = metrics["fvd"]["mean"], metrics["nfe"]["mean"], self.settings["eps"]
        name = self.protocol["model"]["method"]
        self.method = METHODS.get(name) or SimpleNamespace(name=name, title=name, takes_eps=eps > 0)
        self.label = f"{self.method.title} ε {eps:g}" if self.method.takes_eps else self.method.title
        self.label += ", backward" if self.settings["direction"] == "backward" else ""
        actions, file = self.settings.get("actions"), self.protocol.get("actions_file")
        if file:
            actions = f"{file['name']} ({file['sha256'][:8]})"
        self.label += f", actions {actions}" if actions else ""
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
        how: what the numbers of the past and of actions are, with their protocol, a sentence each.
        best: the one with the lowest FVD among those with a noise level, which the paper marks with a star.
    """

    def __init__(self, name: str, runs: list[Run]):
        self.name, self.runs = name, runs
        solvers = [(run, run.settings["solver"]) for run in runs]
        self.equal_cost = [run for run, solver in solvers if (solver["method"], solver["steps"]) == ("euler", 20)]
        self.main = [run for run in runs if run not in self.equal_cost]
        self.forward = [run for run in self.main if run.settings["direction"] == "forward"]
        self.how = list(dict.fromkeys(line for run in runs for line in explained(run.extra)))
        noisy = [run for run in self.forward if run.method.takes_eps]
        self.best = min(noisy, key=lambda run: run.fvd, default=None)

    def directions(self) -> list[tuple[Run, Run]]:
        """Pairs (backward, forward) with the same model, eps and solver."""
        pairs: dict[str, dict[str, Run]] = {}
        for run in self.runs:
            key = json.dumps([run.protocol["model"], run.settings["eps"], run.settings["solver"]])
            pairs.setdefault(key, {})[run.settings["direction"]] = run
        return [(pair["backward"], pair["forward"]) for pair in pairs.values() if len(pair) == 2]


def read_runs(folders: list[Path]) -> list[Run]:
    """The evaluated models in these folders, sorted by data, method and eps. Raises UserError if one holds none."""
    runs = []
    for folder in folders:
        path = folder / "metrics.json"
        if not path.is_file():
            raise UserError(f"{folder} holds no metrics.json; give folders written by `biflow evaluate`.")
        try:
            runs.append(Run(folder, json.loads(path.read_text())))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read as an evaluation ({error!r}); evaluate again.") from error
    order = [*METHODS, *(run.method.name for run in runs)]
    return sorted(runs, key=lambda run: (run.data, order.index(run.method.name), run.settings["eps"], run.label))


def groups(runs: list[Run]) -> list[Group]:
    """The runs in groups named after their data, with a number if the data is that of several groups."""
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(run.comparable, []).append(run)
    data = [part[0].data for part in members.values()]
    names = [name if data.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(data)]
    return [Group(name, part) for name, part in zip(names, members.values(), strict=True)]
