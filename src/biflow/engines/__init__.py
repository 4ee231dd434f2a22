"""What evaluates a network: PyTorch as it is, torch.compile, OpenVINO or onnxruntime; the same fields from each.

An engine is a function from a model to a callable that answers the same queries as its network. OpenVINO on a CPU,
and PyTorch on a GPU, compute in bf16 where the hardware does and frames stay the same. The numbers behind "auto" are
in benchmarks/README.md.
"""

import logging
from dataclasses import replace
from importlib.util import find_spec
from typing import get_args

from torch import nn

from biflow.config import Engine
from biflow.engines.compile import compiled
from biflow.engines.cuda_graphs import graphed
from biflow.engines.onnx import onnx_network
from biflow.engines.openvino import openvino_network
from biflow.engines.pytorch import FINE, HALF_LEVEL, bf16_network, frame_error
from biflow.errors import UserError
from biflow.machine import computes_in_bf16
from biflow.model import Model

__all__ = ["FINE", "HALF_LEVEL", "frame_error", "with_engine"]
log = logging.getLogger("biflow")
# For CPUs alone, the fastest first, with the packages that each needs.
ON_CPU: dict[Engine, tuple[str, ...]] = {
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnxscript", "onnx"),
}


def with_engine(model: Model, engine: Engine = "auto", *, rtol: float = 1e-2) -> Model:
    """The same model with its network evaluated by `engine`, for any batch; its `engine` names what does so.

    auto: on a CPU OpenVINO if it is installed, else onnxruntime; PyTorch on a GPU, in bf16 and on CUDA by graphs. An
    engine that is missing or fails is replaced by PyTorch, and the logger says so in a sentence. `rtol` is the
    tolerance that frames will be solved to: a solver that looks closer than FINE would take bf16's roundings for the
    field's, and spend evaluations on them. Raises UserError for an engine of another name.
    """
    on_cpu = model.device.type == "cpu"
    if engine not in (names := get_args(Engine)):
        raise UserError(f"There is no engine {engine!r}; use one of {', '.join(names)}.", setting="engine")
    if model.method.clips and engine == "auto":  # the others know of frames only
        return model
    if engine == "auto" and on_cpu and isinstance(model.network, nn.Module):
        found: list[Engine] = [name for name, packages in ON_CPU.items() if all(map(find_spec, packages))]
        engine = found[0] if found else "torch"
    try:
        if model.method.clips and engine in ON_CPU:
            raise RuntimeError(f"{model.method.title} makes whole clips")
        if engine in ON_CPU and not on_cpu:
            raise RuntimeError("it runs on the CPU only, and the model is elsewhere")
        if engine == "onnxruntime":
            return replace(model, network=onnx_network(model), engine="onnxruntime f32")
        if engine == "openvino":
            network, precision = openvino_network(model, "f32" if rtol < FINE else None)
            return replace(model, network=network, engine=f"openvino {precision}")
        if engine == "compile":
            return replace(model, network=compiled(model), engine=engine)
    except Exception as error:  # whatever a compiler may raise: the video matters more
        reason = _reason(error)
        if engine in ON_CPU and isinstance(error, ImportError):
            reason = f"it is not installed; pip install {' '.join(ON_CPU[engine])}"
        log.warning("The engine %s cannot be used (%s); using torch.", engine, reason)
        return model
    return model if engine == "torch" or on_cpu else _on_gpu(model, rtol)


def _on_gpu(model: Model, rtol: float) -> Model:
    if rtol >= FINE and computes_in_bf16():
        fast = bf16_network(model)
        if fast is not model.network and frame_error(model, fast) <= HALF_LEVEL:
            model = replace(model, network=fast, engine="torch bf16")
    if model.device.type == "cuda":
        try:
            return replace(model, network=graphed(model), engine=f"{model.engine}, CUDA graphs")
        except RuntimeError as error:
            log.warning("CUDA graphs cannot be used (%s); continuing without.", _reason(error))
    return model


def _reason(error: Exception) -> str:
    """The first line of what an exception says, or its name."""
    return (str(error).splitlines() or [type(error).__name__])[0]
