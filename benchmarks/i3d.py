"""I3D's clips per second on a CPU, as evaluation runs it and clip by clip.

    python -m benchmarks.i3d [--frames 16] [--batch 4] [--rounds 3] [--json FILE]

The weights are random: they cost the same as trained ones, and their logits have the same scale. All variants run in
each round, so that none profits from a quiet moment of the machine; results are medians over rounds, after one round of
warm-up. The target is a factor of 2 over clip by clip in the default memory layout with all padding written out, as in
the common ports, with logits within 1e-4. Plain "clip by clip" is our module, whose pools need no padded copy.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import record
from biflow.evaluation.networks import i3d
from biflow.evaluation.networks.i3d import I3D, on_cpu, preprocess

TARGET = 2.0
NAIVE = "clip by clip, all padding by zeros"
USED = "as evaluation runs it (OpenVINO)"


def padded_pool(x: torch.Tensor, kernel: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    """The pool of the common ports, which pads its input with zeros first."""
    return F.max_pool3d(i3d.pad_same(x, kernel, stride), tuple(kernel), tuple(stride))


def measure(frames: int, batch: int, rounds: int) -> dict:
    """Clips per second of each variant, and the difference of its logits from those of `NAIVE`."""
    generator = torch.Generator().manual_seed(0)
    clips = preprocess(torch.randint(256, (batch, frames, 3, 64, 64), dtype=torch.uint8, generator=generator))
    torch.manual_seed(0)
    plain = I3D().eval().requires_grad_(False)
    for module in plain.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    last = I3D().eval().requires_grad_(False)
    last.load_state_dict(plain.state_dict())
    last.to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
    clips_last = clips.contiguous(memory_format=torch.channels_last_3d)

    def naive() -> torch.Tensor:
        with mock.patch.object(i3d, "max_pool", padded_pool):
            return torch.cat([plain(clip[None]) for clip in clips])

    first = None
    ways = {
        NAIVE: naive,
        "clip by clip": lambda: torch.cat([plain(clip[None]) for clip in clips]),
        "batched": lambda: plain(clips),
        "clip by clip, channels last": lambda: torch.cat([last(clip[None]) for clip in clips_last]),
        "batched, channels last": lambda: last(clips_last),
    }
    if find_spec("openvino"):
        engine, begun = on_cpu(plain), time.perf_counter()
        with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, XDG_CACHE_HOME=cache):
            engine(clips[:1])  # the graph of these weights is not needed again
        first = time.perf_counter() - begun
        ways[USED] = lambda: engine(clips)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    logits = {}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, way in ways.items():
                begun = time.perf_counter()
                logits[name] = way()
                seconds[name].append(time.perf_counter() - begun)
    rates = {name: batch / float(np.median(times[1:])) for name, times in seconds.items()}
    return {
        "question": f"I3D, clips/s of {frames} frames at 224x224, batch {batch}",
        "clips_per_second": {name: round(rate, 4) for name, rate in rates.items()},
        "ratio": {name: round(rate / rates[NAIVE], 2) for name, rate in rates.items()},
        "logits_std": round(float(logits[NAIVE].std()), 3),
        "largest_difference": {name: float((value - logits[NAIVE]).abs().max()) for name, value in logits.items()},
        "first_call_seconds": first and round(first, 1),
        "target": TARGET,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result here, with machine, versions and commit")
    options = parser.parse_args()
    result = measure(options.frames, options.batch, options.rounds)
    for name, rate in result["clips_per_second"].items():
        difference = result["largest_difference"][name]
        print(f"{name:36} {rate:8.3f} clips/s  {result['ratio'][name]:5.2f}x, logits differ by {difference:.1e}")
    record.write(options.json, result)


if __name__ == "__main__":
    main()
