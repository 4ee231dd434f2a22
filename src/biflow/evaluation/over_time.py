"""What cheap numbers show of a video over time: how much moves, how much is saturated, where the colours have gone."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

MEASURES = ("motion", "saturation", "colour_drift", "contrast")


def measure(frames: UInt8[Tensor, "t 3 h w"], first: UInt8[Tensor, "3 h w"]) -> dict[str, Float[Tensor, " t"]]:
    """Of each frame of a video that begins after the frame `first`, a float64 value a measure.

    motion: mean absolute change since the frame before, in grey levels (0 to 255).
    saturation: share of values that are 0 or 255.
    colour_drift: root mean square difference of the mean colour from that of `first`, in grey levels.
    contrast: standard deviation of the grey values over the frame, in grey levels.
    """
    before, drift, motion = first.double(), [], []
    colour = before.mean((1, 2))
    for frame in frames:  # one at a time: a long video as floats would take gigabytes
        x = frame.double()
        motion.append((x - before).abs().mean())
        drift.append((x.mean((1, 2)) - colour).square().mean().sqrt())
        before = x
    saturated = (frames == 0) | (frames == 255)
    return {
        "motion": torch.stack(motion),
        "saturation": saturated.double().mean((1, 2, 3)),
        "colour_drift": torch.stack(drift),
        "contrast": torch.stack([frame.double().mean(0).std(correction=0) for frame in frames]),
    }


def trend(times: Float[Tensor, " w"]) -> Float[Tensor, " w"]:
    """Weights whose sum over values at these times is the slope of the values' least-squares line; 0 for one time."""
    centred = times.double() - times.double().mean()
    return centred / centred.square().sum() if len(times) > 1 else torch.zeros(1, dtype=torch.float64)
