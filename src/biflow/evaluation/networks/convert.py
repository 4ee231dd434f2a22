"""Convert weights from the files of their packages to the states of our networks, with batch norms folded in.

The functions take the bytes of files whose checksums are right. Nevertheless, a pickle may name nothing but NumPy's
arrays.
"""

import io
import pickle
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from biflow.errors import UserError
from biflow.evaluation.networks.i3d import I3D
from biflow.evaluation.networks.inception import Inception
from biflow.evaluation.networks.lpips import LPIPS, STAGES


class _Arrays(pickle.Unpickler):
    """Builds NumPy arrays in plain containers. A pickle cannot make it call anything else."""

    # The module's name differs between NumPy 1 and 2; an array's own __reduce__ returns the function behind it.
    NAMES: ClassVar[dict[tuple[str, str], Any]] = dict.fromkeys(
        [(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")], np.empty(0).__reduce__()[0]
    ) | {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return self.NAMES[module_name, global_name]
        except KeyError:
            name = f"{module_name}.{global_name}"
            raise UserError(f"The pickle names {name}, which is not an array and may run code; not loaded.") from None


def read_pickle(content: bytes) -> dict:
    """Load a pickle of NumPy arrays. Raises UserError if it names anything else, before that is called."""
    return _Arrays(io.BytesIO(content)).load()


def fold_batch_norm(
    weight: Float[Tensor, "d c *k"],
    mean: Float[Tensor, " d"],
    variance: Float[Tensor, " d"],
    shift: Float[Tensor, " d"],
    eps: float = 1e-3,
) -> tuple[Float[Tensor, "d c *k"], Float[Tensor, " d"]]:
    """Weight and bias of the convolution that computes (w * x - mean) / sqrt(variance + eps) + shift, in float64."""
    factor = (variance.double() + eps).rsqrt()
    folded = weight.double() * factor.view(-1, *(1,) * (weight.ndim - 1))
    return folded.to(weight.dtype), (shift.double() - mean.double() * factor).to(weight.dtype)


def i3d(content: bytes) -> dict[str, Tensor]:
    """JAX's tree of variables {"params", "batch_stats"} as the state of `I3D`.

    Kernels (t, h, w, in, out) become (out, in, t, h, w).
    """

    def units(params: dict, stats: dict) -> list[tuple[dict, dict]]:
        """Parameters and statistics of each convolution with a norm; sorted by name they are in the network's order."""
        if "BatchNorm_0" in stats:
            return [(params, stats["BatchNorm_0"])]
        return [unit for name in sorted(stats) for unit in units(params[name], stats[name])]

    params, stats = (read_pickle(content)[part] for part in ("params", "batch_stats"))
    *names, logits = _convolutions(I3D)
    state = {}
    for name, (unit, norm) in zip(names, units(params, stats), strict=True):
        kernel = _tensor(unit["Conv_0"]["kernel"]).permute(4, 3, 0, 1, 2)
        mean, variance = (_tensor(norm[part]).flatten() for part in ("mean", "var"))
        shift = _tensor(unit["BatchNorm_0"]["bias"])
        state[f"{name}.weight"], state[f"{name}.bias"] = fold_batch_norm(kernel, mean, variance, shift)
    (last,) = params.keys() - stats.keys()
    return state | {
        f"{logits}.weight": _tensor(params[last]["Conv_0"]["kernel"]).permute(4, 3, 0, 1, 2),
        f"{logits}.bias": _tensor(params[last]["Conv_0"]["bias"]),
    }


def inception(content: bytes) -> dict[str, Tensor]:
    """The TorchScript of FID's network as the state of `Inception`."""
    # A TorchScript is a program. This one is not run, and it is loaded only because its checksum is known.
    theirs = torch.jit.load(io.BytesIO(content), map_location="cpu").state_dict()
    units = [name.removesuffix(".weight") for name in theirs if name.endswith(".weight")]
    state = {}
    for name, unit in zip(_convolutions(Inception), units, strict=True):  # both in the order of the branches
        parts = (theirs[f"{unit}.{part}"] for part in ("weight", "mean", "var", "beta"))
        state[f"{name}.weight"], state[f"{name}.bias"] = fold_batch_norm(*parts)
    return state


def lpips(content: bytes) -> dict[str, Tensor]:
    """JAX's tree of parameters as the state of `LPIPS`, with all names under "alex.".

    Kernels (h, w, in, out) become (out, in, h, w), and heads (1, 1, in, 1) become (in).
    """
    tree = read_pickle(content)
    state = {}
    for i, name in enumerate(_convolutions(LPIPS)):
        part = tree["AlexNet_0"][f"Conv_{i}"]
        state[f"alex.{name}.weight"] = _tensor(part["kernel"]).permute(3, 2, 0, 1)
        state[f"alex.{name}.bias"] = _tensor(part["bias"])
    heads = (tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(len(STAGES)))
    return state | {f"alex.heads.{i}": _tensor(head).flatten() for i, head in enumerate(heads)}


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))


def _convolutions(network: type[nn.Module]) -> list[str]:
    with torch.device("meta"):
        return [name for name, part in network().named_modules() if isinstance(part, nn.Conv2d | nn.Conv3d)]
