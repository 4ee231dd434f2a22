"""What past frames, their noise, own frames, actions and cycle spinning are worth, at equal training.

    python -m benchmarks.ablations SET [SET …] [--out runs/ablations] [--cases "context 0" …] [--json FILE]

Each case changes one thing of the base: a context of three frames with noise, a quarter of own frames, and actions. It
is trained from the same seed on the same pairs, by the preset `compare` with patches of 4x4 pixels, a quarter of that
network's cost, and evaluated by `PROTOCOL`: a reduced form of the "quick" one, with longer videos. Every SET is a
prepared set with actions. The same command resumes what was interrupted. Prints a table in Markdown for each set.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from benchmarks import record
from biflow.config import TrainConfig, parse, preset
from biflow.data.windows import Windows
from biflow.documents import read_json
from biflow.engines import with_engine
from biflow.evaluation.evaluate import evaluate
from biflow.evaluation.protocol import Protocol
from biflow.files import write_json
from biflow.machine import device
from biflow.model import load_model
from biflow.training.loop import train

BASE: dict[str, Any] = {"context": 3, "own_frames": 0.25, "coarse_noise": 0.5, "eps": 0.25}
BASE["network"] = {"patch": 4, "channels": [64, 128]}
WITHOUT_ACTIONS = "without actions"
CASES: dict[str, dict[str, Any]] = {
    "base": {},
    "context 0": {"context": 0},
    "context 1": {"context": 1},
    "context 6": {"context": 6},
    "no noise on the past": {"context_noise": 0.0, "context_eps": 0.0},
    "no own frames": {"own_frames": 0.0},
    "half own frames": {"own_frames": 0.5},
    "cycle spinning": {"spin": 2},
    WITHOUT_ACTIONS: {},
}
PROTOCOL = Protocol(
    name="ablations", samples=8, frames=96, window=16, stride=16, real_windows=64, nearest=0, networks=("i3d", "lpips")
)
COLUMNS = {
    "KVD": ("kvd", "mean"),
    "FVD": ("fvd", "mean"),
    "control / real": ("past_and_actions", "control", "over_real"),
    "palette changes per 100 frames": ("past_and_actions", "palette", "generated"),
    "turned back": ("past_and_actions", "turning", "back"),
    "motion / real": ("past_and_actions", "motion", "over_real"),
    "grid / real": ("past_and_actions", "grid", "over_real"),
    "NFE": ("nfe", "mean"),
}


def settings(case: str) -> TrainConfig:
    """The training settings of a case."""
    return parse(TrainConfig, {**preset("compare"), **BASE, **CASES[case]})


def without_actions(data: Path, copy: Path) -> Path:
    """The same set as one whose clips have no actions."""
    copy.mkdir(parents=True, exist_ok=True)
    index = read_json(data / "index.json")
    index.pop("actions", None)
    write_json(copy / "index.json", index)
    (copy / "frames.npy").unlink(missing_ok=True)  # the set may have been moved, or be another one of this name
    os.symlink((data / "frames.npy").resolve(), copy / "frames.npy")
    return copy


def measure(case: str, data: Path, out: Path) -> dict:
    """Train and evaluate a case, and return its row."""
    config = settings(case)
    source = without_actions(data, out / "data") if case == WITHOUT_ACTIONS else data
    history = train(config, source, out / "run")
    model = with_engine(load_model(out / "run", device=device()))
    result = evaluate(model, source, out / "evaluated", PROTOCOL)
    row: dict[str, Any] = {"set": data.name, "case": case, "pairs": history["samples"], "losses": history["losses"]}
    return row | {title: _at(result, path) for title, path in COLUMNS.items()} | {"intervals": _intervals(result)}


def _at(result: Any, path: tuple[str, ...]) -> float | None:
    for name in path:
        result = result.get(name) if isinstance(result, dict) else None
    return result if isinstance(result, int | float) else None


def _intervals(result: dict) -> dict[str, list[float]]:
    return {name: result[name]["interval"] for name in ("kvd", "fvd") if name in result}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("sets", type=Path, nargs="+", metavar="SET", help="prepared sets with actions")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if without := [str(data) for data in options.sets if not Windows(data).actions]:
        parser.error(f"These sets have no actions: {', '.join(without)}.")
    rows = []
    for data in options.sets:
        own = [measure(case, data, options.out / data.name / case.replace(" ", "_")) for case in options.cases]
        table = record.table(own, {"case": ""}, {title: title for title in COLUMNS})
        print(f"{data.name}\n\n{table}\n", flush=True)
        rows += own
    record.write(options.json, {"protocol": PROTOCOL.name, "rows": rows})


if __name__ == "__main__":
    main()
