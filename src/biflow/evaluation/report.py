"""Tables, plots and a page from evaluated models: the paper's Table 1 and 2, its charts, and Fig. 4 and 5."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from biflow.errors import UserError
from biflow.evaluation import figures, page
from biflow.evaluation.generate import read_video
from biflow.files import write_text
from biflow.sampling import TITLES
from biflow.video import contact_sheet

# Table 1 (FVD, steps) and Table 2 (FVD at 20 Euler steps) of Liu & Ritschel 2025.
SETS = ("SKY", "BIKING", "RIDING", "CARLA", "MAZES", "MINERL")
TABLE_1 = {
    "FLOW": ((2144, 7.84), (14010, 10.38), (9154, 7.43), (4913, 7.78), (5051, 10.02), (3259, 10.20)),
    "BI-FLOW": ((526, 14.57), (3753, 25.63), (1552, 13.73), (345, 23.51), (605, 29.62), (834, 25.73)),
    "CONDIFF": ((1271, 46.18), (11465, 33.15), (4668, 37.73), (947, 53.77), (424, 45.31), (1149, 41.61)),
}
TABLE_2 = {
    "FLOW": (2109, 11158, 8984, 4931, 4928, 3170),
    "BI-FLOW": (491, 3271, 1621, 307, 620, 823),
    "CONDIFF": (994, 10253, 6698, 829, 655, 2286),
}
HEADER = ("| | FVD ↓ | a frame | KVD ↓ | NFE a frame ↓ | 95 % below | solver |", "|---|---|---|---|---|---|---|")
ORDER = ("flow", "biflow", "condiff")


@dataclass(frozen=True)
class Run:
    """An evaluated model: its folder and the content of its metrics.json."""

    folder: Path
    metrics: dict

    @property
    def settings(self) -> dict:
        return self.metrics["protocol"]["settings"]

    @property
    def method(self) -> str:
        return self.metrics["protocol"]["model"]["method"]

    @property
    def label(self) -> str:
        """As the paper's tables call it."""
        eps = f" ε {self.settings['eps']:g}" if self.method == "biflow" else ""
        back = ", backward" if self.settings["direction"] == "backward" else ""
        return f"{TITLES[self.method]}{eps}{back}"

    @property
    def data(self) -> str:
        return self.metrics["protocol"]["data"]["name"]

    @property
    def twenty_steps(self) -> bool:
        """Whether it belongs into Table 2."""
        return self.settings["solver"]["method"] == "euler" and self.settings["solver"]["steps"] == 20

    @property
    def group(self) -> tuple[str, str]:
        """What numbers must share to stand in one table: the data, and all settings but those that the paper varies."""
        settings = {k: v for k, v in self.settings.items() if k not in ("eps", "solver", "direction", "nearest")}
        protocol = self.metrics["protocol"]
        return self.data, json.dumps([settings, protocol["data"]["sha256"], protocol["networks"]], sort_keys=True)


