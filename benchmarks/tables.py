"""The paper's tables: its methods, trained and evaluated alike on a set, and the report of them.

    python -m benchmarks.tables SET [SET …] [--out runs/tables] [--rows "biflow 0.1" …]

Each method is trained on 102,400 pairs from noise levels in [0, 1], as the paper does, and from the same seed. The
network is that of `compare` in patches of 4x4 pixels, a quarter of its cost. Beside the paper's methods stand ours,
with noise levels in [0, 0.3]: BI-FLOW with past frames and frames of its own, and the flow map that is learned from
it. Each row is evaluated by `PROTOCOL`, which has fewer and shorter videos than the paper's. Actions of a set are
left out. The same command resumes what was interrupted; with --rows it does only some of them. The report is that of
all rows which are there. On one core a model takes half an hour or more, and so does a row.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.ablations import BASE, without_actions
from biflow.config import Solver, TrainConfig, parse, preset
from biflow.documents import read_json
from biflow.engines import with_engine
from biflow.errors import UserError
from biflow.evaluation.evaluate import evaluate, summary
from biflow.evaluation.protocol import Protocol
from biflow.evaluation.report import report
from biflow.files import write_json
from biflow.machine import device
from biflow.methods import BIFLOW, CONDIFF, FLOW, FLOWMAP
from biflow.model import load_model
from biflow.training.loop import train

TRAINING: dict[str, Any] = {**preset("compare"), "steps": 3200, "batch": 32, "alpha_max": 1.0, "ema": 0.998}
TRAINING |= {"save_every": 250, "network": BASE["network"]}
# BI-FLOW as we use it: with noise levels no higher than those of streaming, past frames, and frames of its own.
OURS: dict[str, Any] = {"alpha_max": 0.3, "coarse_noise": 0.5, "context": 3, "own_frames": 0.25, "eps": 0.2}
MODELS: dict[str, dict[str, Any]] = {method.name: {"method": method.name} for method in (FLOW, BIFLOW, CONDIFF)}
MODELS["ours"] = {"method": BIFLOW.name, **OURS}
MODELS[FLOWMAP.name] = {"method": FLOWMAP.name, **OURS, "own_frames": 0.5, "lr": 1e-3, "init": "ours"}
PROTOCOL = Protocol(
    name="tables", samples=64, frames=256, window=32, stride=16, real_windows=None,
    networks=("i3d", "inception", "lpips"), frame_stride=16, short_videos=0,
)  # fmt: skip


def _by_euler(steps: int) -> dict[str, Any]:
    return {"solver": Solver.named("euler", steps=steps)}


EQUAL = _by_euler(20)  # the paper's Table 2
LEVELS = (0.1, 0.2, 0.3, 0, "auto", 0.05, 0.15, 0.25)
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"{BIFLOW.name} {eps}": (BIFLOW.name, {"eps": eps}) for eps in LEVELS},
    **{method.name: (method.name, {}) for method in (CONDIFF, FLOW)},
    f"{BIFLOW.name} 0.2 backward": (BIFLOW.name, {"eps": 0.2, "direction": "backward"}),
    f"{BIFLOW.name} 0.2 20": (BIFLOW.name, {"eps": 0.2, **EQUAL}),
    **{f"{method.name} 20": (method.name, EQUAL) for method in (CONDIFF, FLOW)},
    "ours": ("ours", {}),
    **{f"ours {steps}": ("ours", _by_euler(steps)) for steps in (1, 2)},
    **{f"{FLOWMAP.name} {steps}": (FLOWMAP.name, _by_euler(steps)) for steps in (1, 2)},
}


def settings(model: str, out: Path) -> TrainConfig:
    """The training settings of a model."""
    own = MODELS[model]
    init = {"init": str(out / own["init"])} if "init" in own else {}
    return parse(TrainConfig, {**TRAINING, **own, **init})


def train_model(model: str, data: Path, out: Path) -> None:
    """Train a model, unless that is done, after the one that it begins with. Raises what `check_settings` raises."""
    if "init" in MODELS[model]:
        train_model(MODELS[model]["init"], data, out)
    check_settings(model, out)
    train(settings(model, out), data, out / model)


def check_settings(model: str, out: Path) -> None:
    """Write down by which settings a model is trained. Raises UserError where it was trained by others."""
    kept, now = out / f"{model}.json", json.loads(json.dumps(TRAINING | MODELS[model]))
    if (out / model).exists() and (not kept.exists() or read_json(kept) != now):
        raise UserError(f"{out / model} was trained with other settings: name another --out.")
    write_json(kept, now)


def measure(row: str, data: Path, out: Path, folder: Path) -> dict:
    """Evaluate the trained model of a row in `folder`: the content of its metrics.json."""
    (name, changes), place = ROWS[row], device()
    batch, features = (PROTOCOL.samples, 16) if place.type == "cuda" else (8, 4)
    model = with_engine(load_model(out / name, device=place), rtol=0)  # in float32: bf16 would do for some methods only
    return evaluate(model, data, folder, replace(PROTOCOL, **changes), batch=batch, feature_batch=features)


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
            folder = out / "evaluated" / row.replace(" ", "_")
            check_settings(ROWS[row][0], out)
            if not (folder / "metrics.json").exists():
                train_model(ROWS[row][0], data, out)
                print(f"{row}\n{summary(measure(row, data, out, folder))}\n", flush=True)
    done = sorted(path.parent for path in options.out.glob("*/evaluated/*/metrics.json"))
    print(report(done, options.out / "report"))


if __name__ == "__main__":
    main()
