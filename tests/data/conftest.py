"""Fixtures of the tests of data."""

import pytest

from tests.action_clips import array, images


@pytest.fixture
def src(tmp_path):
    """Two clips of 5 frames: a folder of images and an array."""
    images(tmp_path / "src" / "walk")
    array(tmp_path / "src" / "ride.npy")
    return tmp_path / "src"
