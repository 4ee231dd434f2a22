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


def grid(frames: UInt8[Tensor, "t 3 h w"], period: int) -> Float[Tensor, " t"]:
    """Power of what repeats every `period` pixels, along x, y or both, in squared grey levels: the variance due to it.

    Networks that work on patches leave a texture with the period of the patch. It is summed over the frequencies that
    are multiples of 1 / period, and those within 1/32 of a cycle per pixel of them, since the texture is not equally
    strong everywhere. A Hann window keeps out what the borders of a frame would add; colour channels are averaged.
    """
    height, width = frames.shape[-2:]
    down, across = (torch.hann_window(side, dtype=torch.float64) for side in (height, width))
    window = down[:, None] * across
    rows, columns = _near_multiples(height, period)[:, None], _near_multiples(width, period)
    band = (rows >= 0) & (columns >= 0) & (rows + columns > 0)
    found = []
    for x in frames:
        power = torch.fft.fft2((x.double() - x.double().mean((1, 2), keepdim=True)) * window).abs().square()
        found.append(power[:, band].sum(1).mean() / (height * width * window.square().sum()))
    return torch.stack(found)


def _near_multiples(side: int, period: int) -> Int[Tensor, " side"]:
    """For each frequency of a side: which multiple of 1 / period it is near to, modulo 1, or -1 if none."""
    frequency = torch.arange(side) / side * period
    multiple = frequency.round()
    near = (frequency - multiple).abs() <= period * max(1 / 32, 1 / side) + 1e-6
    return torch.where(near, multiple.int() % period, -1)


Measure = Callable[[UInt8[Tensor, "t 3 h w"], UInt8[Tensor, "3 h w"]], Float[Tensor, " t"]]

# Functions of the frames of a video and of the frame before them, which return a value per frame. A measure of your own
# joins by `MEASURES["mine"] = my_measure`.
MEASURES: dict[str, Measure] = {f.__name__: f for f in (motion, saturation, colour_drift, contrast)}


def trend(times: Int[Tensor, " w"]) -> Float[Tensor, " w"]:
    """Weights whose sum over values at these times is the slope of the values' least-squares line; 0 for one time."""
    centred = times.double() - times.double().mean()
    return centred / centred.square().sum() if len(times) > 1 else torch.zeros(1, dtype=torch.float64)
