"""Is the noise level that chooses itself as good as the best fixed one?

    python -m benchmarks.noise_level SET MODEL [--out runs/noise_level] [--json FILE]

MODEL, a BI-FLOW model or a flow map of SET, streams 16 videos of 128 frames from test frames, under the actions of the
test clips if it takes any: with `--eps auto`, and with fixed levels from 0 to 0.3. KVD and FVD compare them with the
test clips in windows of 16 frames, with 95 % intervals by bootstrap over videos; motion and grid are over those of real
clips. It needs the weights of I3D: biflow weights fetch i3d. The same command resumes in `--out`. In the JSON file the
rows replace earlier ones of this set and method.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import record
from biflow import load_model, with_engine
from biflow.config import Eps
from biflow.evaluation.evaluate import evaluate
from biflow.evaluation.protocol import Protocol
from biflow.machine import device
from biflow.model import Model

LEVELS: tuple[Eps, ...] = ("auto", 0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
COLUMNS = ("kvd", "fvd", "nfe", "motion", "grid")
SIZE: dict[str, Any] = {"samples": 16, "frames": 128, "stride": 16, "nearest": 0, "short_videos": 0}


def row(data: Path, model: Model, eps: Eps, out: Path) -> dict[str, Any]:
    """The numbers of the videos at a noise level."""
    found: dict[str, Any] = {"set": data.name, "method": model.method.name, "eps": eps}
    folder = out / "_".join(map(str, found.values()))
    result = evaluate(with_engine(model), data, folder, Protocol(name="noise level", eps=eps, **SIZE))
    return found | {"model_eps": model.eps} | record.figures(result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="SET", help="a prepared set")
    parser.add_argument("model", type=Path, metavar="MODEL", help="a BI-FLOW model or a flow map of it")
    parser.add_argument("--out", type=Path, default=Path("runs/noise_level"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = load_model(options.model, device=device())
    rows = [row(options.data, model, eps, options.out) for eps in LEVELS]
    print(record.table(rows, {"set": "set", "method": "method", "eps": "eps"}, {name: name for name in COLUMNS}))
    rows = record.with_others(rows, options.json, ("set", "method"))
    question = "a noise level that chooses itself, against fixed ones"
    record.write(options.json, {"question": question, **SIZE, "rows": rows})


if __name__ == "__main__":
    main()
