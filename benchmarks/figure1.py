"""The properties of Fig. 1 as measurements: how far each method solves, what its field has seen, and how it streams.

    python -m benchmarks.figure1 SET MODEL [MODEL …] [--samples 64] [--own 8] [--json FILE] [--plot FILE.png]

SET is a prepared set, and each MODEL was trained on it, without past frames or actions. On windows of its test clips:

- distance: the length of a frame's path from the start of the solve to its end, in 32 midpoint steps: the sum over
  steps of the rms change of a pixel, in [-1, 1] units.
- coverage: the rms error of the field that is solved, on the straight way from a frame x0 (with the noise of the
  method) to the next frame x1 of the clip, for t of 0.1, 0.3 … 0.9. Once x0 is the clip's own, and once it is what the
  model makes of it in a stream that began `--own` frames earlier. Their ratio is 1 where training has covered what
  streaming meets. A method that makes whole clips feeds no frame back, and has no such ratio.
- streaming: evaluations and milliseconds per frame, milliseconds until the first frame is there, and what is held for
  it, in kB per sample. In turns of 16 frames or one clip per model, by PyTorch, in batches of 1.

Distance and coverage have 95 % intervals, by drawing the windows anew. There is at most one window for each test clip.
"""

import argparse
import time
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import record
from biflow import Model, Solver, Windows, load_model, sample_generators, to_float
from biflow.evaluation.intervals import interval, redrawn
from biflow.methods import FLOWMAP
from biflow.paths import linear
from biflow.sequences import follow

STEPS, STEP = 32, Solver("midpoint", steps=1)
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
RESAMPLES = 1000
ROUNDS, FRAMES = 5, 16  # of a stream in each round; of a method that makes whole clips, one clip
COLUMNS = {
    "distance": "distance",
    "real": "field error, real frames",
    "own": "own frames",
    "coverage": "own / real",
    "nfe": "NFE per frame",
    "ms": "ms per frame",
    "wait": "ms to the first frame",
    "held": "kB held",
}


