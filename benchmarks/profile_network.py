"""Where does an evaluation of the network spend its time, and how far is it from what the cores can do?

    python -m benchmarks.profile_network [MODEL] [--batch 1 8] [--json FILE]

OpenVINO's own counters, in the precision that streaming takes: the ten kinds of operation that take most, summed over
the graph, median of rounds. The bounds: arithmetic, by a large matrix product in the same precision on the same cores,
and memory, by a copy that is larger than the caches.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import openvino
import torch

from benchmarks import record
from biflow import load_model, shipped_model
from biflow.engines.openvino import openvino_graphs, openvino_network, openvino_settings
from biflow.training.log import training_flops

ROUNDS = 30


def seconds(call: Callable[[], object], rounds: int = 10) -> float:
    """The best of some calls: a bound is what the hardware can do when nobody disturbs it."""
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def bounds(precision: str) -> dict[str, float]:
    """GFLOP/s of a product of 2048x2048 matrices by OpenVINO, and GB/s that a copy of 256 MiB reads and writes."""
    n = 2048
    x = openvino.opset13.parameter([n, n], np.float32)
    w = openvino.opset13.constant(np.random.default_rng(0).standard_normal((n, n)).astype(np.float32))
    product = openvino.opset13.matmul(x, w, False, False)
    graph = openvino.Model([product], [x])  # pyright: ignore[reportGeneralTypeIssues]
    settings = {**openvino_settings(), "INFERENCE_PRECISION_HINT": precision}
    request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()
    given = [np.ones((n, n), np.float32)]
    source, target = torch.ones(2**26), torch.empty(2**26)
    return {
        "gflops": round(2 * n**3 / seconds(lambda: request.infer(given)) / 1e9, 1),
        "gbytes_per_s": round(2 * 4 * 2**26 / seconds(lambda: target.copy_(source)) / 1e9, 1),
    }


def profile(folder: Path, batch: int) -> dict:
    """Milliseconds and share of the ten kinds of operation that take most, and the GFLOP/s of the whole."""
    model = load_model(folder)
    _, precision = openvino_network(model)
    graph = openvino_graphs(model).models[0]
    graph.reshape({i: [batch, *list(i.partial_shape)[1:]] for i in graph.inputs})
    settings = {**openvino_settings(), "INFERENCE_PRECISION_HINT": precision, "PERF_COUNT": "YES"}
    request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()
    given = [np.zeros(list(i.shape), np.float32) for i in graph.inputs]
    kinds: dict[str, list[float]] = defaultdict(list)
    whole = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        request.infer(given)
        whole.append(time.perf_counter() - begun)
        total: dict[str, float] = defaultdict(float)
        for node in request.profiling_info:
            if "EXECUTED" in str(node.status):
                total[f"{node.node_type} ({node.exec_type})"] += node.real_time.total_seconds() * 1000
        for kind, ms in total.items():
            kinds[kind].append(ms)
    taken = {kind: median(values) for kind, values in kinds.items()}
    inside, ms = sum(taken.values()), 1000 * median(whole)
    top = sorted(taken.items(), key=lambda item: -item[1])[:10]
    return {
        "model": folder.name,
        "batch": batch,
        "precision": precision,
        "ms": round(ms, 2),
        "between_operations": round(1 - inside / ms, 3),
        "gflops": round(training_flops(model) / 3 * batch / ms / 1e6, 1),
        "top": [{"operation": kind, "ms": round(t, 3), "share": round(t / inside, 3)} for kind, t in top],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=shipped_model("racing"))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [profile(options.model, batch) for batch in options.batch]
    limit = bounds(rows[0]["precision"])
    for row in rows:
        print("batch {batch}: {ms} ms in {precision}, {gflops} GFLOP/s, {between_operations:.0%} between".format(**row))
        for line in row["top"]:
            print("  {share:6.1%} {ms:7.3f} ms  {operation}".format(**line))
    print("bounds: {gflops} GFLOP/s in a large product, {gbytes_per_s} GB/s in a large copy".format(**limit))
    record.write(options.json, {"question": "where an evaluation spends its time", "rows": rows, "bounds": limit})


if __name__ == "__main__":
    main()
