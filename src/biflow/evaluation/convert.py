"""Weights as their packages have them to the state of our networks, batch norms folded in.

Functions take the bytes of files whose checksums are right. Still, a pickle may name nothing but NumPy's arrays.
"""

import io
import pickle
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from biflow.errors import UserError
from biflow.evaluation.efficientnet import EfficientNet
from biflow.evaluation.i3d import fold_batch_norm
from biflow.evaluation.inception import Inception
from biflow.evaluation.lpips import LPIPS, STAGES, Net


class _Arrays(pickle.Unpickler):
    """Builds NumPy arrays in plain containers; a pickle can name no other function to call."""

    # The name of the module differs between NumPy 1 and 2; an array itself knows what rebuilds it.
    NAMES: ClassVar[dict[tuple[str, str], Any]] = dict.fromkeys(
        [(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")], np.empty(0).__reduce__()[0]
    ) | {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return self.NAMES[module_name, global_name]
        except KeyError:
            raise UserError(
                f"The pickle names {module_name}.{global_name}, which is no array and may run code; it was not loaded."
            ) from None


def read_pickle(content: bytes) -> dict:
    """A pickle of NumPy arrays. Raises UserError if it names anything else, before any of that is called."""
    return _Arrays(io.BytesIO(content)).load()


def i3d(content: bytes) -> dict[str, Tensor]:
    """JAX's tree of variables {"params", "batch_stats"} as the state of `I3D`.

    Convolutions go from (t, h, w, in, out) to (out, in, t, h, w).
    """
    variables = read_pickle(content)
    state = {}
    for name, unit, norm in _units(variables["params"], variables["batch_stats"]):
        kernel = torch.from_numpy(np.array(unit["Conv_0"]["kernel"])).permute(4, 3, 0, 1, 2)
        if norm is None:
            weight, bias = kernel, torch.from_numpy(np.array(unit["Conv_0"]["bias"]))
        else:
            parts = (norm["BatchNorm_0"]["mean"], norm["BatchNorm_0"]["var"], unit["BatchNorm_0"]["bias"])
            mean, variance, shift = (torch.from_numpy(np.array(part)).flatten() for part in parts)
            weight, bias = fold_batch_norm(kernel, mean, variance, shift)
            name += ".conv"
        state |= {f"{name}.weight": weight.contiguous(), f"{name}.bias": bias.contiguous()}
    return state


STEM = {"Conv3d_1a_7x7": "stem", "Conv3d_2b_1x1": "stem_1x1", "Conv3d_2c_3x3": "stem_3x3"}
BRANCHES = {
    "Branch_0/Conv3d_0a_1x1": "branch_0",
    "Branch_1/Conv3d_0a_1x1": "branch_1.0",
    "Branch_1/Conv3d_0b_3x3": "branch_1.1",
    "Branch_2/Conv3d_0a_1x1": "branch_2.0",
    "Branch_2/Conv3d_0b_3x3": "branch_2.1",
    "Branch_3/Conv3d_0b_1x1": "branch_3",
}


def _units(params: dict, stats: dict) -> Iterator[tuple[str, dict, dict | None]]:
    """(our name, parameters, batch statistics or None) of each convolution."""
    for name, unit in params.items():
        if name in STEM:
            yield STEM[name], unit, stats[name]
        elif name.startswith("Mixed_"):
            for branch, part in unit.items():
                yield f"mixed.{name[6:]}.{BRANCHES[branch]}", part, stats[name][branch]
        else:
            yield "logits", unit, None


def inception(content: bytes) -> dict[str, Tensor]:
    """The TorchScript of FID's network as the state of `Inception`."""
    # A TorchScript is a program. Nobody runs this one; it is loaded only because its checksum says which one it is.
    theirs = torch.jit.load(io.BytesIO(content), map_location="cpu").state_dict()
    units = [name.removesuffix(".weight") for name in theirs if name.endswith(".weight")]
    with torch.device("meta"):
        names = _convolutions(Inception())
    state = {}
    for name, unit in zip(names, units, strict=True):  # both list their convolutions in the order of the branches
        parts = (theirs[f"{unit}.{part}"] for part in ("weight", "mean", "var", "beta"))
        state[f"{name}.weight"], state[f"{name}.bias"] = fold_batch_norm(*parts)
    return state


def efficientnet(content: bytes) -> dict[str, Tensor]:
    """The PyTorch port's state as that of `EfficientNet`."""
    theirs = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    parts = list(dict.fromkeys(name.rpartition(".")[0] for name in theirs))
    units, (head,) = parts[:-1], parts[-1:]  # convolution, norm, convolution, norm, …, and the classes
    with torch.device("meta"):
        names = _convolutions(EfficientNet())
    state = {f"classify.{part}": theirs[f"{head}.{part}"] for part in ("weight", "bias")}
    for name, unit, norm in zip(names, units[::2], units[1::2], strict=True):
        norms = (theirs[f"{norm}.{part}"] for part in ("running_mean", "running_var", "bias", "weight"))
        state[f"{name}.weight"], state[f"{name}.bias"] = fold_batch_norm(theirs[f"{unit}.weight"], *norms)
    return state


def lpips(alex: bytes, vgg16: bytes) -> dict[str, Tensor]:
    """JAX's two trees of parameters as the states of both `LPIPS`, under "alex." and "vgg16.".

    Convolutions go from (h, w, in, out) to (out, in, h, w), heads from (1, 1, in, 1) to (in).
    """
    both: list[tuple[Net, bytes, str]] = [("alex", alex, "AlexNet_0"), ("vgg16", vgg16, "VGG16_0")]
    state = {}
    for net, content, trunk in both:
        tree = read_pickle(content)
        with torch.device("meta"):
            names = _convolutions(LPIPS(net))
        for i, name in enumerate(names):
            part = tree[trunk][f"Conv_{i}"]
            state[f"{net}.{name}.weight"] = torch.from_numpy(part["kernel"].transpose(3, 2, 0, 1).copy())
            state[f"{net}.{name}.bias"] = torch.from_numpy(np.array(part["bias"]))
        for i in range(len(STAGES[net])):
            head = tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]
            state[f"{net}.heads.{i}"] = torch.from_numpy(np.array(head)).flatten()
    return state


def _convolutions(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
