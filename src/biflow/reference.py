"""The networks and the checkpoints of the paper's own code, ryushinn/ode-video."""

from pathlib import Path
from typing import Literal

from biflow import methods
from biflow.config import NetworkConfig
from biflow.errors import UserError
from biflow.files import read_tensors
from biflow.model import Model, mismatched
from biflow.networks import VideoUNet, check_size


def reference_network(shape: Literal["default", "small"], width: int, *, pair: bool) -> NetworkConfig:
    """The network of ryushinn/ode-video in its "default" (7 resolutions) or "small" (6) shape."""
    multiples = {"default": (1, 1, 2, 2, 2, 4, 4), "small": (1, 1, 2, 2, 4, 4)}[shape]
    channels = tuple(width * m for m in multiples)
    return NetworkConfig(channels, layers=2, attention=(-2,), head_dim=8, patch=1, pair=pair, time_scale=1.0)


def import_reference(
    path: Path, *, method: str, width: int, size: int, shape: Literal["default", "small"] = "default"
) -> Model:
    """A checkpoint of the reference implementation (its `model.safetensors`) as a model of ours, same numbers.

    Checkpoints of two heads hold two networks under `model1.` (f^v) and `model2.` (f^n), the others one network.

    Raises:
        UserError: not a checkpoint of that method, width and shape, or a size that the network cannot take.
    """
    of = methods.get(method)
    config = reference_network(shape, width, pair=of.heads == 2)
    check_size(config, size, size)
    network = VideoUNet(of, config)
    state = read_tensors(path)
    if of.heads == 2:
        renamed = {k.replace("model1.", "nets.0.", 1).replace("model2.", "nets.1.", 1): v for k, v in state.items()}
    else:
        renamed = {f"nets.0.{k.removeprefix('model.')}": v for k, v in state.items()}
    if wrong := mismatched(network.state_dict(), renamed):
        raise UserError(
            f"{path} is not a {method} checkpoint of width {width} and shape {shape}: "
            f"{len(wrong)} tensors differ, first {wrong[0]!r}; check the method, width and shape."
        )
    network.load_state_dict(renamed)
    return Model(network.eval(), of, (3, size, size), eps=0.1 if of.takes_eps else 0.0)
