"""What engines know of a query: that it is a NamedTuple of tensors."""

import hashlib
import inspect
import linecache
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from biflow.model import Model
from biflow.networks import VideoUNet
from biflow.paths import present


def example(model: Model, batch: int = 2) -> Any:
    """A query of `batch` samples such as the model's method puts, on its device."""
    assert model.shape is not None, "an engine needs to know the shape of a sample"
    state = torch.zeros(batch, *model.method.state(model.shape, model.span), device=model.device)
    return model.method.example(state, conditions=model.conditions(batch))


def fill(slots: Any, query: Any) -> None:
    """Copy a query to where the last one still lies. Raises ValueError if a tensor is missing or has another shape."""
    for name, slot in present(slots).items():
        value: Tensor | None = getattr(query, name, None)
        if value is None or value.shape != slot.shape:
            given = "missing" if value is None else f"of shape {tuple(value.shape)}"
            raise ValueError(f"{name} has to be of shape {tuple(slot.shape)}, but is {given}.")
        slot.copy_(value)


def each(tensors: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A query, or fields, of the same kind, with `function` of each tensor."""
    return type(tensors)(**{name: function(tensor) for name, tensor in present(tensors).items()})


class Positional(nn.Module):
    """A network of positional tensors: what a tracer understands."""

    def __init__(self, query: Any, evaluate: Callable[[Any], Any], network: nn.Module) -> None:
        super().__init__()
        self.kind, self.names = type(query), tuple(present(query))
        self.evaluate, self.network = evaluate, network

    def forward(self, *tensors: Tensor) -> Any:
        return self.evaluate(self.kind(**dict(zip(self.names, tensors, strict=True))))


def fingerprint(network: nn.Module, words: str) -> str:
    """A name for what is made of a network: other words, code, weights or names of weights give another one."""
    digest = hashlib.sha256((words + _code(network)).encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]


def _code(network: nn.Module) -> str:
    """The text of the files that say how a network evaluates its modules, those of PyTorch left out."""
    kinds = {VideoUNet, *map(type, network.modules())}
    own = (inspect.unwrap(kind.forward) for kind in kinds if not kind.__module__.startswith("torch."))
    files = sorted({code.co_filename for forward in own if (code := getattr(forward, "__code__", None))})
    for file in files:
        linecache.checkcache(file)
    return "".join(line for file in files for line in linecache.getlines(file))  # also those of cells of a notebook
