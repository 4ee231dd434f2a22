"""Which shape of network gives the best picture for the milliseconds?

    python -m benchmarks.networks PREPARED [PREPARED ...] [--minutes 3] [--json FILE] [--plot FILE.png]

Each shape trains BI-FLOW on each prepared set for the same time, one core a network and as many at once as there are
cores, with Muon, a cosine that ends with the time, and averaged weights. Then the loss on the test split: v in units of
the rms change between frames (1 would be no motion at all) and n, both of which a frame needs. Beside it the median
time of an evaluation at batch 1, by the engine that streaming takes, all cores, shapes in turns.
"""

import argparse
import contextlib
import io
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest import mock

import torch
from tqdm import tqdm

from benchmarks import record, reference_pipeline
from biflow import Model, NetworkConfig, TrainConfig, VideoUNet, Windows, load_model, to_float, train, with_engine
from biflow.methods import BIFLOW
from biflow.reference import reference_network

SHAPES = {
    "reference small, c 32": replace(reference_network("small", 32, pair=False), time_scale=1000.0),
    "p 2, 32 64 128": NetworkConfig((32, 64, 128)),
    "p 2, 64 64 128 (preset)": NetworkConfig((64, 64, 128)),
    "p 2, 64 128 128, 2 layers": NetworkConfig((64, 128, 128), layers=2),
    "p 2, 96 96 192": NetworkConfig((96, 96, 192)),
    "p 4, 128 256": NetworkConfig((128, 256), patch=4),
    "p 4, 192 256": NetworkConfig((192, 256), patch=4),
}
WARM, TIMED = 4, 12  # steps that are not counted, and steps that tell how many there is time for
PAIRS = 256  # of the test split
CALLS = 40


def trained(data: Path, shape: str, minutes: float) -> dict:
    """Train one shape for so long on one core; its losses on the test split and what it took."""
    torch.set_num_threads(1)
    config = TrainConfig(
        batch=16, optimizer="muon", lr=3e-3, schedule="cosine", warmup=20, ema=0.99, alpha_max=0.3, eps=0.2,
        save_every=10**6, preview_every=0, network=SHAPES[shape],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        steps = steps_in(minutes, config, data, Path(folder) / "rate")
        history = train(replace(config, steps=steps, warmup=min(20, steps // 5)), data, Path(folder) / "run")
        model = load_model(Path(folder) / "run")
    row = {"set": data.name, "shape": shape, "steps": steps, "minutes": round(history["seconds"] / 60, 2)}
    return row | held_out_losses(model, data, config, model.config["v_scale"])


def steps_in(minutes: float, config: TrainConfig, data: Path, folder: Path) -> int:
    """How many steps there is time for, by a short training in `folder`."""
    train(replace(config, steps=WARM), data, folder)
    begun = time.monotonic()
    train(replace(config, steps=WARM + TIMED), data, folder)
    return max(1, round(minutes * 60 * TIMED / (time.monotonic() - begun)))


def held_out_losses(model: Model, data: Path, config: TrainConfig, unit: float) -> dict[str, float]:
    """Of a BI-FLOW model on the test split, by the noise of `config`: v in the given unit, n, and their sum."""
    test = Windows(data, split="test")
    generator, sums = torch.Generator().manual_seed(0), {"v": 0.0, "n": 0.0}
    network, clips = reference_pipeline.alone(model), to_float(test.spread(PAIRS))
    with torch.inference_mode():
        for part in clips.split(16):
            for name, term in model.method.loss(network, part, generator, config).terms.items():
                sums[name] += term.sum().item() / len(clips)
    v, n = sums["v"] / unit**2, sums["n"]
    return {"v": round(v, 4), "n": round(n, 4), "loss": round(v + n, 4)}


def evaluation_ms(size: tuple[int, int]) -> dict[str, dict]:
    """Of each shape, with random weights: parameters, engine and median milliseconds per evaluation at batch 1."""
    found, times = {}, {}
    for shape, network in SHAPES.items():
        torch.manual_seed(0)
        model = Model(VideoUNet(BIFLOW, network).eval(), BIFLOW, (3, *size))
        query = BIFLOW.example(torch.zeros(1, 3, *size))
        with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, XDG_CACHE_HOME=cache):
            fast = with_engine(model)  # nobody needs the graphs of these weights again
            fast.network(query)
        parameters = sum(p.numel() for p in model.weights.parameters())
        found[shape] = {"parameters_m": round(parameters / 1e6, 2), "engine": fast.engine}
        times[shape] = (lambda network=fast.network, query=query: network(query), [])
    for _ in range(CALLS):
        for call, taken in times.values():
            begun = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begun)
    return {shape: {**row, "ms": round(1000 * median(times[shape][1]), 2)} for shape, row in found.items()}


def plot(rows: list[dict], path: Path) -> None:
    """Loss after equal training against milliseconds per evaluation, a panel for each set; the Pareto front joined."""
    import matplotlib.pyplot as plt

    from biflow.evaluation.report.figures import pareto

    sets = sorted({row["set"] for row in rows})
    figure, panels = plt.subplots(1, len(sets), figsize=(5.2 * len(sets), 4), squeeze=False)
    for panel, name in zip(panels[0], sets, strict=True):
        of_set = [row for row in rows if row["set"] == name]
        panel.plot(*zip(*pareto([(row["ms"], row["loss"]) for row in of_set]), strict=True), ":", color="grey")
        for row in of_set:
            panel.scatter(row["ms"], row["loss"], color="tab:red" if "preset" in row["shape"] else "tab:blue", s=24)
            panel.annotate(
                row["shape"], (row["ms"], row["loss"]), fontsize=7, xytext=(4, 3), textcoords="offset points"
            )
        panel.set(title=name, xlabel="ms per evaluation, batch 1", ylabel="loss after equal time, test split")
        panel.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--minutes", type=float, default=3, help="of training, for each shape and set, on one core")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    speeds = evaluation_ms(Windows(options.data[0]).size)
    rows = []
    jobs = [(data, shape) for data in options.data for shape in SHAPES]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        runs = [pool.submit(trained, data, shape, options.minutes) for data, shape in jobs]
        for run in tqdm(runs, unit="network"):
            rows.append({**run.result(), **speeds[run.result()["shape"]]})
            tqdm.write("{set:12} {shape:28} v {v:.3f}  n {n:.3f}  {ms:6.2f} ms  {steps} steps".format(**rows[-1]))
    record.write(options.json, {"question": "loss after equal training, and time an evaluation", "rows": rows})
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
