"""How many samples a second does training take in, against a step as the reference takes it?

    python -m benchmarks.training [--width 32] [--size 64] [--batch 16] [--steps 12] [--rounds 3] [--json FILE]

Both train BI-FLOW (Eq. 5) with the same two networks of the reference's "small" shape on the same random frames, AdamW,
bf16 where the hardware computes in it, gradients clipped at 1. The reference's way: one process that uses all cores,
torch's default AdamW, frames decoded beforehand (its loader is not part of this). Ours: `biflow train` as it comes, and
on a CPU also with a process a core, from a prepared set, with EMA, logging and checkpoints. They take turns; medians
over rounds, without the first steps. GFLOP/s are to be held against those of benchmarks.profile_network's product.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from benchmarks import record
from biflow import Model, NetworkConfig, Query, VideoUNet
from biflow.config import Prepare
from biflow.data.prepare import prepare
from biflow.machine import computes_in_bf16
from biflow.methods import BIFLOW
from biflow.reference import reference_network
from biflow.training.log import training_flops

WARM_UP = 3  # steps that are not counted


def reference(network: NetworkConfig, size: int, batch: int, steps: int) -> float:
    """Samples a second of the reference's training step."""
    on_cpu = not torch.cuda.is_available()
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="bf16" if computes_in_bf16() else "no")
    torch.manual_seed(0)
    model = VideoUNet(BIFLOW, network)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model, optimizer = accelerator.prepare(model, optimizer)
    x0, x1 = torch.rand(2, batch, 3, size, size, device=accelerator.device) * 2 - 1
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            begun = time.perf_counter()
        t, alpha = torch.rand(2, batch, device=x0.device)
        n = torch.randn_like(x0)
        with accelerator.autocast():
            x = x0 + t[:, None, None, None] * (x1 - x0) + alpha[:, None, None, None] * n
            v, noise = model(Query(x, t, alpha))
            loss = (v - (x1 - x0)).square().mean() + (noise - n).square().mean()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    loss.item()  # waits for the device
    return steps * batch / (time.perf_counter() - begun)


def ours(network: NetworkConfig, size: int, batch: int, steps: int, data: Path, processes: int) -> float:
    """Samples a second of `biflow train`, from its own log."""
    settings = {"batch": batch, "steps": WARM_UP + steps, "log_every": WARM_UP, "save_every": 10**6, "preview_every": 0}
    settings |= {"v_scale": 1.0} | {f"network.{key}": value for key, value in vars(network).items()}
    options = [f"--{key}={json.dumps(value) if isinstance(value, tuple) else value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "biflow.cli"]
    if processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command += ["-m", "biflow.cli"]
    with tempfile.TemporaryDirectory() as out:
        env = {**os.environ, "OMP_NUM_THREADS": "1"} if processes > 1 else None
        command += ["train", "--data", str(data), "--out", out, *options]
        subprocess.run(command, check=True, env=env, capture_output=True)
        lines = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
    counted = [line for line in lines if line["step"] > WARM_UP]
    seconds = sum(
        (line["step"] - before["step"]) * batch / line["samples_per_s"]
        for before, line in zip(lines, counted, strict=False)
    )
    return (counted[-1]["step"] - WARM_UP) * batch / seconds


def measure(width: int, size: int, batch: int, steps: int, rounds: int) -> dict:
    network = reference_network("small", width, pair=True)
    processes = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    processes = max(p for p in range(1, processes + 1) if batch % p == 0)
    ways = {f"ours, {n} process{'es' * (n > 1)}": n for n in sorted({1, processes})}
    rates: dict[str, list[float]] = {"reference": [], **{way: [] for way in ways}}
    with tempfile.TemporaryDirectory() as folder:
        source, data = Path(folder) / "clips", Path(folder) / "data"
        source.mkdir()
        for clip in range(4):
            frames = np.random.default_rng(clip).integers(0, 255, (64, size, size, 3), dtype=np.uint8)
            np.save(source / f"{clip}.npy", frames)
        prepare(Prepare(source, data, size=size), progress=False)
        for _ in tqdm(range(rounds), unit="round"):
            rates["reference"].append(reference(network, size, batch, steps))
            for way, n in ways.items():
                rates[way].append(ours(network, size, batch, steps, data, n))
    middle = {name: median(values) for name, values in rates.items()}
    gflop = training_flops(Model(VideoUNet(BIFLOW, network), BIFLOW, (3, size, size))) / 1e9
    return {
        "question": f"training samples/s, BI-FLOW pair of small UNets, width {width}, {size}x{size}, batch {batch}",
        "samples_per_s": rates,
        "ratio": {way: round(middle[way] / middle["reference"], 2) for way in ways},
        "gflops": {way: round(rate * gflop, 1) for way, rate in middle.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12, help="counted ones a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result here, with machine, versions and commit")
    options = parser.parse_args()
    result = measure(options.width, options.size, options.batch, options.steps, options.rounds)
    for name, values in result["samples_per_s"].items():
        ratio, gflops = result["ratio"].get(name, 1), result["gflops"][name]
        print(f"{name:20} {median(values):8.2f} samples/s ({ratio:.2f}), {gflops:.0f} GFLOP/s")
    record.write(options.json, result)


if __name__ == "__main__":
    main()