def read_runs(folders: list[Path]) -> list[Run]:
    """The evaluated models in these folders. Raises UserError for one that is none."""
    runs = []
    for folder in folders:
        path = folder / "metrics.json"
        if not path.is_file():
            raise UserError(f"{folder} holds no metrics.json; give folders that `biflow evaluate` has written.")
        try:
            runs.append(Run(folder, json.loads(path.read_text())))
            _ = runs[-1].group, runs[-1].label, runs[-1].metrics["fvd"]["mean"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read as an evaluation ({error!r}); evaluate again.") from error
    return sorted(runs, key=lambda run: (run.data, ORDER.index(run.method), run.settings["eps"], run.label))


def report(folders: list[Path], out: Path) -> Path:
    """Write the report of evaluated models into `out` and return the path of its page.

    `report.md` and `report.csv` (tables), `scatter_*`, `time_*`, `measures_*` (plots, PNG and SVG), `methods_*.png`
    (Fig. 4: five frames uniformly over time for each method), `directions_*.png` (Fig. 5: backward, first frame,
    forward), and `report.html`, one file with all of it and the videos side by side. What was measured by another
    protocol or on other data stands in a table of its own. Raises UserError for folders that hold no evaluation.
    """
    runs = read_runs(folders)
    out.mkdir(parents=True, exist_ok=True)
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    sections = []
    for number, ((data, _), members) in enumerate(groups.items()):
        stem = f"{data}" if sum(key[0] == data for key in groups) == 1 else f"{data}_{number}"
        forward = [run for run in members if run.settings["direction"] == "forward"]
        adaptive = [run for run in forward if not run.twenty_steps]
        drawn = []
        if adaptive:
            drawn.append(figures.scatter(adaptive, best(adaptive), out / f"scatter_{stem}"))
            drawn.append(figures.over_time(adaptive, out / f"time_{stem}"))
            drawn.append(figures.measures(adaptive, out / f"measures_{stem}"))
            methods_sheet(adaptive, out / f"methods_{stem}.png")
        for pair in _directions(members):
            directions_sheet(*pair, out / f"directions_{stem}_{pair[0].settings['eps']:g}.png")
        sections.append((stem, members, drawn))
    text = markdown(sections)
    write_text(out / "report.md", text)
    write_text(out / "report.csv", table_csv(runs))
    write_text(out / "report.html", page.render(sections, text))
    return out / "report.html"


def best(runs: list[Run]) -> Run | None:
    """The BI-FLOW run of the least FVD, which the paper reports and marks with a star."""
    ours = [run for run in runs if run.method == "biflow"]
    return min(ours, key=lambda run: run.metrics["fvd"]["mean"], default=None)


def markdown(sections: list[tuple[str, list[Run], list[Path]]]) -> str:
    """All tables, with the protocol of each in words and the paper's numbers behind them."""
    lines = ["# Evaluation", ""]
    for stem, runs, plots in sections:
        settings, protocol = runs[0].settings, runs[0].metrics["protocol"]
        windows = runs[0].metrics["windows"]
        lines += [
            f"## {stem}",
            "",
            f"Protocol **{settings['name']}**: {settings['samples']} videos of {settings['frames']} frames, from "
            f"frames of the test split; windows of {settings['window']} frames every {settings['stride']}, "
            f"{windows['generated']} generated ones at each time against {windows['real']} real ones; "
            f"{protocol['networks']['i3d']['name']}; intervals are 95 % bootstrap over videos.",
            "",
        ]
        if note := runs[0].metrics.get("note"):
            lines += [f"> {note}", ""]
        adaptive = [run for run in runs if not run.twenty_steps]
        star = best([run for run in adaptive if run.settings["direction"] == "forward"])
        if adaptive:
            lines += [*HEADER, *(_row(run, " ★" if run is star else "") for run in adaptive)]
            lines += _paper_rows(stem)
            lines += ["", "★ BI-FLOW's best ε. *a frame*: the rise of FVD's trend line.", ""]
        if twenty := [run for run in runs if run.twenty_steps]:
            lines += ["Equal cost, 20 Euler steps a frame (Table 2 of the paper):", ""]
            head = HEADER[0].replace("NFE a frame ↓", "NFE a frame")  # equal for all
            lines += [head, HEADER[1], *(_row(run, "") for run in twenty), ""]
        lines += [line for plot in plots for line in (f"![{plot.stem}]({plot.with_suffix('.png').name})", "")]
    return "\n".join([*lines, *_paper_tables()])


def _row(run: Run, mark: str) -> str:
    fvd, kvd, nfe = (run.metrics[key] for key in ("fvd", "kvd", "nfe"))
    solver = run.settings["solver"]
    how = "reference" if solver["reference"] else solver["method"]
    how += f" x {solver['steps']}" if solver["steps"] else f", {solver['rtol']:g}"
    return (
        f"| {run.label}{mark} | {fvd['mean']:.0f} [{fvd['interval'][0]:.0f}, {fvd['interval'][1]:.0f}] "
        f"| {fvd['slope']:+.2f} | {kvd['mean']:.1f} [{kvd['interval'][0]:.1f}, {kvd['interval'][1]:.1f}] "
        f"| {nfe['mean']:.2f} | {nfe['p95']:g} | {how} |"
    )


def _paper_rows(data: str) -> list[str]:
    """The paper's numbers for a set that is named like one of its own."""
    column = next((i for i, name in enumerate(SETS) if name.lower() in data.lower()), None)
    if column is None:
        return []
    rows = ((method, values[column]) for method, values in TABLE_1.items())
    return [f"| *{method}, the paper's* | *{fvd}* | | | *{nfe}* | | *Heun, 0.01* |" for method, (fvd, nfe) in rows]


def _paper_tables() -> list[str]:
    lines = [
        "## The paper's numbers",
        "",
        "Liu & Ritschel 2025, Table 1 (FVD / steps; 128 videos of 512 frames) and Table 2 (FVD at 20 Euler steps). "
        "Other data, training and counts than above: not to be compared with it number by number.",
        "",
        f"| | {' | '.join(SETS)} |",
        f"|---|{'---|' * len(SETS)}",
    ]
    lines += [f"| {m} | {' | '.join(f'{fvd} / {nfe}' for fvd, nfe in values)} |" for m, values in TABLE_1.items()]
    lines += [f"| {m}, 20 steps | {' | '.join(map(str, values))} |" for m, values in TABLE_2.items()]
    return [*lines, ""]


def table_csv(runs: list[Run]) -> str:
    """One line a run with everything that the tables show, and what it was measured by."""
    text = io.StringIO()
    names = ["data", "method", "eps", "direction", "solver", "steps", "protocol", "model_sha256"]
    for key in ("fvd", "kvd"):
        names += [key, f"{key}_low", f"{key}_high", f"{key}_slope"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "nfe", "nfe_p95", "seconds_per_frame"])
    for run in runs:
        settings, metrics = run.settings, run.metrics
        row = [run.data, TITLES[run.method], settings["eps"], settings["direction"]]
        row += [settings["solver"]["method"], settings["solver"]["steps"], settings["name"]]
        row += [metrics["protocol"]["model"]["sha256"]]
        for key in ("fvd", "kvd"):
            row += [metrics[key]["mean"], *metrics[key]["interval"], metrics[key]["slope"]]
        writer.writerow([*row, metrics["nfe"]["mean"], metrics["nfe"]["p95"], metrics["seconds_per_frame"]])
    return text.getvalue()


