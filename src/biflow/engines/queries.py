"""What engines know of a query: that it is a NamedTuple of tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from biflow.model import Model
from biflow.paths import present


def example(model: Model, batch: int = 2) -> Any:
    """A query of `batch` samples such as the model's method puts, on its device."""
    assert model.shape is not None, "an engine needs to know the shape of a sample"
    frame = torch.zeros(batch, *model.shape, device=model.device)
    return model.method.example(frame, conditions=model.conditions(batch))


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
