"""What the tests of the feature networks share; recorded numbers depend on all of it."""

import numpy as np
import pytest
import torch
from torch import nn


@pytest.fixture
def images() -> torch.Tensor:
    """Two images of 96x128, one busy and one with edges."""
    y, x = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    busy = torch.stack([y * x % 256, (3 * y + x) % 256, (2 * x - y) % 256])
    edges = torch.stack([(y // 16 + x // 16) % 2 * 255, y * 2, 255 - x])
    return torch.stack([busy, edges]).to(torch.uint8)


@pytest.fixture
def made_up():
    """Gives a network convolutions that everybody can make, and that keep the size of what passes through."""

    def fill(kind: type[nn.Module]) -> nn.Module:
        with torch.device("meta"):
            network = kind()
        network = network.to_empty(device="cpu").eval().requires_grad_(False)
        random = np.random.RandomState(0)  # NumPy keeps its stream the same for ever
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                size = module.weight[0].numel()
                values = random.standard_normal(tuple(module.weight.shape)) * (2 / size) ** 0.5
                module.weight.copy_(torch.from_numpy(values))
                module.bias.copy_(torch.from_numpy(random.standard_normal(len(module.weight)) * 0.1))
        return network

    return fill
