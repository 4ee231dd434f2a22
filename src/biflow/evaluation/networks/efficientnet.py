"""EfficientNet-lite0: 1280 features per frame in a ninth of Inception's time.

Distances between these features are neither FID nor FVD and must not be called so. They serve to compare runs with each
other. Tan & Le 2019, "EfficientNet", Table 1, in the lite form of github.com/tensorflow/tpu: without
squeeze-and-excitation, and with ReLU6.
"""

import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from biflow.evaluation.networks.i3d import pad_same
from biflow.video import resize

FEATURES = 1280
SIDE = 224
PREPROCESSING = "224x224, bicubic with antialias, no crop; (x - 127) / 128"

# Per stage: blocks, kernel, stride of the first block, expansion of a block's channels, output channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class Unit(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding, batch norm, ReLU6. The norm is folded into the convolution."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _ _"]:
        return F.relu6(super().forward(pad_same(input, self.kernel_size, self.stride)), inplace=True)


class Block(nn.Module):
    """Expand the channels, convolve each one separately, project. Adds the input if the shape stays the same."""

    def __init__(self, channels: int, grown: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = channels * expansion
        expand = [Unit(channels, wide, 1)] if expansion > 1 else []
        project = nn.Conv2d(wide, grown, 1)  # a norm folded in as well, but no ReLU
        self.layers = nn.Sequential(*expand, Unit(wide, wide, kernel, stride, groups=wide), project)
        self.skip = stride == 1 and channels == grown

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _ _"]:
        return x + self.layers(x) if self.skip else self.layers(x)


class EfficientNet(nn.Module):
    """RGB images (b, 3, 224, 224), as returned by `preprocess`, to features (b, 1280).

    `classify` maps features to the 1000 classes of ImageNet, to check that the weights are right.
    """

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = [Unit(3, 32, 3, stride=2)]
        channels = 32
        for blocks, kernel, stride, expansion, grown in STAGES:
            for number in range(blocks):
                layers.append(Block(channels, grown, kernel, 1 if number else stride, expansion))
                channels = grown
        self.layers = nn.Sequential(*layers, Unit(channels, FEATURES, 1))
        self.classify = nn.Linear(FEATURES, 1000)

    def forward(self, x: Float[Tensor, "b 3 224 224"]) -> Float[Tensor, "b 1280"]:
        return self.layers(x).mean((2, 3))


def preprocess(frames: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 224 224"]:
    """The network's input (see `PREPROCESSING`), on the frames' device."""
    return resize(frames, (SIDE, SIDE)).float().sub_(127).div_(128)
