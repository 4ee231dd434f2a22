"""LPIPS: how different two images look, learned from human judgements of pairs of image patches.

Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", Eq. 1, with the linear
heads of version 0.1. The features are those of AlexNet (Krizhevsky 2014, one tower), which the authors use to compare
images.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from biflow.errors import UserError

# Of ImageNet's images in [-1, 1], rounded as in the authors' code.
MEAN, DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# Per stage: output channels, kernel, stride and padding of its convolution. Stages 1 and 2 begin with a max pool.
STAGES = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
SMALLEST = 31  # pixels per side


class LPIPS(nn.Module):
    """The distance between each image and its partner."""

    def __init__(self):
        super().__init__()
        self.stages, channels = nn.ModuleList(), 3
        for number, (width, kernel, stride, padding) in enumerate(STAGES):
            pool = [nn.MaxPool2d(3, 2)] if number in (1, 2) else []
            self.stages.append(nn.Sequential(*pool, nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU()))
            channels = width
        self.heads = nn.ParameterList([nn.Parameter(torch.empty(width)) for width, *_ in STAGES])

    def forward(self, x: Float[Tensor, "b 3 h w"], y: Float[Tensor, "b 3 _ _"]) -> Float[Tensor, " b"]:
        """The distances between RGB images in [-1, 1]: 0 for equal images, about 1 for unrelated ones (Eq. 1).

        Raises UserError if the sizes differ or a side is below `SMALLEST`.
        """
        if x.shape != y.shape:
            raise UserError(f"LPIPS compares images of one size, not {tuple(x.shape)} and {tuple(y.shape)}.")
        if min(x.shape[-2:]) < SMALLEST:
            sizes = f"{SMALLEST}x{SMALLEST} or more, not {x.shape[-2]}x{x.shape[-1]}"
            raise UserError(f"LPIPS needs frames of {sizes}; remove it from the networks.")
        mean, deviation = (x.new_tensor(rgb)[:, None, None] for rgb in (MEAN, DEVIATION))
        x, y = (x - mean) / deviation, (y - mean) / deviation
        parts = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x, y = stage(x), stage(y)
            difference = (unit_length(x) - unit_length(y)).square()
            parts.append(F.conv2d(difference, head[None, :, None, None]).mean((1, 2, 3)))
        return torch.stack(parts).sum(0)


def unit_length(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Scale the features of each pixel to length 1."""
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