def begin(model: Model, frames: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The state that the frame after each of `frames` (b, 3, h, w) is solved from, and what is given with it.

    For a method that makes whole clips, these are clips from noise alone.
    """
    state = frames
    if model.method.clips:
        state = frames.new_full((len(frames), *model.method.state(tuple(frames.shape[1:]), model.span)), torch.nan)
    return model.method.start(state, model.eps, sample_generators(0, range(len(frames))))


def distance(model: Model, frames: Tensor) -> Tensor:
    """Length (b,) of the path of the frame after each of `frames`; of clips, the mean of their frames."""
    (x, given), length = begin(model, frames), torch.zeros(len(frames))
    for k0, k1 in pairwise(np.linspace(0, 1, STEPS + 1).tolist()):
        end = model.method.advance(model.network, x, k0, k1, given=given, eps=model.eps, solver=STEP).x
        length += (end - x).square().flatten(-3).mean(-1).sqrt().view(len(frames), -1).mean(1)
        x = end
    return length


def field_errors(model: Model, x0: Tensor, x1: Tensor) -> Tensor:
    """Mean squared error (b,) of the field on the straight way from where a solve begins at x0 to x1."""
    start, given = begin(model, x0)
    field, errors = model.method.field(model.network, model.eps, backward=False), []
    for t in TIMES:
        k = x0.new_full((len(x0),), t)
        errors.append((field(linear(start, x1, k), k, *given) - (x1 - start)).square().flatten(1).mean(1))
    return torch.stack(errors).mean(0)


def coverage(model: Model, clips: Tensor) -> Tensor | None:
    """The squared error of the field on real frames and on those of the model's own (b, 2); None of whole clips."""
    if model.method.clips:
        return None
    own = clips[:, 0]
    for frame in islice(follow(model, own), clips.shape[1] - 2):
        own = frame.x
    return torch.stack([field_errors(model, x0, clips[:, -1]) for x0 in (clips[:, -2], own)], dim=1)


def properties(model: Model, clips: Tensor) -> dict[str, Any]:
    """What the learned field determines: means over clips (b, own + 2, 3, h, w), and their intervals."""
    columns, names = [distance(model, clips[:, -2])[:, None]], ["distance"]
    if (errors := coverage(model, clips)) is not None:
        columns, names = [*columns, errors], [*names, "real", "own", "coverage"]
    rows = torch.cat(columns, dim=1)
    means = torch.cat([rows.double().mean(0, keepdim=True), redrawn(rows, RESAMPLES, seed=0)])
    if errors is not None:
        roots = means[:, 1:].sqrt()
        means = torch.cat([means[:, :1], roots, roots[:, 1:] / roots[:, :1]], dim=1)
    found = {name: float(value) for name, value in zip(names, means[0], strict=True)}
    return {**found, "intervals": dict(zip(names, map(interval, means[1:].unbind(1)), strict=True))}


def speed(models: list[Model], frames: Tensor) -> list[dict[str, float]]:
    """What streaming costs each model."""
    lengths = [model.span - 1 if model.method.clips else FRAMES for model in models]
    found: list[list[tuple[float, float, float]]] = [[] for _ in models]
    for _ in range(ROUNDS):
        for model, length, rows in zip(models, lengths, found, strict=True):
            stream, begun = follow(model, frames[:1]), time.perf_counter()
            nfe = [next(stream).nfe.item()]
            wait = time.perf_counter() - begun
            nfe += [frame.nfe.item() for frame in islice(stream, length - 1)]
            rows.append((float(np.mean(nfe)), (time.perf_counter() - begun) / length * 1e3, wait * 1e3))
    medians = [np.median(rows, axis=0).tolist() for rows in found]
    return [dict(zip(("nfe", "ms", "wait"), row, strict=True)) for row in medians]


def measure(models: list[Model], clips: Tensor) -> list[dict[str, Any]]:
    """A row for each model, on windows (b, own + 2, 3, h, w)."""
    rows: list[dict[str, Any]] = []
    for model, cost in zip(models, speed(models, clips[:, -2]), strict=True):
        x, given = begin(model, clips[:1, -2])
        row = {"model": model.folder and model.folder.name, "method": model.method.name, "eps": model.eps}
        row |= {"span": model.span, **properties(model, clips), **cost}
        rows.append(row | {"held": sum(tensor.nbytes for tensor in (x, *given)) / 1e3})
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel for each row of Fig. 1, a bar for each model."""
    import matplotlib.pyplot as plt

    panels = {
        "distance": "path of a frame (rms)",
        "coverage": "error of the field\non own frames / real ones",
        "wait": "ms to the first frame",
        "held": "kB held",
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 3), layout="constrained")
    for axis, (name, title) in zip(axes, panels.items(), strict=True):
        for place, row in enumerate(rows):
            value = row.get(name)
            ends = row.get("intervals", {}).get(name)
            error = None if ends is None else [[max(0.0, value - ends[0])], [max(0.0, ends[1] - value)]]
            axis.bar(place, value or 0, yerr=error, capsize=3, color=f"C{place}", gid=f"{row['model']} {name}")
            axis.text(
                place,
                ends[1] if ends else value or 0,
                f"{value:.3g}" if value else "none",
                ha="center",
                va="bottom",
                fontsize=8,
            )
        axis.set_xticks(range(len(rows)), [str(row["model"]) for row in rows], rotation=30, ha="right", fontsize=8)
        axis.set_title(title, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="SET", help="a prepared set")
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="models of it")
    parser.add_argument("--samples", type=int, default=64, help="windows, at most one for each test clip")
    parser.add_argument("--own", type=int, default=8, help="frames of the model's own")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    models = [load_model(folder) for folder in options.models]
    for model in models:
        if model.context or model.actions:
            parser.error(f"{model.folder} sees past frames or actions; give models that see the current frame alone.")
        if model.method is FLOWMAP or (model.span > 1 and not model.method.clips):
            parser.error(f"{model.folder} does not solve one frame at a time along the field that it learned.")
    windows = Windows(options.data, "test", frames=options.own + 2)
    clips = to_float(windows.spread(min(options.samples, len(windows.clips))))
    with torch.inference_mode():
        rows = measure(models, clips)
    print(record.table(rows, {"model": ""}, COLUMNS))
    how = {"set": options.data.name, "samples": len(clips), "own": options.own}
    record.write(options.json, {"question": "the properties of Fig. 1", **how, "rows": rows})
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
