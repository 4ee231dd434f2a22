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
        name = f"{module_name}.{global_name}"
        if (module_name, global_name) not in self.NAMES:
            raise UserError(f"The pickle names {name}, which is not an array and may run code; not loaded.")
        return self.NAMES[module_name, global_name]


def read_pickle(content: bytes) -> dict:
    """Load a pickle of NumPy arrays. Raises UserError if it names anything else, before that is called."""
    return _Arrays(io.BytesIO(content)).load()


def fold_batch_norm(
    weight: Float[Tensor, "d c *k"],
    mean: Float[Tensor, " d"],
    variance: Float[Tensor, " d"],
    shift: Float[Tensor, " d"],
) -> tuple[Float[Tensor, "d c *k"], Float[Tensor, " d"]]:
    """Weight and bias of the convolution that computes (w * x - mean) / sqrt(variance + 1e-3) + shift, in float64."""
    factor = (variance.double() + 1e-3).rsqrt()
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

    def kernel(unit: dict) -> Tensor:
        return _tensor(unit["Conv_0"]["kernel"]).permute(4, 3, 0, 1, 2)

    params, stats = (read_pickle(content)[part] for part in ("params", "batch_stats"))
    parts = []
    for unit, norm in units(params, stats):
        mean, variance = (_tensor(norm[part]).flatten() for part in ("mean", "var"))
        parts.append(fold_batch_norm(kernel(unit), mean, variance, _tensor(unit["BatchNorm_0"]["bias"])))
    (last,) = params.keys() - stats.keys()
    return _state(I3D, [*parts, (kernel(params[last]), _tensor(params[last]["Conv_0"]["bias"]))])


def inception(content: bytes) -> dict[str, Tensor]:
    """The TorchScript of FID's network as the state of `Inception`."""
    # A TorchScript is a program. This one is not run, and it is loaded only because its checksum is known.
    theirs = torch.jit.load(io.BytesIO(content), map_location="cpu").state_dict()
    units = [name.removesuffix(".weight") for name in theirs if name.endswith(".weight")]
    norms = ((theirs[f"{unit}.{part}"] for part in ("weight", "mean", "var", "beta")) for unit in units)
    return _state(Inception, [fold_batch_norm(*norm) for norm in norms])  # both in the order of the branches


def lpips(content: bytes) -> dict[str, Tensor]:
    """JAX's tree of parameters as the state of `LPIPS`, with all names under "alex.".

    Kernels (h, w, in, out) become (out, in, h, w), and heads (1, 1, in, 1) become (in).
    """
    tree = read_pickle(content)
    layers = [tree["AlexNet_0"][f"Conv_{i}"] for i in range(len(STAGES))]
    state = _state(LPIPS, [(_tensor(part["kernel"]).permute(3, 2, 0, 1), _tensor(part["bias"])) for part in layers])
    heads = (tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(len(STAGES)))
    state |= {f"heads.{i}": _tensor(head).flatten() for i, head in enumerate(heads)}
    return {f"alex.{name}": value for name, value in state.items()}


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))


def _state(network: type[nn.Module], parts: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The weights and biases of the network's convolutions, which are in its order, by name."""
    with torch.device("meta"):
        names = [name for name, part in network().named_modules() if isinstance(part, nn.Conv2d | nn.Conv3d)]
    pairs = zip(names, parts, strict=True)
    return {f"{name}.{key}": value for name, part in pairs for key, value in zip(("weight", "bias"), part, strict=True)}
