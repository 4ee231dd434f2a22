"""What evaluates a network: PyTorch as it is, torch.compile, or OpenVINO; the same fields from each.

OpenVINO on a CPU, and PyTorch on a GPU, compute in bf16 where the hardware does and frames stay what they are. The
numbers behind "auto" are in benchmarks/README.md.
"""

import copy
import hashlib
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biflow.cuda_graphs import fill, graphed
from biflow.files import cache_folder, computes_in_bf16, keep_compiled
from biflow.networks import VideoUNet
from biflow.paths import Fields

Engine = Literal["auto", "torch", "compile", "openvino"]
Precision = Literal["f32", "bf16"]
HALF_LEVEL = 1 / 255  # half a grey level of frames in [-1, 1]
FINE = 1e-3  # tolerances below it take up to twice the evaluations in bf16
log = logging.getLogger("biflow")


def fields(model: VideoUNet, engine: Engine = "auto", *, rtol: float = 1e-2) -> tuple[Callable[..., Fields], str]:
    """`model(x, t, alpha, condition)` as `engine` evaluates it, for any batch, and the name of what does so.

    auto: OpenVINO on a CPU if it is installed, otherwise PyTorch, on a GPU in bf16 and on CUDA by graphs. An
    engine that is missing or fails is replaced by PyTorch, and the logger says so in a sentence. `rtol` is the
    tolerance that frames will be solved to: a solver that looks closer than FINE would take bf16's roundings for the
    field's, and spend evaluations on them.
    """
    device = next(model.parameters()).device.type
    if engine == "auto" and device == "cpu" and find_spec("openvino"):
        engine = "openvino"
    try:
        if engine == "openvino":
            if device != "cpu":
                raise RuntimeError("it runs on the CPU only, and the model is elsewhere")
            evaluate, precision = openvino_fields(model, "f32" if rtol < FINE else None)
            return evaluate, f"openvino {precision}"
        if engine == "compile":
            return compiled_fields(model), engine
    except Exception as error:  # whatever a compiler may raise: the video matters more
        reason = _reason(error)
        if engine == "openvino" and isinstance(error, ImportError):
            reason = "it is not installed; pip install openvino"
        log.warning("The engine %s cannot be used (%s); using torch.", engine, reason)
    evaluate, used = model, "torch"
    if engine != "auto" or device == "cpu":
        return evaluate, used
    if rtol >= FINE and computes_in_bf16():
        fast = bf16_fields(model)
        if frame_error(model, fast) <= HALF_LEVEL:
            evaluate, used = fast, "torch bf16"
    if device == "cuda":
        try:
            return graphed(evaluate, _example(model)), f"{used}, CUDA graphs"
        except RuntimeError as error:
            log.warning("CUDA graphs cannot be used (%s); going on without.", _reason(error))
    return evaluate, used


def _reason(error: Exception) -> str:
    """The first line of what an exception says, or its name."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def bf16_fields(model: VideoUNet) -> Callable[..., Fields]:
    """By PyTorch in bf16, convolutions in channels-last, what autocast keeps in float32 in that; so are the fields."""
    device = next(model.parameters()).device.type
    networks = [_Network(model, i) for i in range(len(model.nets))]
    for module in (module for network in networks for module in network.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(torch.bfloat16)
            module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @torch.inference_mode()
    def evaluate(x: Tensor, t: Tensor, alpha: Tensor | None = None, condition: Tensor | None = None) -> Fields:
        parts, other = halves(x), condition if model.method == "condiff" else alpha
        # Without its cache, which a CUDA graph must not depend on; the weights need none.
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            outputs = [network(parts, t, other) for network in networks]
        return model.fields([output.float() for output in outputs])

    return evaluate


def compiled_fields(model: VideoUNet) -> Callable[..., Fields]:
    """By torch.compile; the first call takes minutes, or seconds where an earlier run has left its work."""
    keep_compiled()
    compiled = torch.compile(model)
    with torch.inference_mode():
        compiled(**_example(model))  # a compiler that fails does so here
    return compiled


def openvino_fields(model: VideoUNet, precision: Precision | None = None) -> tuple[Callable[..., Fields], Precision]:
    """By OpenVINO; the first call ever for a model takes some seconds, as its graph is traced and kept.

    Each batch size gets a network of its own (half a second): at batch 1 it is a third faster than one for any size.
    A sample's fields do not depend on its batch, in either precision. Returns the precision too: None means bf16 where
    the CPU computes in it and a frame would differ by at most half a grey level rms, and float32 elsewhere.
    """
    import openvino

    core = openvino.Core()
    paths, inputs = openvino_graphs(model)

    def compiled(precision: Precision) -> Callable[..., Fields]:
        settings = {**openvino_settings(), "INFERENCE_PRECISION_HINT": precision}
        if len(paths) > 1:  # a pair runs side by side; pinned, both would be given the same cores
            threads = max(1, torch.get_num_threads() // len(paths))
            settings |= {"INFERENCE_NUM_THREADS": str(threads), "ENABLE_CPU_PINNING": "NO"}

        @cache
        def bound(batch: int) -> tuple[list, dict[str, Tensor], list[Tensor]]:
            """Requests, and the tensors that they read and write: to hand them over anew takes 5 % of a call."""
            given = {name: torch.zeros(batch, *value.shape[1:]) for name, value in inputs.items()}
            requests, results = [], []
            for path in paths:
                graph = core.read_model(path)
                graph.reshape({i: [batch, *list(i.partial_shape)[1:]] for i in graph.inputs})
                request = core.compile_model(graph, "CPU", settings).create_infer_request()
                for i, value in enumerate(given.values()):
                    request.set_input_tensor(i, openvino.Tensor(value.numpy(), shared_memory=True))
                requests.append(request)
                results.append(torch.zeros(list(graph.output().shape)))
                request.set_output_tensor(openvino.Tensor(results[-1].numpy(), shared_memory=True))
            return requests, given, results

        @torch.inference_mode()
        def evaluate(x: Tensor, t: Tensor, alpha: Tensor | None = None, condition: Tensor | None = None) -> Fields:
            requests, given, results = bound(len(x))
            # FLOW is handed an alpha as well, which it has no use for.
            fill(given, {"x": halves(x), "t": t, "alpha": alpha, "condition": condition})
            for request in requests:
                request.start_async()
            for request in requests:
                request.wait()
            return model.fields([result.clone() for result in results])

        return evaluate

    if precision is None and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        fast = compiled("bf16")
        if frame_error(model, fast) <= HALF_LEVEL:
            return fast, "bf16"
    return compiled(precision or "f32"), precision or "f32"


def openvino_graphs(model: VideoUNet) -> tuple[list[Path], dict[str, Tensor]]:
    """A graph in the cache for each of the model's networks, for any batch, and inputs of two samples, in its order."""
    inputs = _example(model)
    inputs["x"] = halves(inputs["x"])
    shapes = [[-1, *value.shape[1:]] for value in inputs.values()]
    networks = [_Network(model, i) for i in range(len(model.nets))]
    kinds = [f"{model.to_json_string()} network {i} of halves" for i in range(len(networks))]
    given = tuple(inputs.values())
    return [kept_graph(n, given, shapes, kind) for n, kind in zip(networks, kinds, strict=True)], inputs


