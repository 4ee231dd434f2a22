"""How much faster is a stream than by the reference implementation's pipeline, at the same weights and noise?

    python -m benchmarks.against_reference [MODEL ...] [--batch 1 8] [--device cpu|cuda] [--json FILE]
        [--train PREPARED --steps 300 --width 32] [--compile]

The reference's pipeline is benchmarks/reference_pipeline.py; ours is `biflow sample` as it comes. Both stream the same
frames, a few at a time in turns, so that a loaded machine slows both, and neither often finds its weights thrown out of
the caches by the other; the ratio is that of the median frames. `--compile` also gives the reference torch.compile, as
its own sample.py does (minutes at first). `--train` first trains a pair of networks of the reference's "small" shape on
a prepared set, for weights of its very form.

Deviation is that of single frames from the exact solution (Dormand-Prince at 1e-5) from the same start.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import record, reference_pipeline
from benchmarks.solvers import exact_frames, field, starting_frames
from biflow import Solver, TrainConfig, load_model, sample_generators, shipped_model, solve, stream, train, with_engine
from biflow.paths import conditioned
from biflow.reference import reference_network

TURNS, FRAMES = 4, 5  # turns timed, of so many frames; one turn before them builds engines and learns step sizes


class Timed:
    """A callable, and the seconds spent in it."""

    def __init__(self, inner: Callable) -> None:
        self.inner, self.seconds = inner, 0.0

    def __call__(self, *args, **kwargs):
        begun = time.perf_counter()
        result = self.inner(*args, **kwargs)
        _wait(result[0])
        self.seconds += time.perf_counter() - begun
        return result


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


def ours(
    folder: Path, eps: float, first: Tensor, timer: list[Timed], solver: Solver | None = None
) -> Iterator[tuple[Tensor, float]]:
    model = with_engine(load_model(folder, device=first.device))
    timer.append(Timed(model.network))
    how: dict[str, Any] = {"eps": eps if model.method.takes_eps else None, "solver": solver}
    for frame in stream(replace(model, network=timer[-1]), first, **how):
        yield frame.x, frame.nfe.float().mean().item()


def reference(folder: Path, eps: float, first: Tensor, timer: list[Timed], compiled: bool = False):
    model = load_model(folder, device=first.device)
    timer.append(Timed(torch.compile(model.network) if compiled else model.network))
    network = conditioned(timer[-1], model.conditions(len(first)))
    generators = sample_generators(0, range(len(first)))
    for frame, nfe in reference_pipeline.frames(model.method, network, first, eps, generators):
        yield frame, float(nfe)


def race(pipelines: dict[str, Iterator], timers: dict[str, list[Timed]]) -> dict[str, dict]:
    """A few frames at a time, in turns: seconds and evaluations a frame, time to the first, share outside networks."""
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    nfe: dict[str, list[float]] = {name: [] for name in pipelines}
    inside = dict.fromkeys(pipelines, 0.0)
    for turn in range(1 + TURNS):
        for name, made in pipelines.items():
            before = timers[name][-1].seconds if timers[name] else 0.0
            for _ in range(FRAMES):
                begun = time.perf_counter()
                x, evaluations = next(made)
                _wait(x)
                seconds[name].append(time.perf_counter() - begun)
                if turn:
                    nfe[name].append(evaluations)
            if turn:
                inside[name] += timers[name][-1].seconds - before
    return {
        name: {
            "seconds": median(taken[FRAMES:]),
            "nfe": sum(nfe[name]) / len(nfe[name]),
            "first_frame": taken[0],
            "outside": 1 - inside[name] / sum(taken[FRAMES:]),
        }
        for name, taken in seconds.items()
    }


def deviation(folder: Path, eps: float, first: Tensor) -> dict[str, float]:
    """Root mean square deviation of ours (solver and engine) and of the reference's, over four frames."""
    model = load_model(folder, device=first.device)
    fast = with_engine(model)
    step, off = None, {"ours": [], "reference": []}
    with torch.inference_mode():
        exact, ours = (reference_pipeline.alone(one) for one in (model, fast))
        ours = field(model.method, ours, eps)
        for frame, x, truth in exact_frames(model.method, exact, eps, first, 4):
            f = reference_pipeline.field(model.method, exact, eps, frame)
            solution = solve(ours, x, 0.0, 1.0, solver=Solver(), args=(frame,), first_step=step)
            step = solution.next_step
            off["ours"].append((solution.x - truth).square().mean())
            off["reference"].append((reference_pipeline.solve(f, x)[0] - truth).square().mean())
    return {name: round(torch.stack(squares).mean().sqrt().item(), 5) for name, squares in off.items()}


