"""Render clouds that drift across a sky: slow motion for as long as one likes, as in a time-lapse.

    python datasets/clouds.py datasets/clouds-frames/train --clips 240 --frames 32 --size 64 --seed 0
    python datasets/clouds.py datasets/clouds-frames/test --clips 16 --frames 544 --size 64 --seed 1

Each clip is a landscape under a layer of clouds, at a random time of day. The wind blows from the horizon towards the
viewer and a little to a side, and the clouds change their shape slowly. A longer clip begins with the frames of a
shorter one: a model of short clips can be held against long ones. The same command resumes a run that was interrupted,
and a larger --clips adds clips.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from rendering import Clip, averaged, main

Colour = tuple[float, float, float]
Plane = Float[np.ndarray, "h w"]

HORIZON, VIEW = 0.78, 1.1  # its height from the top of the picture; half the width of the view at distance 1
CELLS = 32  # after which the noise repeats, along each axis
OCTAVES = ((1, 0.5), (2, 0.26), (4, 0.14), (8, 0.1))  # frequency, weight
WIND, CHANGE = 0.02, 0.004  # cells of the lowest octave per frame: along the sky, and along the axis of change
SAMPLES = 2  # per pixel and side


@dataclass(frozen=True)
class Light:
    """Colours (r, g, b) in [0, 1] at a time of day."""

    zenith: Colour
    horizon: Colour
    lit: Colour
    shade: Colour
    land: Colour


LIGHTS = (
    Light((0.20, 0.42, 0.78), (0.70, 0.83, 0.94), (0.98, 0.98, 0.97), (0.66, 0.70, 0.77), (0.16, 0.30, 0.16)),  # noon
    Light((0.25, 0.30, 0.55), (0.98, 0.72, 0.45), (1.00, 0.83, 0.64), (0.55, 0.38, 0.45), (0.12, 0.12, 0.14)),  # dusk
    Light((0.45, 0.55, 0.72), (0.98, 0.86, 0.80), (1.00, 0.93, 0.90), (0.68, 0.62, 0.72), (0.22, 0.25, 0.22)),  # dawn
    Light((0.04, 0.06, 0.15), (0.16, 0.20, 0.34), (0.42, 0.46, 0.58), (0.12, 0.14, 0.22), (0.02, 0.03, 0.04)),  # night
)


def noise(
    values: Float[np.ndarray, "c c c"], x: Plane, y: Plane, z: float, octaves: tuple[tuple[int, float], ...] = OCTAVES
) -> Plane:
    """Sum of octaves of value noise (Perlin 1985) at (x, y, z): `values` in [0, 1] at whole places, smooth between."""
    total = np.zeros_like(x)
    for number, (frequency, weight) in enumerate(octaves):
        places = [np.asarray(axis) * frequency + 7 * number for axis in (x, y, z)]
        low = [np.floor(place).astype(int) for place in places]
        part = [_smooth(place - below) for place, below in zip(places, low, strict=True)]
        octave = np.zeros_like(x)
        for corner in np.ndindex(2, 2, 2):
            share = np.ones_like(x)
            for t, upper in zip(part, corner, strict=True):
                share = share * (t if upper else 1 - t)
            i, j, k = ((below + upper) % len(values) for below, upper in zip(low, corner, strict=True))
            octave += share * values[i, j, k]
        total += weight * octave
    return total


def above(size: int) -> tuple[Plane, Plane, Plane]:
    """For each sample of a picture of size²: where its ray meets the layer of clouds (to the right, ahead), and its
    slope, which is at most 0 on land."""
    across = (np.arange(size * SAMPLES) + 0.5) / (size * SAMPLES)
    u, v = np.meshgrid(VIEW * (2 * across - 1), HORIZON - across)
    slope = np.maximum(v, 1e-3)
    return u / slope, 1 / slope, v


def _mix(a: np.ndarray, b: np.ndarray, share: Plane) -> np.ndarray:
    return a + (b - a) * share[..., None]


def _step(x: Plane, low: float, high: float) -> Plane:
    return _smooth(((x - low) / (high - low)).clip(0, 1))


def _smooth(t: np.ndarray) -> np.ndarray:
    return t * t * (3 - 2 * t)


def drift(seed: int, frames: int, size: int) -> Clip:
    """One sky: `frames` RGB images of size²."""
    rng = np.random.default_rng(seed)
    values, light = rng.random((CELLS, CELLS, CELLS)), LIGHTS[rng.integers(len(LIGHTS))]
    aside, cover = rng.uniform(-0.5, 0.5), rng.uniform(0.44, 0.54)  # of the wind; above it is cloud
    right, ahead, slope = above(size)
    across = right[:1] * slope[:1] / VIEW * 2  # the ridge of the land
    ridge = 0.12 * noise(values, across + 3, np.zeros_like(across), 0.5, OCTAVES[:3]) - 0.03
    land, haze = _step(slope - ridge, 0.01, 0.0), _step(slope, 0.03, 0.4)
    zenith, horizon, lit, shade, ground = (np.array(c) for c in vars(light).values())
    empty = _mix(horizon, zenith, _step(slope, 0.0, HORIZON))
    images = []
    for i in range(frames):
        x, y, z = 0.55 * right + aside * WIND * i, 0.55 * ahead + WIND * i, CHANGE * i
        here, beside = noise(values, x, y, z), noise(values, x - 0.15, y + 0.15, z)  # the sun is ahead, on the left
        cloud = _mix(shade, lit, _step(here - beside, -0.08, 0.12))
        sky = _mix(empty, cloud, haze * _step(here, cover, cover + 0.14))
        images.append(averaged(_mix(sky, ground, land), size))
    return images, []


OPTIONS = (
    ("clips", 240, "number of clips"),
    ("frames", 32, "frames of a clip"),
    ("size", 64, "side of the square frames"),
    ("seed", 0, "seed of the skies"),
)

if __name__ == "__main__":
    main(drift, None, str(__doc__), OPTIONS)
