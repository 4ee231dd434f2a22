"""Graphs in OpenVINO's form, traced once and kept in the user's cache."""

import hashlib
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from biflow.files import cache_folder, replacing


def openvino_settings() -> dict[str, str]:
    """What OpenVINO compiles a graph with: float32, few samples soon rather than many later, PyTorch's threads."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
    }


def kept_graph(network: nn.Module, inputs: tuple[Tensor, ...], shapes: list[list[int]], kind: str) -> Path:
    """The network's graph in the cache; traced with `inputs` and written if it is not there yet.

    `shapes` are those of its inputs, -1 where any size will do. `kind` names what the graph depends on beside its
    weights and shapes.
    """
    import openvino

    digest = hashlib.sha256(f"{openvino.__version__} {kind} {shapes}".encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    folder = cache_folder() / "openvino" / digest.hexdigest()[:24]
    if not (folder / "model.xml").exists():
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a tracer's, about Python values that do not change here
            traced = torch.jit.trace(network, inputs, check_trace=False)  # OpenVINO's own check takes longer than all
            graph = openvino.convert_model(traced, example_input=inputs, input=shapes)
        with replacing(folder, sync=False) as partial:
            partial.mkdir(parents=True)
            openvino.save_model(graph, partial / "model.xml", compress_to_fp16=False)
    return folder / "model.xml"
