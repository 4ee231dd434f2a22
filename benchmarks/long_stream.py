"""Do memory and time per frame stay what they are over a long stream?

    python -m benchmarks.long_stream [--frames 20000] [--json FILE] [--plot FILE.png]

The shipped model, one Adams step a frame, so that the frames and not the network make it long. Resident memory and the
median time of a frame are taken for every fiftieth of the stream.
"""

import argparse
import os
import time
from pathlib import Path
from statistics import median

import torch
from tqdm import tqdm

from benchmarks import record
from biflow import Solver, first_frames, load_model, shipped_model, stream, to_float, with_engine

PARTS = 50


def resident() -> float:
    """MiB of this process in memory now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(frames: int) -> list[dict]:
    model = with_engine(load_model(shipped_model()))
    first = to_float(first_frames(shipped_model() / "first", model.size, samples=1))
    frames_ = stream(model, first, solver=Solver("adams", steps=1))
    rows, taken, part = [], [], max(1, frames // PARTS)
    for index in tqdm(range(1, frames + 1), unit="frame"):
        begun = time.perf_counter()
        frame = next(frames_)
        taken.append(time.perf_counter() - begun)
        if index % part == 0:
            assert torch.isfinite(frame.x).all()
            rows.append({"frame": index, "mib": round(resident(), 1), "ms": round(1000 * median(taken), 2)})
            taken = []
    return rows


def plot(rows: list[dict], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3))
    for panel, (key, label) in zip(panels, {"mib": "resident MiB", "ms": "median ms per frame"}.items(), strict=True):
        panel.plot([row["frame"] for row in rows], [row[key] for row in rows])
        panel.set(xlabel="frame", ylabel=label, ylim=(0, 1.15 * max(row[key] for row in rows)))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    rows = measure(options.frames)
    early, late = rows[len(rows) // 10], rows[-1]
    for row in (early, late):
        print("frame {frame}: {mib} MiB, {ms} ms".format(**row))
    record.write(options.json, {"question": "memory and time per frame over a long stream", "rows": rows})
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
