"""FID's Inception: the network of the 2015 TensorFlow graph, whose 2048 pooled activations are FID's features.

Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision", Sec. 6, as Google released it on
2015-12-05 and Heusel et al. 2017 used it. That graph is not quite the network that is usually called Inception-v3: its
average pools leave out the padding, and the last mixed block has a max pool. (`biflow.evaluation.weights` gets the
weights that belong to it.)
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn

FEATURES = 2048
SIDE = 299
PREPROCESSING = "299x299, bilinear without antialias as in TensorFlow 1 (pixel i from i * old / new); x / 128 - 1"


class Unit(nn.Conv2d):
    """Convolution, batch norm, ReLU; the norm has been made part of the convolution."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _ _"]:
        return F.relu_(super().forward(input))


class Beside(nn.ModuleList):
    """Branches that all see the same input, joined over channels."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _ _"]:
        return torch.cat([branch(x) for branch in self], 1)


def chain(channels: int, *units: tuple[int, int | tuple[int, int]]) -> nn.Sequential:
    """Units of (channels out, kernel), stride 1, one after another; the size of the image stays."""
    layers = []
    for grown, kernel in units:
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        layers.append(Unit(channels, grown, (height, width), padding=(height // 2, width // 2)))
        channels = grown
    return nn.Sequential(*layers)


def average_pool() -> nn.AvgPool2d:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


def mixed_35(channels: int, pooled: int) -> Beside:
    """A block on the 35x35 grid."""
    return Beside(
        [
            chain(channels, (64, 1)),
            chain(channels, (48, 1), (64, 5)),
            chain(channels, (64, 1), (96, 3), (96, 3)),
            nn.Sequential(average_pool(), *chain(channels, (pooled, 1))),
        ]
    )


def mixed_17(inner: int) -> Beside:
    """A block on the 17x17 grid, its 7x7 convolutions in two factors."""
    row, column = (1, 7), (7, 1)
    return Beside(
        [
            chain(768, (192, 1)),
            chain(768, (inner, 1), (inner, row), (192, column)),
            chain(768, (inner, 1), (inner, column), (inner, row), (inner, column), (192, row)),
            nn.Sequential(average_pool(), *chain(768, (192, 1))),
        ]
    )


def mixed_8(channels: int, pool: nn.Module) -> Beside:
    """A block on the 8x8 grid, where two branches fork again."""

    def fork() -> Beside:
        return Beside([chain(384, (384, (1, 3))), chain(384, (384, (3, 1)))])

    return Beside(
        [
            chain(channels, (320, 1)),
            nn.Sequential(*chain(channels, (384, 1)), fork()),
            nn.Sequential(*chain(channels, (448, 1), (384, 3)), fork()),
            nn.Sequential(pool, *chain(channels, (192, 1))),
        ]
    )


class Inception(nn.Module):
    """RGB images (b, 3, 299, 299) as `preprocess` makes them to features (b, 2048); weights from `load_inception`."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            Unit(3, 32, 3, stride=2),
            Unit(32, 32, 3),
            Unit(32, 64, 3, padding=1),
            nn.MaxPool2d(3, stride=2),
            Unit(64, 80, 1),
            Unit(80, 192, 3),
            nn.MaxPool2d(3, stride=2),
        )
        to_17 = Beside(
            [
                Unit(288, 384, 3, stride=2),
                nn.Sequential(*chain(288, (64, 1), (96, 3)), Unit(96, 96, 3, stride=2)),
                nn.MaxPool2d(3, stride=2),
            ]
        )
        to_8 = Beside(
            [
                nn.Sequential(*chain(768, (192, 1)), Unit(192, 320, 3, stride=2)),
                nn.Sequential(*chain(768, (192, 1), (192, (1, 7)), (192, (7, 1))), Unit(192, 192, 3, stride=2)),
                nn.MaxPool2d(3, stride=2),
            ]
        )
        self.mixed = nn.Sequential(
            *[mixed_35(channels, pooled) for channels, pooled in ((192, 32), (256, 64), (288, 64))],
            to_17,
            *[mixed_17(inner) for inner in (128, 160, 160, 192)],
            to_8,
            mixed_8(1280, average_pool()),
            mixed_8(2048, nn.MaxPool2d(3, stride=1, padding=1)),
        )

    def forward(self, x: Float[Tensor, "b 3 299 299"]) -> Float[Tensor, "b 2048"]:
        return self.mixed(self.stem(x)).mean((2, 3))


def preprocess(frames: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 299 299"]:
    """What FID's first implementation feeds its graph: see `PREPROCESSING`. On the device where the frames are.

    The aspect ratio is not kept. 0 becomes -1, and 255 becomes 127/128.
    """
    # TensorFlow 1 does not align pixel centres, which PyTorch's `interpolate` has no mode for.
    x = frames.float()
    for axis in (-2, -1):
        size = x.shape[axis]
        place = torch.arange(SIDE, dtype=torch.float64, device="cpu") * size / SIDE
        low = place.long()
        high = (low + 1).clamp(max=size - 1)
        share = (place - low).to(x)[:, None] if axis == -2 else (place - low).to(x)
        before, after = x.index_select(axis, low.to(x.device)), x.index_select(axis, high.to(x.device))
        x = before + (after - before) * share
    return x.div_(128).sub_(1)


def load_inception(path: Path, device: torch.device | None = None) -> Inception:
    """The network with the converted weights at `path` (`biflow.evaluation.weights.find` finds them)."""
    with torch.device("meta"):
        network = Inception()
    network.load_state_dict(load_file(path), assign=True)
    # Channels last takes two thirds of the time on a CPU (0.47 s for 0.68 s, 2 images on 2 cores).
    network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.to(device or torch.device("cpu"))
