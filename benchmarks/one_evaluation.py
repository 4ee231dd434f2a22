"""What do one and two evaluations per frame cost in quality, and what do they save?

    python -m benchmarks.one_evaluation SET BI-FLOW FLOW-MAP [--samples 64 --frames 256] [--out runs/one_evaluation]
        [--speed] [--json FILE] [--plot FILE.png]

A BI-FLOW model by its usual solver and by one and two Euler steps, and the flow map that was learned from it in one and
two jumps. Quality is evaluated on the test clips of SET under their own actions: KVD and FVD with the slope of KVD per
frame, motion and grid texture over those of the clips. It needs the weights of I3D: biflow weights fetch i3d. Speed is
a race against the reference implementation's pipeline in float32 (benchmarks/reference_pipeline.py) with the weights of
BI-FLOW, a few frames at a time in turns, in batches of 1 and 8. `--speed` leaves the quality out. The same command
resumes an interrupted evaluation in `--out`. In the JSON file the rows replace earlier ones of this set and number of
videos, and those of speed alone replace such ones. The plot shows all sets of the file.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.against_reference import Timed, ours, race, reference, starting_frames
from biflow import Solver, load_model, with_engine
from biflow.evaluation.evaluate import evaluate
from biflow.evaluation.protocol import Protocol
from biflow.methods import BIFLOW, FLOWMAP

SOLVERS = {"usual": Solver(), "1": Solver("euler", steps=1), "2": Solver("euler", steps=2)}
CASES = [(BIFLOW.name, steps) for steps in SOLVERS] + [(FLOWMAP.name, steps) for steps in ("1", "2")]
BATCHES = (1, 8)
COLUMNS = ("nfe", "kvd", "fvd", "slope", "motion", "grid", "ratio_eager_1", "ratio_eager_8")


def quality(folder: Path, solver: Solver, data: Path, out: Path, samples: int, frames: int) -> dict[str, Any]:
    """KVD, FVD and the like of videos by this solver."""
    size: dict[str, Any] = {"samples": samples, "frames": frames, "stride": 16, "nearest": 0, "short_videos": 0}
    model = with_engine(load_model(folder), rtol=solver.rtol)
    return record.figures(evaluate(model, data, out, Protocol(name="one evaluation", solver=solver, **size)))


def speed(models: dict[str, Path], data: Path, batch: int) -> dict[tuple[str, str], dict[str, float]]:
    """Frames per second of each case, and how many times those of the reference's pipeline that is."""
    folder = models[BIFLOW.name]
    one, names = load_model(folder), {case: " ".join(case) for case in CASES}
    first = starting_frames(folder, data, one.size, batch)
    timers: dict[str, list[Timed]] = {name: [] for name in (*names.values(), "reference")}
    pipelines = {
        name: ours(models[method], one.eps, first, timers[name], SOLVERS[steps])
        for (method, steps), name in names.items()
    }
    pipelines["reference"] = reference(folder, one.eps, first, timers["reference"])
    fps = {name: batch / row["seconds"] for name, row in race(pipelines, timers).items()}
    print({name: round(rate, 1) for name, rate in fps.items()}, flush=True)
    return {
        case: {
            f"fps_{batch}": round(fps[name], 1),
            f"ratio_eager_{batch}": round(fps[name] / fps["reference"], 2),
        }
        for case, name in names.items()
    }


def plot(rows: list[dict], path: Path) -> None:
    """KVD against evaluations, and against speed: a line of two panels for each set and number of videos."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    sets = list(dict.fromkeys((row["set"], row.get("samples")) for row in rows))
    figure, lines = plt.subplots(
        len(sets), 2, figsize=(9, 1 + 3 * len(sets)), sharex="col", sharey="row", squeeze=False, layout="constrained"
    )
    for (name, samples), panels in zip(sets, lines, strict=True):
        here = [row for row in rows if (row["set"], row.get("samples")) == (name, samples)]
        for method, marker in ((BIFLOW, "o"), (FLOWMAP, "D")):
            mine = [row for row in here if row["method"] == method.name]
            _line(panels, sorted(mine, key=lambda row: row["nfe"]), marker=marker, label=method.title, gid=method.name)
        panels[0].set(ylabel=f"{name}: KVD (lower is better)")
        for panel in panels:
            panel.grid(alpha=0.3, which="both")
    lines[-1, 0].set(xlabel="evaluations per frame", xscale="log", xticks=[1, 2, 4, 6])
    lines[-1, 1].set(xlabel="frames/s over the reference's pipeline", xscale="log", xticks=[5, 10, 20, 40])
    for panel in lines[-1]:
        panel.xaxis.set(major_formatter=ScalarFormatter(), minor_formatter=NullFormatter())
    lines[0, 0].legend()
    figure.savefig(path, dpi=110)


def _line(panels: Any, rows: list[dict], **style: Any) -> None:
    """The rows of a method against evaluations and against speed, with intervals."""
    kvd, ends = [row["kvd"] for row in rows], [row["intervals"]["kvd"] for row in rows]
    errors = [[k - low for k, (low, _) in zip(kvd, ends, strict=True)]]
    errors += [[high - k for k, (_, high) in zip(kvd, ends, strict=True)]]
    for panel, name in zip(panels, ("nfe", "ratio_eager_1"), strict=True):
        panel.errorbar([row[name] for row in rows], kvd, errors, capsize=3, **style)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="SET", help="a prepared set")
    parser.add_argument("biflow", type=Path, metavar="BI-FLOW", help="a BI-FLOW model of it")
    parser.add_argument("flowmap", type=Path, metavar="FLOW-MAP", help="a flow map that was learned from that model")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("runs/one_evaluation"))
    parser.add_argument("--speed", action="store_true", help="the speed alone")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    models = {BIFLOW.name: options.biflow, FLOWMAP.name: options.flowmap}
    rows: list[dict] = []
    for method, steps in CASES:
        row = {"set": options.data.name, "method": method, "steps": steps, "eps": load_model(models[method]).eps}
        if not options.speed:
            how = (options.out / f"{options.data.name}_{method}_{steps}", options.samples, options.frames)
            row |= {"samples": options.samples, "frames": options.frames}
            row |= quality(models[method], SOLVERS[steps], options.data, *how)
        rows.append(row)
    with torch.inference_mode():
        for batch in BATCHES:
            found = speed(models, options.data, batch)
            rows = [row | found[row["method"], row["steps"]] for row in rows]
    print(record.table(rows, {name: name for name in ("method", "steps")}, {name: name for name in COLUMNS}))
    rows = record.with_others(rows, options.json, ("set", "samples"))
    record.write(options.json, {"question": "quality and speed at one and two evaluations", "rows": rows})
    if options.plot and not options.speed:
        plot([row for row in rows if "kvd" in row], options.plot)


if __name__ == "__main__":
    main()
