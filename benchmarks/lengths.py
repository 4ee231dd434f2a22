"""What a video of T frames costs: made as a whole from noise (full-sequence diffusion), or streamed frame after frame.

    python -m benchmarks.lengths [--lengths 8 16 32 64] [--side 64] [--json FILE]

For each method and T: milliseconds until the first frame is there and for all T frames, and by how many MiB the peak
memory of the process grows from the first network evaluation to the last frame. One sample, PyTorch; networks with
random weights, of the shape that the presets have at 64x64. A frame takes `EVALUATIONS` of its method, fixed Adams
steps, as many as the adaptive solver takes with trained weights (docs/paper.md); so does a clip from noise, however
long. Each case has a process of its own, and times are medians of `ROUNDS`.
"""

import argparse
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import record
from biflow import Model, NetworkConfig, Solver
from biflow.methods import BIFLOW, CONDIFF, SEQUENCE, get
from biflow.networks import VideoUNet
from biflow.sequences import follow

EVALUATIONS = {BIFLOW.name: 5, CONDIFF.name: 8, SEQUENCE.name: 8}
ROUNDS = 3
COLUMNS = {"length": "frames", "wait": "ms to the first frame", "total": "ms for all", "memory": "MiB more at the peak"}


def peak() -> float:
    """The largest memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux, where the other begins with the peak of the process that started this one
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes, on macOS
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


def measure(name: str, length: int, side: int) -> dict[str, Any]:
    """The row of a method and a length."""
    method, solver = get(name), Solver("adams", steps=EVALUATIONS[name])
    span = length if method.clips else 1
    network = VideoUNet(method, NetworkConfig(), span=span).eval()
    model = Model(network, method, (3, side, side), eps=0.1 if method.takes_eps else 0.0, span=span)
    first = torch.zeros(1, 0, 3, side, side) if method.clips else torch.zeros(1, 3, side, side)
    waits, totals, before = [], [], peak()
    for _ in range(ROUNDS):
        begun, stream = time.perf_counter(), follow(model, first, solver=solver)
        next(stream)
        waits.append(time.perf_counter() - begun)
        for _frame in islice(stream, length - 1):
            pass
        totals.append(time.perf_counter() - begun)
    row = {"method": name, "length": length, "wait": 1e3 * float(np.median(waits))}
    return row | {"total": 1e3 * float(np.median(totals)), "memory": peak() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--side", type=int, default=64, help="of the frames, in pixels")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in EVALUATIONS:
        for length in options.lengths:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                rows.append(pool.submit(measure, name, length, options.side).result())
    print(record.table(rows, {"method": ""}, COLUMNS))
    record.write(options.json, {"question": "cost by length", "side": options.side, "rows": rows})


if __name__ == "__main__":
    main()
