"""By OpenVINO, on a CPU, from graphs that are traced once and kept in the user's cache."""

import hashlib
import logging
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from biflow.documents import read_json
from biflow.engines.pytorch import HALF_LEVEL, frame_error
from biflow.engines.queries import Positional, each, example, fill, fingerprint
from biflow.errors import UserError
from biflow.files import cache_folder, replacing, sha256, write_json
from biflow.model import Model
from biflow.networks import VideoUNet, halved, of_halves
from biflow.paths import Fields, Network, present

log = logging.getLogger("biflow")
Precision = Literal["f32", "bf16"]
FILES, SUMS = ("model.xml", "model.bin"), "sha256.json"  # of a graph in the cache


def openvino_network(model: Model, precision: Precision | None = None) -> tuple[Network, Precision]:
    """The network by OpenVINO; the first call ever for a model takes some seconds, as its graph is traced and kept.

    Each batch size gets a network of its own (half a second): at batch 1 it is a third faster than one for any size.
    A sample's fields do not depend on its batch, in either precision. Returns the precision too: None means bf16 where
    the CPU computes in it and a frame would differ by at most half a grey level rms, and float32 elsewhere.
    """
    import openvino

    graphs = openvino_graphs(model)
    if precision is None and "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        fast = _compiled(graphs, "bf16")
        if frame_error(model, fast) <= HALF_LEVEL:
            return fast, "bf16"
    return _compiled(graphs, precision or "f32"), precision or "f32"


class _Graphs(NamedTuple):
    """The graphs of a network, and how to ask them."""

    models: list[Any]  # openvino.Model, for any batch size
    query: Any  # two samples, as the graphs take them
    prepare: Callable[[Any], Any]  # from a query to what the graphs take
    answer: Callable[[Sequence[Tensor]], Fields]  # from what they give to the fields


def openvino_graphs(model: Model) -> _Graphs:
    """One for each UNet of a `VideoUNet`, which is asked about halves; a single one for any other network."""
    network = model.weights
    if isinstance(network, VideoUNet):
        twin = of_halves(network)
        prepare, answer = halved, twin.fields
        parts = [(net, partial(twin.evaluate, net)) for net in twin.nets]
    else:
        prepare, answer = (lambda query: query), (lambda results: Fields(*results))
        parts = [(network, lambda query: tuple(present(network(query)).values()))]
    query = prepare(example(model))
    inputs = tuple(present(query).values())
    shapes = [[-1, *value.shape[1:]] for value in inputs]
    kind = f"{model.config} {list(present(query))}"
    modules = [Positional(query, evaluate, part) for part, evaluate in parts]
    models = [kept_graph(module, inputs, shapes, f"{kind} {i}") for i, module in enumerate(modules)]
    return _Graphs(models, query, prepare, answer)


def _compiled(graphs: _Graphs, precision: Precision) -> Network:
    import openvino

    core = openvino.Core()
    settings = {**openvino_settings(), "INFERENCE_PRECISION_HINT": precision}
    if len(graphs.models) > 1:  # a pair runs side by side; pinned, both would be given the same cores
        threads = max(1, torch.get_num_threads() // len(graphs.models))
        settings |= {"INFERENCE_NUM_THREADS": str(threads), "ENABLE_CPU_PINNING": "NO"}

    @cache
    def requests(batch: int) -> tuple[list, Any, list[Tensor]]:
        """For one batch size, and the tensors that they read and write: handing these over takes 5 % of a call."""
        slots = each(graphs.query, lambda value: torch.zeros(batch, *value.shape[1:]))
        requests, results = [], []
        for graph in graphs.models:
            graph = graph.clone()
            graph.reshape({i: [batch, *list(i.partial_shape)[1:]] for i in graph.inputs})
            request = core.compile_model(graph, "CPU", settings).create_infer_request()
            outputs = [torch.zeros(list(output.shape)) for output in graph.outputs]
            for i, value in enumerate(present(slots).values()):
                request.set_input_tensor(i, openvino.Tensor(value.numpy(), shared_memory=True))
            for i, value in enumerate(outputs):
                request.set_output_tensor(i, openvino.Tensor(value.numpy(), shared_memory=True))
            requests.append(request)
            results += outputs
        return requests, slots, results

    @torch.inference_mode()
    def evaluate(query: Any) -> Fields:
        running, slots, results = requests(len(query[0]))
        fill(slots, graphs.prepare(query))
        for request in running:
            request.start_async()
        for request in running:
            request.wait()
        return graphs.answer([result.clone() for result in results])

    return evaluate


def openvino_settings() -> dict[str, str]:
    """What OpenVINO compiles a graph with: float32, few samples soon rather than many later, PyTorch's threads."""
    threads = str(torch.get_num_threads())
    return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}


def kept_graph(network: nn.Module, inputs: tuple[Tensor, ...], shapes: list[list[int]], kind: str) -> Any:
    """The network's graph, an `openvino.Model`: from the cache, or traced with `inputs` and kept there.

    A graph that is damaged there is made again. Where the cache cannot be written, that is logged, and all else works.
    `shapes` are those of its inputs, -1 where any size will do. `kind` names what the graph depends on beside its
    weights and shapes.
    """
    import openvino

    folder = cache_folder() / "openvino" / fingerprint(network, f"{openvino.__version__} {kind} {shapes}")
    if graph := _read(folder):
        return graph
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a tracer's, about Python values that do not change here
        traced = torch.jit.trace(network, inputs, check_trace=False)  # OpenVINO's own check takes longer than all
        graph = openvino.convert_model(traced, example_input=inputs, input=shapes)
    try:
        with replacing(folder) as partial:
            partial.mkdir()
            try:
                openvino.save_model(graph, partial / FILES[0], compress_to_fp16=False)
            except RuntimeError as error:  # "basic_ios::clear: iostream error"
                raise UserError(f"OpenVINO cannot write {folder}. Perhaps there is no space left.") from error
            write_json(partial / SUMS, {name: sha256(partial / name) for name in FILES})
    except UserError as error:
        log.warning("The network's graph is not cached, so the next start takes some seconds longer: %s", error)
    return graph


def _read(folder: Path) -> Any:
    """The graph that is kept in a folder; None if there is none, or if its files are not as they were written."""
    import openvino

    if not folder.is_dir():
        return None
    try:
        sums, contents = read_json(folder / SUMS), [(folder / name).read_bytes() for name in FILES]
        if sums == {name: hashlib.sha256(content).hexdigest() for name, content in zip(FILES, contents, strict=True)}:
            return openvino.Core().read_model(contents[0], contents[1])
    except (OSError, RuntimeError, UserError):
        pass
    log.warning("The network's graph in %s is damaged, and is made again.", folder)
    return None
