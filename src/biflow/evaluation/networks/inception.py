"""FID's Inception: the network of the 2015 TensorFlow graph. Its 2048 pooled activations are FID's features.

Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision", Sec. 6, as released by Google on
2015-12-05 and used by Heusel et al. 2017. It differs from what is usually called Inception-v3: its average pools do not
count the padding, and the last mixed block has a max pool.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

SIDE = 299


class Unit(nn.Conv2d):
    """Convolution, batch norm, ReLU. The norm is folded into the convolution (`convert.fold_batch_norm`)."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _ _"]:
        return F.relu_(super().forward(input))


class Parallel(nn.ModuleList):
    """Branches with the same input, concatenated over channels."""

    def __init__(self, *branches: nn.Module):
        super().__init__(branches)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _ _"]:
        return torch.cat([branch(x) for branch in self], 1)


def chain(channels: int, *units: tuple[int, int | tuple[int, int]]) -> nn.Sequential:
    """Units of (output channels, kernel) with stride 1 in sequence, which keep the image's size."""
    widths = [channels, *(grown for grown, _ in units)]
    return nn.Sequential(*(Unit(width, *unit, padding="same") for width, unit in zip(widths, units, strict=False)))


def average_pool() -> nn.AvgPool2d:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


def mixed_35(channels: int, pooled: int) -> Parallel:
    """A block on the 35x35 grid."""
    return Parallel(
        chain(channels, (64, 1)),
        chain(channels, (48, 1), (64, 5)),
        chain(channels, (64, 1), (96, 3), (96, 3)),
        nn.Sequential(average_pool(), *chain(channels, (pooled, 1))),
    )


def mixed_17(inner: int) -> Parallel:
    """A block on the 17x17 grid, with each 7x7 convolution in two factors."""
    row, column = (1, 7), (7, 1)
    return Parallel(
        chain(768, (192, 1)),
        chain(768, (inner, 1), (inner, row), (192, column)),
        chain(768, (inner, 1), (inner, column), (inner, row), (inner, column), (192, row)),
        nn.Sequential(average_pool(), *chain(768, (192, 1))),
    )


def mixed_8(channels: int, pool: nn.Module) -> Parallel:
    """A block on the 8x8 grid, where two branches fork again."""

    def fork() -> Parallel:
        return Parallel(chain(384, (384, (1, 3))), chain(384, (384, (3, 1))))

    return Parallel(
        chain(channels, (320, 1)),
        nn.Sequential(*chain(channels, (384, 1)), fork()),
        nn.Sequential(*chain(channels, (448, 1), (384, 3)), fork()),
        nn.Sequential(pool, *chain(channels, (192, 1))),
    )


class Inception(nn.Module):
    """RGB images (b, 3, 299, 299), as returned by `preprocess`, to features (b, 2048)."""

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
        to_17 = Parallel(
            Unit(288, 384, 3, stride=2),
            nn.Sequential(*chain(288, (64, 1), (96, 3)), Unit(96, 96, 3, stride=2)),
            nn.MaxPool2d(3, stride=2),
        )
        to_8 = Parallel(
            nn.Sequential(*chain(768, (192, 1)), Unit(192, 320, 3, stride=2)),
            nn.Sequential(*chain(768, (192, 1), (192, (1, 7)), (192, (7, 1))), Unit(192, 192, 3, stride=2)),
            nn.MaxPool2d(3, stride=2),
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
    """The input that the first FID implementation gives its graph, on the frames' device.

    299x299, bilinear without antialias: pixel i is from i * old / new. The aspect ratio is not kept. 0 becomes -1, and
    255 becomes 127/128.
    """
    # TensorFlow 1 does not align pixel centres, and PyTorch's `interpolate` has no mode for that.
    x = frames.float()
    for axis in (-2, -1):
        size = x.shape[axis]
        place = torch.arange(SIDE, dtype=torch.float64, device="cpu") * size / SIDE
        low = place.long()
        before, after = (x.index_select(axis, i.to(x.device)) for i in (low, (low + 1).clamp(max=size - 1)))
        share = (place - low).to(x)
        x = before + (after - before) * (share[:, None] if axis == -2 else share)
    return x.div_(128).sub_(1)
