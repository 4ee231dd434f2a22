"""ONNX: the network, or the solution of a whole frame, as a file for any runtime; and onnxruntime as an engine.

Every file is compared with PyTorch before it gets its name.
"""

import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from biflow.config import Solver
from biflow.engines.pytorch import HALF_LEVEL
from biflow.engines.queries import Positional, each, example, fingerprint
from biflow.errors import UserError
from biflow.files import cache_folder, check_nothing_else, replacing, together, write_json
from biflow.model import Model
from biflow.paths import Conditions, Fields, Network, State, present
from biflow.rollout import generate

OPSET = 20
LARGEST = 1e-3  # difference from PyTorch, as a share of the largest value, beyond which a file is wrong
SMALL = 64  # elements: what has fewer is not worth storing in half the bytes
STREAM = 4  # frames by which fp16 is judged
Precision = Literal["fp16", "fp32"]


def write_network(model: Model, path: Path) -> float:
    """Write one evaluation, a query's tensors → v (and n), for any batch; the largest difference from PyTorch.

    Raises UserError if the file does not give what PyTorch gives.
    """
    network, query = model.weights, _random(example(model))
    evaluate = partial(_fields, network)
    module = Positional(query, evaluate, network)
    outputs = ["v", "n"][: model.method.heads]
    return _write(module, present(query), outputs, path)


def write_frame(model: Model, path: Path, solver: Solver, eps: float) -> float:
    """Write the solution of a whole frame, frame and noise (and conditions) → next, of one sample.

    `solver` has fixed steps, which are unrolled. The next frame is within the model's limits. Returns the largest
    difference from PyTorch. Raises UserError if the file does not give what PyTorch gives.
    """
    assert model.shape is not None
    assert solver.steps is not None, "a graph has a fixed number of steps"
    generator = torch.Generator().manual_seed(0)
    frame = torch.rand(1, *model.shape, generator=generator) * 2 - 1
    inputs = {"frame": frame, "noise": torch.randn(frame.shape, generator=generator)}
    inputs |= present(_random(model.conditions(1)))
    return _write(_Frame(model, solver, eps, tuple(inputs)[2:]), inputs, ["next"], path, any_batch=False)


def write_folder(model: Model, out: Path, solver: Solver) -> tuple[float, float]:
    """Write both as `network.onnx` and `frame.onnx`, with `onnx.json` about them; the differences of the two.

    Raises UserError as `write_network` does.
    """
    files = ("network.onnx", "frame.onnx")
    check_nothing_else(out, (*files, *(f"{name}.data" for name in files), "onnx.json"))  # data: of large networks
    with replacing(out) as folder:
        folder.mkdir()
        network = write_network(model, folder / "network.onnx")
        frame = write_frame(model, folder / "frame.onnx", solver, model.eps)
        about = {
            **model.config,
            "network.onnx": {"inputs": list(present(example(model))), "largest_difference": network},
            "frame.onnx": {"solver": str(solver), "eps": model.eps, "largest_difference": frame},
        }
        write_json(folder / "onnx.json", about)
    return network, frame