def methods_sheet(runs: list[Run], path: Path) -> None:
    """Fig. 4: five frames of the first video of each run, uniformly over time."""
    times = np.linspace(0, runs[0].settings["frames"] - 1, 5).round().astype(int).tolist()
    rows = [list(read_video(run.folder, 0)[times]) for run in runs]
    caption = f"Frames {', '.join(str(t + 1) for t in times)} after the same given frame."
    contact_sheet(rows, path, caption, [_in_sheet(run.label) for run in runs])


def _in_sheet(label: str) -> str:
    """The label without the letter that a contact sheet's font lacks."""
    return label.replace("ε", "eps")


def directions_sheet(backward: Run, forward: Run, path: Path) -> None:
    """Fig. 5: backward | first frame | forward."""
    given = np.load(forward.folder / "first.npy", allow_pickle=False)
    times = np.linspace(0, forward.settings["frames"] - 1, 4).round().astype(int).tolist()
    rows: list[list[Tensor]] = []
    for sample in range(min(4, forward.settings["samples"])):
        before = read_video(backward.folder, sample)[times].flip(0)
        after = read_video(forward.folder, sample)[times]
        rows.append([*before, torch.from_numpy(given[sample]), *after])
    shown = [*(f"-{t + 1}" for t in reversed(times)), "given", *(f"+{t + 1}" for t in times)]
    contact_sheet(rows, path, f"{_in_sheet(forward.label)}. Backward, given frame, forward: {', '.join(shown)}.")


def _directions(runs: list[Run]) -> list[tuple[Run, Run]]:
    """Pairs (backward, forward) of one model, eps and solver."""

    def what(run: Run) -> str:
        return json.dumps([run.metrics["protocol"]["model"], run.settings["eps"], run.settings["solver"]])

    there = {what(run): run for run in runs if run.settings["direction"] == "forward"}
    back = (run for run in runs if run.settings["direction"] == "backward")
    return [(run, there[what(run)]) for run in back if what(run) in there]
