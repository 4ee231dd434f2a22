"""The paper's tables: its methods, trained and evaluated alike on a set, and the report of them.

    python -m benchmarks.tables SET [SET …] [--out runs/tables] [--rows "biflow 0.1" …]

Each method is trained on 100,000 pairs from noise levels in [0, 1], as the paper does, and from the same seed. Each row
is evaluated by `PROTOCOL`, which has fewer and shorter videos than the paper's. Actions of a set are left out. The same
command resumes what was interrupted; with --rows it does only some of them. The report is that of all rows which are
there. On two cores a model takes an hour, a row a quarter of an hour or more.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.ablations import without_actions
from biflow.config import Solver, TrainConfig, parse, preset
from biflow.engines import with_engine
from biflow.evaluation.evaluate import evaluate, summary
from biflow.evaluation.protocol import Protocol
from biflow.evaluation.report import report
from biflow.methods import BIFLOW, CONDIFF, FLOW
from biflow.model import load_model
from biflow.training.loop import train

TRAINING: dict[str, Any] = {**preset("compare"), "steps": 6250, "alpha_max": 1.0, "ema": 0.998, "save_every": 250}
# BI-FLOW as we use it: with noise levels no higher than those of streaming, past frames, and frames of its own.
OURS: dict[str, Any] = {"alpha_max": 0.3, "coarse_noise": 0.5, "context": 3, "own_frames": 0.25, "eps": 0.2}
MODELS: dict[str, dict[str, Any]] = {method.name: {"method": method.name} for method in (FLOW, BIFLOW, CONDIFF)}
MODELS["ours"] = {"method": BIFLOW.name, **OURS}
PROTOCOL = Protocol(
    name="tables", samples=64, frames=256, window=32, stride=16, real_windows=None,
    networks=("i3d", "inception", "lpips"), frame_stride=16, short_videos=0,
)  # fmt: skip
EQUAL = {"solver": Solver.named("euler", steps=20)}  # the paper's Table 2
NOISE = {f"{BIFLOW.name} {eps}": (BIFLOW.name, {"eps": eps}) for eps in (0.1, 0.2, 0.3, 0, "auto")}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    **NOISE,
    **{method.name: (method.name, {}) for method in (CONDIFF, FLOW)},
    f"{BIFLOW.name} 0.2 backward": (BIFLOW.name, {"eps": 0.2, "direction": "backward"}),
    f"{BIFLOW.name} 0.2 20": (BIFLOW.name, {"eps": 0.2, **EQUAL}),
    **{f"{method.name} 20": (method.name, EQUAL) for method in (CONDIFF, FLOW)},
    "ours": ("ours", {}),
}


def settings(model: str) -> TrainConfig:
    """The training settings of a model."""
    return parse(TrainConfig, {**TRAINING, **MODELS[model]})


def measure(row: str, data: Path, out: Path) -> Path:
    """Train the model of a row, unless it is there, and evaluate it: the folder of the evaluation."""
    model, changes = ROWS[row]
    run, folder = out / model, out / "evaluated" / row.replace(" ", "_")
    if not (folder / "metrics.json").exists():
        train(settings(model), data, run)
        result = evaluate(with_engine(load_model(run)), data, folder, replace(PROTOCOL, **changes))
        print(f"{row}\n{summary(result)}\n", flush=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, nargs="+", metavar="SET", help="prepared sets")
    parser.add_argument("--out", type=Path, default=Path("runs/tables"))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    options = parser.parse_args()
    for path in options.sets:
        out = options.out / path.resolve().name
        data = without_actions(path, out / "sets" / path.resolve().name)
        for row in options.rows:
            measure(row, data, out)
    done = sorted(path.parent for path in options.out.glob("*/evaluated/*/metrics.json"))
    print(report(done, options.out / "report"))


if __name__ == "__main__":
    main()
