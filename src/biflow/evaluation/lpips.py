"""LPIPS: how different two images look, as learned from people's judgements of pairs of image patches.

Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", Eq. 1, with the linear
heads of version 0.1. The paper's authors compare images by AlexNet, and optimise by VGG16.
(`biflow.evaluation.weights` gets the weights.)
"""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

# Of ImageNet's images in [-1, 1], rounded as the authors have them.
MEAN, DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
Net = Literal["alex", "vgg16"]

# The channels of the convolutions of each stage; what a stage gives is compared.
STAGES: dict[Net, tuple[tuple[int, ...], ...]] = {
    "alex": ((64,), (192,), (384,), (256,), (256,)),
    "vgg16": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}
# Kernel, stride and padding of convolutions that are not 3x3 with padding 1.
WIDE: dict[tuple[Net, int], tuple[int, int, int]] = {("alex", 0): (11, 4, 2), ("alex", 1): (5, 1, 2)}
# Max pools before the stage of that number: (kernel, stride).
POOLS: dict[Net, dict[int, tuple[int, int]]] = {
    "alex": dict.fromkeys((1, 2), (3, 2)),
    "vgg16": dict.fromkeys((1, 2, 3, 4), (2, 2)),
}
SMALLEST: dict[Net, int] = {"alex": 31, "vgg16": 16}  # pixels a side


class LPIPS(nn.Module):
    """The distance of each image from its partner; weights from `load_lpips`.

    `net` is the network whose features are compared: "alex" (Krizhevsky 2014, one tower) or "vgg16".
    """

    def __init__(self, net: Net):
        super().__init__()
        self.net: Net = net
        channels = 3
        stages = []
        for number, widths in enumerate(STAGES[net]):
            layers: list[nn.Module] = [nn.MaxPool2d(*POOLS[net][number])] if number in POOLS[net] else []
            kernel, stride, padding = WIDE.get((net, number), (3, 1, 1))
            for width in widths:
                layers += [nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU()]
                channels = width
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ParameterList([nn.Parameter(torch.empty(widths[-1])) for widths in STAGES[net]])

    def forward(self, x: Float[Tensor, "b 3 h w"], y: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """The distances of RGB images in [-1, 1]: 0 for the same image, about 1 for images that have nothing in common.

        Raises ValueError for images of two sizes, or below `SMALLEST`.
        """
        return self.distance(self.features(x), self.features(y))

    def features(self, x: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b c _ _"]]:
        """What `distance` compares: for each stage, its features with those of a pixel scaled to length 1.

        For frames in a row: each goes through the network once, and then is compared to both its neighbours.
        """
        if min(x.shape[-2:]) < SMALLEST[self.net]:
            least = SMALLEST[self.net]
            raise ValueError(f"LPIPS ({self.net}) needs images of {least}x{least} or more, not {tuple(x.shape[-2:])}")
        mean, deviation = (x.new_tensor(rgb)[:, None, None] for rgb in (MEAN, DEVIATION))
        x = (x - mean) / deviation
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def distance(self, x: list[Tensor], y: list[Tensor]) -> Float[Tensor, " b"]:
        """The distances of images that `features` has seen. Raises ValueError for images of two sizes."""
        if x[0].shape != y[0].shape:
            raise ValueError(f"LPIPS compares images of one size, not features {x[0].shape} and {y[0].shape}")
        parts = [
            F.conv2d((a - b).square(), head[None, :, None, None]).mean((1, 2, 3))
            for a, b, head in zip(x, y, self.heads, strict=True)
        ]
        return torch.stack(parts).sum(0)


def load_lpips(path: Path, net: Net, device: torch.device | None = None) -> LPIPS:
    """LPIPS by `net` with the converted weights at `path` (`biflow.evaluation.weights.find` finds them)."""
    with torch.device("meta"):
        network = LPIPS(net)
    mine = {name.partition(".")[2]: w for name, w in load_file(path).items() if name.startswith(f"{net}.")}
    network.load_state_dict(mine, assign=True)
    # Channels last takes four fifths of the time on a CPU (2.3 s for 2.8 s, VGG16, 10 pairs of 100x100 on 2 cores).
    network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.to(device or torch.device("cpu"))
