"""Clouds that drift: a world of constant velocity, and clips that continue each other."""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "datasets"))  # `datasets` is Hugging Face's package
import clouds


def pixels(seed: int, frames: int, size: int = 32) -> np.ndarray:
    return np.stack([np.asarray(frame).astype(int) for frame in clouds.drift(seed, frames, size)[0]])


def test_noise_is_its_values_at_whole_places_and_between_them_between():
    values = np.random.default_rng(0).random((4, 4, 4))
    places = np.array([[1.0, 1.5, 2.0, 5.0]])
    one = clouds.noise(values, places, np.full_like(places, 3.0), 6.0, ((1, 1.0),))[0]
    assert one[[0, 2, 3]] == pytest.approx(values[[1, 2, 1], 3, 2])
    assert one[1] == pytest.approx((one[0] + one[2]) / 2)


def test_the_layer_of_clouds_is_seen_in_perspective():
    right, ahead, slope = clouds.above(8)
    sky = slope > 0
    assert (ahead[sky] * slope[sky]).tolist() == pytest.approx([1.0] * int(sky.sum()))
    assert np.allclose(right, -right[:, ::-1])
    assert np.diff(ahead[:, 0]).min() >= 0  # the horizon is below


def test_clouds_move_with_the_wind(monkeypatch):
    """From frame to frame, what is at a place of the layer comes from where the wind carries it from."""
    seen = []
    monkeypatch.setattr(clouds, "noise", lambda values, x, y, z, *rest: seen.append((x, y, z)) or np.zeros_like(x))
    clouds.drift(0, 4, 8)
    here = seen[1::2]  # after the ridge, two for a frame
    steps = [[float(np.mean(b - a)) for a, b in zip(*pair, strict=True)] for pair in pairwise(here)]
    assert [steps[0], steps[0]] == [pytest.approx(steps[1]), pytest.approx(steps[2])]
    assert steps[0][1:] == pytest.approx([clouds.WIND, clouds.CHANGE])
    assert abs(steps[0][0]) <= clouds.WIND / 2


def test_the_land_stands_still_and_the_sky_moves():
    frames = pixels(1, 9)
    moved = np.abs(frames[-1] - frames[0]).max(axis=2)
    assert not moved[-4:].any()
    assert (moved[:20] > 10).mean() > 0.1


def test_a_longer_clip_begins_with_the_frames_of_a_shorter_one():
    assert (pixels(2, 5)[:3] == pixels(2, 3)).all()


def test_skies_differ_by_their_seed():
    assert np.abs(pixels(3, 1) - pixels(4, 1)).mean() > 5
