"""Is the noise level that chooses itself as good as the best fixed one?

    python -m benchmarks.noise_level SET MODEL [--out runs/noise_level] [--json FILE]

MODEL, a BI-FLOW model or a flow map of SET, streams 16 videos of 128 frames from test frames, under the actions of the
test clips if it takes any: with `--eps auto`, and with fixed levels from 0 to 0.3. KVD and FVD compare them with the
test clips in windows of 16 frames, with 95 % intervals by bootstrap over videos; motion and grid are over those of real
clips. It needs the weights of I3D: biflow weights fetch i3d. The same command resumes in `--out`. The rows of a set
replace earlier ones of this set in the JSON file.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import record
from biflow import load_model, with_engine
from biflow.evaluation.evaluate import evaluate
from biflow.evaluation.protocol import Protocol

LEVELS: tuple[float | str, ...] = ("auto", 0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
COLUMNS = ("kvd", "fvd", "nfe", "motion", "grid")
SIZE: dict[str, Any] = {"samples": 16, "frames": 128, "stride": 16, "nearest": 0, "short_videos": 0}


def row(data: Path, folder: Path, eps: float | str, out: Path) -> dict[str, Any]:
    """The numbers of the videos at a noise level."""
    protocol = Protocol(name="noise level", eps=eps, **SIZE)
    result = evaluate(with_engine(load_model(folder)), data, out / f"{data.name}_{eps}", protocol)
    found: dict[str, Any] = {"set": data.name, "eps": eps}
    found |= {name: result[name]["mean"] for name in ("kvd", "fvd", "nfe")}
    found |= {name: result["past_and_actions"][name]["over_real"] for name in ("motion", "grid")}
    return found | {"intervals": {name: result[name]["interval"] for name in ("kvd", "fvd", "nfe")}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="SET", help="a prepared set")
    parser.add_argument("model", type=Path, metavar="MODEL", help="a BI-FLOW model or a flow map of it")
    parser.add_argument("--out", type=Path, default=Path("runs/noise_level"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [row(options.data, options.model, eps, options.out) for eps in LEVELS]
    print(record.table(rows, {"set": "set", "eps": "eps"}, {name: name for name in COLUMNS}))
    if options.json and options.json.exists():
        others = json.loads(options.json.read_text())["rows"]
        rows = [old for old in others if old["set"] != options.data.name] + rows
    record.write(
        options.json, {"question": "a noise level that chooses itself, against fixed ones", **SIZE, "rows": rows}
    )


if __name__ == "__main__":
    main()
