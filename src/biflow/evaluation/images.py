"""How alike two images are: PSNR and SSIM, per image, in float64."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

ROUNDING = 1 / 12  # mean square error of rounding to whole grey levels


def psnr(x: UInt8[Tensor, "b 3 h w"], y: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB, at most 58.9: an error below that of rounding counts as that of rounding."""
    error = (x.double() - y.double()).square().mean((1, 2, 3)).clamp(min=ROUNDING)
    return 10 * torch.log10(255**2 / error)


def ssim(x: UInt8[Tensor, "b 3 h w"], y: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Structural similarity of Wang et al. 2004, Eq. 13: 1 for equal images, about 0 for unrelated ones.

    The window is theirs, a Gaussian of 11 pixels with standard deviation 1.5, at all places where it fits, or as much
    of it as fits a smaller image. It is computed of each colour channel, and averaged.
    """
    a, b = x.double().flatten(0, 1)[:, None], y.double().flatten(0, 1)[:, None]
    side = min(11, *x.shape[-2:])
    offset = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    line = torch.exp(-offset.square() / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2)[None, None]
    mean_a, mean_b, aa, bb, ab = (F.conv2d(part, window) for part in (a, b, a * a, b * b, a * b))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    alike = (2 * mean_a * mean_b + c1) * (2 * (ab - mean_a * mean_b) + c2)
    spread = (mean_a**2 + mean_b**2 + c1) * (aa - mean_a**2 + bb - mean_b**2 + c2)
    return (alike / spread).mean((1, 2, 3)).view(x.shape[:2]).mean(1)
