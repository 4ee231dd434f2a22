"""How much sooner does our recipe have a model as good as the paper's recipe makes in a given time?

    python -m benchmarks.hours SET [--minutes 60] [--out runs/hours] [--json FILE] [--plot FILE.png]

Both train BI-FLOW on the same set, at the same time, on one core each, in batches of 16. The paper's recipe is that of
its code: two networks of its small shape (width 32), AdamW at 1e-4, the plain sum of Eq. (5), noise levels from U(0, 1)
and no averaged weights. It is looked at after 1/16, 1/8, 1/4, 1/2 and all of the minutes. Ours is one network on 2x2
patches, Muon, f^v in units of the rms change, noise levels up to 0.3 and averaged weights. Its learning rate falls to
zero with the time, so each of its points, up to 1/4 of the minutes, is a training of its own.

A model is judged by its losses on pairs of the test split, as in benchmarks.networks, at noise levels up to 0.3, which
streaming uses, and by KVD of `PROTOCOL`. Actions of the set, which the paper's code does not know, are left out. It
needs the weights of I3D: biflow weights fetch i3d. The same command resumes what was interrupted.
"""

import argparse
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import record
from benchmarks.ablations import without_actions
from benchmarks.networks import held_out_losses, steps_in
from biflow import TrainConfig, Windows, load_model, train, with_engine
from biflow.config import parse, preset
from biflow.documents import read_json
from biflow.evaluation.evaluate import evaluate
from biflow.evaluation.protocol import Protocol
from biflow.files import replacing, write_json
from biflow.reference import reference_network
from biflow.training.begin import rms_change

OURS = parse(TrainConfig, {**preset("compare"), "save_every": 10**6})
PAPER = TrainConfig(
    batch=OURS.batch, save_every=OURS.save_every, preview_every=0, eps=OURS.eps,
    v_scale=1.0, ema=0.0, network=reference_network("small", 32, pair=True),
)  # fmt: skip
RECIPES = {"paper": PAPER, "ours": OURS}
SHARES = {"paper": (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0), "ours": (1 / 16, 1 / 8, 1 / 4)}
PROTOCOL = Protocol(
    name="hours", samples=16, frames=64, window=16, stride=16, real_windows=128, nearest=0, short_videos=0
)
COLUMNS = ("minutes", "loss", "v", "n", "kvd", "nfe")


def trainings(recipe: str, data: Path, minutes: float, out: Path) -> list[dict[str, Any]]:
    """Train a recipe on one core for each of its shares of the minutes: rows with the folders of the models."""
    torch.set_num_threads(1)
    config, kept, rows = RECIPES[recipe], out / f"{recipe}.json", []
    if not kept.exists():
        write_json(kept, {"steps": steps_in(minutes, config, data, out / f"{recipe}_rate")})
    most = read_json(kept)["steps"]
    for share in SHARES[recipe]:
        folder, steps = out / f"{recipe}_{share:g}", max(1, round(share * most))
        if config.schedule == "constant" and rows and not folder.exists():  # goes on from the training before
            with replacing(folder) as partial:
                shutil.copytree(rows[-1]["folder"], partial)
        history = train(replace(config, steps=steps, warmup=min(config.warmup, steps // 5)), data, folder)
        row = {"recipe": recipe, "minutes": round(history["seconds"] / 60, 2), "pairs": history["samples"]}
        rows.append(row | {"folder": folder})
    return rows


def judged(row: dict[str, Any], data: Path, unit: float) -> dict[str, Any]:
    """The losses and the KVD of the model of a row, in the place of its folder."""
    folder = row.pop("folder")
    model = load_model(folder)
    row |= held_out_losses(model, data, OURS, unit)
    videos = evaluate(with_engine(model), data, folder / "evaluated", PROTOCOL)
    return row | {"kvd": videos["kvd"]["mean"], "interval": videos["kvd"]["interval"], "nfe": videos["nfe"]["mean"]}


def minutes_until(rows: list[dict[str, Any]], name: str, value: float) -> float | None:
    """When a curve first comes down to a value, between its points linearly in the logarithm of time.

    None if it does not. If its first point is below, the time of that point, which is too long.
    """
    for before, after in pairwise([rows[0], *rows]):
        if after[name] <= value:
            if before[name] <= value:
                return after["minutes"]
            way = (before[name] - value) / (before[name] - after[name])
            return before["minutes"] * (after["minutes"] / before["minutes"]) ** way
    return None


def compared(rows: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """What the paper's recipe has at the end, when ours has it, and how many times fewer minutes that is."""
    paper, ours = ([row for row in rows if row["recipe"] == recipe] for recipe in ("paper", "ours"))
    found: dict[str, dict[str, float | None]] = {}
    for name in ("loss", "kvd"):
        minutes = minutes_until(ours, name, paper[-1][name])
        ratio = minutes and round(paper[-1]["minutes"] / minutes, 2)
        found[name] = {"value": paper[-1][name], "minutes": minutes, "ratio": ratio}
    return found


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Loss and KVD against minutes of training, a curve for each recipe."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for recipe, title in (("paper", "the paper's recipe"), ("ours", "ours")):
        mine = [row for row in rows if row["recipe"] == recipe]
        minutes = [row["minutes"] for row in mine]
        panels[0].plot(minutes, [row["loss"] for row in mine], "o-", label=title, gid=f"{recipe} loss")
        errors = np.abs(np.array([row["interval"] for row in mine]) - [[row["kvd"]] for row in mine]).T
        panels[1].errorbar(minutes, [row["kvd"] for row in mine], errors, marker="o", capsize=3, gid=f"{recipe} kvd")
    for panel, title in zip(panels, ("loss on the test split, v + n", "KVD (lower is better)"), strict=True):
        panel.set(xlabel="minutes of training, one core", title=title, xscale="log")
        panel.xaxis.set(major_formatter=ScalarFormatter(), minor_formatter=NullFormatter())
        panel.set_xticks([row["minutes"] for row in rows if row["recipe"] == "paper"])
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="SET", help="a prepared set")
    parser.add_argument("--minutes", type=float, default=60, help="of the paper's recipe")
    parser.add_argument("--out", type=Path, default=Path("runs/hours"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    data = without_actions(options.data, options.out / options.data.name)
    out = options.out / f"{options.data.name}_{options.minutes:g}"
    with ProcessPoolExecutor(len(RECIPES), mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(trainings, recipe, data, options.minutes, out) for recipe in RECIPES]
        rows = [row for run in runs for row in run.result()]
    unit = rms_change(Windows(data))
    rows = [judged(row, data, unit) for row in rows]
    print(record.table(rows, {"recipe": "", "pairs": "pairs"}, {name: name for name in COLUMNS}))
    found = compared(rows)
    for name, row in found.items():
        print(f"{name}: {row}")
    how = {"set": options.data.name, "protocol": PROTOCOL.name}
    record.write(options.json, {"question": "training time of two recipes", **how, "compared": found, "rows": rows})
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