@torch.no_grad()
def frame_error(model: VideoUNet, evaluate: Callable[..., Fields], alpha: float = 0.2) -> float:
    """How far, rms, a frame solved in one evaluation by `evaluate` is from one by `model`, at noise level `alpha`."""
    generator, device = torch.Generator().manual_seed(0), next(model.parameters()).device
    smooth = F.interpolate(torch.rand(1, 3, 4, 4, generator=generator) * 2 - 1, tuple(model.config["size"])).to(device)
    noise = torch.randn(smooth.shape, generator=generator).to(device)
    given = {"t": torch.full((1,), 0.5, device=device), "alpha": torch.full((1,), alpha, device=device)}
    if model.method == "condiff":
        given = {"t": given["t"], "condition": smooth}
    x = {"flow": smooth, "biflow": smooth + alpha * noise, "condiff": (smooth + noise) / 2}[model.method]
    (v, n), (v_exact, n_exact) = evaluate(x, **given), model(x, **given)
    error = v - v_exact
    if n is not None:
        error = error - alpha * (n - n_exact)
    return error.square().mean().sqrt().item()


def _example(model: VideoUNet) -> dict[str, Tensor]:
    """Inputs of two samples, by name."""
    device = next(model.parameters()).device
    x, half = torch.zeros(2, 3, *model.config["size"], device=device), torch.full((2,), 0.5, device=device)
    more = {"flow": {}, "biflow": {"alpha": half.clone()}, "condiff": {"condition": x.clone()}}[model.method]
    return {"x": x, "t": half, **more}


def halves(x: Tensor) -> Tensor:
    """(b, 3, h, w) as (b, 6, h, w): what bf16 holds of x, and what it loses.

    f^n finds little noise in x, some (x - clean) / alpha, and so magnifies what x lost to rounding: half of the
    error of frames in bf16. A first convolution that adds up both parts, each exact enough, does not lose it.
    """
    rounded = x.to(torch.bfloat16).to(x.dtype)
    return torch.cat([rounded, x - rounded], dim=1)


class _Network(nn.Module):
    """One network of a model, of positional inputs: what a tracer understands. It takes the `halves` of x."""

    def __init__(self, model: VideoUNet, index: int) -> None:
        super().__init__()
        self.evaluate, self.method = model.evaluate, model.method
        self.net = copy.deepcopy(model.nets[index])
        first = cast(nn.Conv2d, self.net.conv_in)
        of_x = first.weight[:, : 3 * model.network.patch**2]  # CONDIFF's others are those of the condition
        first.weight = nn.Parameter(torch.cat([of_x, first.weight], dim=1))

    def forward(self, x: Tensor, t: Tensor, other: Tensor | None = None) -> Tensor:
        alpha, condition = (None, other) if self.method == "condiff" else (other, None)
        return self.evaluate(self.net, x, t, alpha, condition)


def openvino_settings() -> dict[str, str]:
    """What OpenVINO compiles a graph with: float32, few samples soon rather than many later, PyTorch's threads."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
    }


def kept_graph(network: nn.Module, inputs: tuple[Tensor, ...], shapes: list[list[int]], kind: str) -> Path:
    """The network's graph in OpenVINO's form, in the cache; traced with `inputs` and written if it is not there yet.

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
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            openvino.save_model(graph, partial / "model.xml", compress_to_fp16=False)
            os.replace(partial, folder)
        except OSError:  # another process was faster: its folder is as good
            if not (folder / "model.xml").exists():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder / "model.xml"
