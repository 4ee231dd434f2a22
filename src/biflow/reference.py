"""The networks and the checkpoints of the paper's own code, ryushinn/ode-video."""

from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from biflow import methods
from biflow.config import NetworkConfig
from biflow.errors import UserError
from biflow.model import Model
from biflow.networks import VideoUNet, check_size
from biflow.tensors import bare, mismatched, read_tensors, with_names

Shape = Literal["default", "small"]
SHAPES: dict[Shape, tuple[int, ...]] = {"default": (1, 1, 2, 2, 2, 4, 4), "small": (1, 1, 2, 2, 4, 4)}


def reference_network(shape: Shape, width: int, *, pair: bool) -> NetworkConfig:
    """The network of ryushinn/ode-video in its "default" (7 resolutions) or "small" (6) shape."""
    channels = tuple(width * multiple for multiple in SHAPES[shape])
    return NetworkConfig(channels, layers=2, attention=(-2,), head_dim=8, patch=1, pair=pair, time_scale=1.0)


def import_reference(path: Path, *, method: str, width: int, size: int, shape: Shape = "default") -> Model:
    """A checkpoint of the reference implementation (its `model.safetensors`) as a model of ours, same numbers.

    Checkpoints of two heads hold two networks under `model1.` (f^v) and `model2.` (f^n), the others one network. Parts
    of names that wrappers of networks put there, such as `module.`, do not matter.

    Raises:
        UserError: not a checkpoint of that method, width and shape, or a size that the network cannot take.
    """
    of = methods.get(method)
    if of.clips:
        raise UserError(f"There are no checkpoints of {of.title}.", setting="method")
    config = reference_network(shape, width, pair=of.heads == 2)
    check_size(config, size, size)
    network = VideoUNet(of, config)
    state = with_names(with_names(read_tensors(path), bare), lambda name: name.removeprefix("model."))
    names = _reference_names(network)
    expected = {names[name]: value for name, value in network.state_dict().items()}
    if mismatched(expected, state):
        settings = {"method": method, "width": str(width), "shape": shape}
        fitting = _fitting(state)
        others = [f"{key}='{value}'" for key, value in fitting.items() if value != settings[key]]
        why = f"it is one of {' and '.join(others)}" if others else _differences(expected, state)
        raise UserError(f"{path} is not a {method} checkpoint of width {width} and shape {shape}: {why}.")
    network.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})
    return Model(network.eval(), of, (3, size, size), eps=0.1 if of.takes_eps else 0.0)


def _reference_names(network: VideoUNet) -> dict[str, str]:
    """The reference's names of our tensors."""
    prefixes = {"nets.0.": "model1.", "nets.1.": "model2."} if len(network.nets) == 2 else {"nets.0.": ""}
    return {name: prefixes[name[:7]] + name[7:] for name in network.state_dict()}


def _fitting(state: dict[str, Tensor]) -> dict[str, str]:
    """The settings of a checkpoint that has these tensors; none if there are no such settings."""
    first = state.get("conv_in.weight", state.get("model1.conv_in.weight"))
    width = first.shape[0] if first is not None and first.ndim else 0
    ours = [method for method in methods.METHODS.values() if not method.clips]
    for method, shape in product(ours, SHAPES):
        with suppress(UserError), torch.device("meta"):  # a width that no network has
            network = VideoUNet(method, reference_network(shape, width, pair=method.heads == 2))
            names = _reference_names(network)
            if not mismatched({names[name]: value for name, value in network.state_dict().items()}, state):
                return {"method": method.name, "width": str(width), "shape": shape}
    return {}


def _differences(expected: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    """Which tensors are missing, unexpected, or of another shape, as text for people."""
    shapes = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & state.keys())
        if expected[name].shape != state[name].shape
    ]
    lists = {"missing": sorted(expected.keys() - state.keys()), "unexpected": sorted(state.keys() - expected.keys())}
    parts = [
        f"{len(names)} tensors {what} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"
        for what, names in {**lists, "of another shape": shapes}.items()
        if names
    ]
    return ", ".join(parts)
