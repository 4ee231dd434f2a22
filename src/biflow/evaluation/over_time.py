"""Measures of a video that are cheap to compute at every frame, and their trend over time.

They convert one frame at a time to float, because a long video as floats would take gigabytes.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


def motion(frames: UInt8[Tensor, "t 3 h w"], first: UInt8[Tensor, "3 h w"]) -> Float[Tensor, " t"]:
    """Mean absolute change from the previous frame, in grey levels (0 to 255)."""
    pairs = zip(frames, (first, *frames[:-1]), strict=True)
    return torch.stack([(x.double() - before.double()).abs().mean() for x, before in pairs])


def saturation(frames: UInt8[Tensor, "t 3 h w"], first: UInt8[Tensor, "3 h w"]) -> Float[Tensor, " t"]:
    """Share of values that are 0 or 255."""
    return torch.stack([((x == 0) | (x == 255)).double().mean() for x in frames])


def colour_drift(frames: UInt8[Tensor, "t 3 h w"], first: UInt8[Tensor, "3 h w"]) -> Float[Tensor, " t"]:
    """Root mean square difference between the mean colours of a frame and of the first one, in grey levels."""
    colour = first.double().mean((1, 2))
    return torch.stack([(x.double().mean((1, 2)) - colour).square().mean().sqrt() for x in frames])


def contrast(frames: UInt8[Tensor, "t 3 h w"], first: UInt8[Tensor, "3 h w"]) -> Float[Tensor, " t"]:
    """Standard deviation of the grey values within a frame, in grey levels."""
    return torch.stack([x.double().mean(0).std(correction=0) for x in frames])


Measure = Callable[[UInt8[Tensor, "t 3 h w"], UInt8[Tensor, "3 h w"]], Float[Tensor, " t"]]

# Functions of the frames of a video and of the frame before them, which return a value per frame. A measure of your own
# joins by `MEASURES["mine"] = my_measure`.
MEASURES: dict[str, Measure] = {f.__name__: f for f in (motion, saturation, colour_drift, contrast)}


def measure(frames: UInt8[Tensor, "t 3 h w"], first: UInt8[Tensor, "3 h w"]) -> dict[str, Float[Tensor, " t"]]:
    """All measures of a video that follows the frame `first`."""
    return {name: function(frames, first) for name, function in MEASURES.items()}


def trend(times: Int[Tensor, " w"]) -> Float[Tensor, " w"]:
    """Weights whose sum over values at these times is the slope of the values' least-squares line; 0 for one time."""
    centred = times.double() - times.double().mean()
    return centred / centred.square().sum() if len(times) > 1 else torch.zeros(1, dtype=torch.float64)