def _peak(pipeline: Callable, folder: Path, eps: float, first: Tensor, queue) -> None:
    made = pipeline(folder, eps, first, [])
    for _ in range(4):
        next(made)
    status = Path("/proc/self/status").read_text()  # getrusage's maximum would include the parent's, from the fork
    queue.put(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def peak_memory(pipeline: Callable, folder: Path, eps: float, first: Tensor) -> float:
    """MiB of resident memory at most, of a fresh process that streams four frames (Linux)."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak, args=(pipeline, folder, eps, first, queue))
    process.start()
    peak = queue.get()
    process.join()
    return round(peak)


def measure(folder: Path, eps: float, batch: int, device: str, first: Path | None, compiled: bool) -> dict:
    model = load_model(folder)
    start = starting_frames(folder, first, model.size, batch).to(device)
    timers: dict[str, list[Timed]] = {"ours": [], "reference": []}
    pipelines = {
        "ours": ours(folder, eps, start, timers["ours"]),
        "reference": reference(folder, eps, start, timers["reference"]),
    }
    if compiled:
        timers["compiled"] = []
        pipelines["compiled"] = reference(folder, eps, start, timers["compiled"], compiled=True)
    found = race(pipelines, timers)
    rmse = deviation(folder, eps, start[:2])
    row = {"model": folder.name, "method": model.method.name, "eps": eps, "batch": batch, "device": device}
    row["ratio_eager"] = round(found["reference"]["seconds"] / found["ours"]["seconds"], 2)
    row["ratio_compile"] = round(found["compiled"]["seconds"] / found["ours"]["seconds"], 2) if compiled else None
    for name, suffix in (("ours", ""), ("reference", "_reference")):
        row[f"nfe{suffix}"] = round(found[name]["nfe"], 2)
        row[f"rmse{suffix}"] = rmse[name]
        row[f"first_frame_s{suffix}"] = round(found[name]["first_frame"], 2)
        row[f"outside_network{suffix}"] = round(found[name]["outside"], 3)
    if device == "cpu":
        row["peak_mib"] = peak_memory(ours, folder, eps, start)
        row["peak_mib_reference"] = peak_memory(reference, folder, eps, start)
    print(row, flush=True)
    return row


def train_pair(data: Path, width: int, steps: int, out: Path) -> Path:
    """Train BI-FLOW as the reference's pair of "small" networks; resumes a run that is there."""
    network = reference_network("small", width, pair=True)
    train(TrainConfig(network=network, steps=steps, batch=8, optimizer="muon", lr=2e-3, schedule="cosine"), data, out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--eps", nargs="+", type=float, default=[0.1, 0.3])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--first", type=Path, help="first frames, for models that bring none")
    parser.add_argument("--compile", action="store_true", help="also against the reference under torch.compile")
    parser.add_argument("--train", type=Path, help="prepared set to train a pair of the reference's networks on")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("runs/bench_pair"), help="of --train")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    models = options.models or [shipped_model("racing")]
    if options.train:
        models.append(train_pair(options.train, options.width, options.steps, options.out))
    rows = []
    for folder in models:
        levels = options.eps if load_model(folder).method.takes_eps else [0.0]
        first = options.train if options.train and folder == options.out else options.first
        for eps in levels:
            rows += [measure(folder, eps, b, options.device, first, options.compile) for b in options.batch]
    record.write(options.json, {"question": "frames/s against the reference's pipeline, as ratios", "rows": rows})


if __name__ == "__main__":
    main()