class _Frame(nn.Module):
    """From a frame and noise to the next frame."""

    def __init__(self, model: Model, solver: Solver, eps: float, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.solver, self.eps, self.names, self.network = model, solver, eps, names, model.weights

    def forward(self, *tensors: Tensor) -> Tensor:
        frame, noise, *conditions = tensors
        method, now = self.model.method, Conditions(**dict(zip(self.names, conditions, strict=True)))
        x, given = method.start(frame, self.eps, noise)
        how = {"given": given, "conditions": now, "eps": self.eps, "solver": self.solver}
        x = method.advance(self.network, x, 0.0, 1.0, **how).x
        return x.clamp(*self.model.limits) if self.model.limits else x


def _fields(network: nn.Module, query: Any) -> tuple[Tensor, ...]:
    return tuple(present(network(query)).values())


def _random(tensors: Any) -> Any:
    """The same with other numbers in each, so that no input can be mistaken for another."""
    generator = torch.Generator().manual_seed(0)
    return each(tensors, lambda t: torch.rand(t.shape, generator=generator) - 0.5 * (t.ndim > 1))


def _write(
    module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path, *, any_batch: bool = True
) -> float:
    largest = 0.0
    with together(path.parent) as new:  # the weights of a large network are in a file of their own
        partial = new / path.name
        _export(module, inputs, outputs, partial, any_batch)
        run = _session(partial)
        for batch in {1, len(next(iter(inputs.values())))}:
            tensors = [tensor[:batch] for tensor in inputs.values()]
            with torch.no_grad():
                expected = module(*tensors)
            for result, exact in zip(
                run(tensors), [expected] if isinstance(expected, Tensor) else expected, strict=True
            ):
                difference = float((result - exact).abs().max())
                if not difference <= LARGEST * float(exact.abs().max()):
                    raise UserError(f"{path} differs from PyTorch by {difference:.2g}, so it was not written.")
                largest = max(largest, difference)
    return largest


def _export(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path, any_batch: bool) -> None:
    import onnxscript  # noqa: F401  torch would not name it if it were missing

    batch = torch.export.Dim("batch", min=1)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of packages that are not installed
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes=(tuple({0: batch} for _ in inputs),) if any_batch else None,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    program.save(path)


def halve(path: Path, out: Path) -> None:
    """The same network with its weights in fp16. It computes in float32 all the same, as CPUs and WASM do."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = (proto := onnx.load(path)).graph
    casts = []
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT and np.prod(weight.dims) >= SMALL:
            name, value = weight.name, numpy_helper.to_array(weight).astype(np.float16)
            weight.CopyFrom(numpy_helper.from_array(value, f"{name}.fp16"))
            casts.append(helper.make_node("Cast", [f"{name}.fp16"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(proto, out)


def write_small(model: Model, path: Path, first: State) -> tuple[Precision, float]:
    """Write one evaluation with weights in fp16 if a short stream stays within half a grey level, else in fp32.

    Returns the precision, and how far rms the worst frame of that stream, in fp16 and from `first`, is from PyTorch's.
    """
    with replacing(path) as partial:
        write_network(model, partial)
        small = partial.with_suffix(".fp16")
        try:
            halve(partial, small)
            error = _stream_error(model, _network(model, small), first)
            if error <= HALF_LEVEL:
                small.replace(partial)
        finally:
            small.unlink(missing_ok=True)
    return ("fp16" if error <= HALF_LEVEL else "fp32"), error


def _stream_error(model: Model, network: Network, first: State) -> float:
    how: dict[str, Any] = {"frames": STREAM, "solver": model.method.solver.fixed(4)}
    ours, exact = (generate(one, first, **how) for one in (replace(model, network=network), model))
    return float((ours - exact).square().mean((0, 2, 3, 4)).sqrt().max())


def onnx_network(model: Model) -> Network:
    """The network by onnxruntime, in float32; the first call ever for a model takes some seconds to write its graph."""
    import onnxruntime

    words = f"{onnxruntime.__version__} {torch.__version__} {model.config} {list(present(example(model)))}"
    path = cache_folder() / "onnx" / fingerprint(model.weights, words) / "network.onnx"
    if not path.exists():
        write_network(model, path)
    return _network(model, path)


def _network(model: Model, path: Path) -> Network:
    run, names = _session(path), tuple(present(example(model)))

    def evaluate(query: Any) -> Fields:
        tensors = present(query)
        if missing := [name for name in names if name not in tensors]:
            raise ValueError(f"The query lacks {missing[0]}.")
        return Fields(*run([tensors[name] for name in names]))

    return evaluate


def _session(path: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    """From the inputs of a file, in its order, to its outputs. It waits for its threads as PyTorch's do, asleep."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def run(tensors: list[Tensor]) -> list[Tensor]:
        inputs = {name: tensor.detach().contiguous().numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(result) for result in session.run(None, inputs)]

    return run
