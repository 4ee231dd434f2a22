"""The benchmarks in short form, against the committed results: has something become slower?

    python -m benchmarks.check          (make bench)

Compares ratios and evaluations, never seconds: NFE may grow by 10 %, deviation by 20 %, speed-ups may shrink by 30 %.
Exits with 1 if anything is beyond that.
"""

import json
import sys
from pathlib import Path

import torch

from benchmarks import against_reference, data, i3d, solvers
from biflow import shipped_model

RESULTS = Path(__file__).parent / "results"


def committed(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def compare(what: str, now: float, then: float, most: float) -> bool:
    """Print one line; whether `now` is at most `most` times `then`."""
    good = now <= most * then
    print(f"{'ok' if good else 'WORSE':6}{what:50} committed {then:8.3g}   now {now:8.3g}", flush=True)
    return good


def main() -> None:
    good, model = [], shipped_model("racing")  # a BI-FLOW model, as the paper has
    then = {(row["model"], row["eps"], row["solver"]): row for row in committed("solvers")["rows"]}
    with torch.inference_mode():
        for eps in (0.1, 0.3):
            names = ["reference", "adams adaptive"]
            for row in solvers.measure(model, eps, samples=3, frames=5, first=None, names=names):
                old = then[(row["model"], eps, row["solver"])]
                for key, most in (("nfe", 1.1), ("rmse", 1.2)):
                    good.append(compare(f"{key}, {row['solver']}, eps {eps}", row[key], old[key], most))
    for row in committed("against_reference")["rows"]:
        if row["model"] == model.name:
            now = against_reference.measure(model, row["eps"], row["batch"], "cpu", None, compiled=False)
            what = f"our time / the reference's, eps {row['eps']}, batch {row['batch']}"
            good.append(compare(what, 1 / now["ratio_eager"], 1 / row["ratio_eager"], 1 / 0.7))
    now, old = (result["ratio"].get(i3d.USED, 1) for result in (i3d.measure(16, 2, 1), committed("i3d")))
    good.append(compare("I3D, our time / clip by clip", 1 / now, 1 / old, 1 / 0.7))
    now, old = data.measure()["ratio_batch"], committed("data")["ratio_batch"]
    good.append(compare("decoding's pairs/s / ours", 1 / now, 1 / old, 1 / 0.7))
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
