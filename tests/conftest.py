"""Fixtures that many tests share."""

import numpy as np
import pytest

from biflow.config import Prepare
from biflow.data.prepare import prepare
from biflow.methods import Method


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Six clips of a bright square that moves to the right, 12 frames of 16x16 each, prepared."""
    root = tmp_path_factory.mktemp("squares")
    for clip in range(6):
        frames = np.full((12, 16, 16, 3), 40, np.uint8)
        for i in range(12):
            left = (clip + i) % 13
            frames[i, 4 + clip : 8 + clip, left : left + 4] = (220, 180, 30 * clip)
        np.save(root / f"clip_{clip}.npy", frames)
    prepare(Prepare(root, root / "prepared", size=16), progress=False)
    return root / "prepared"


def pytest_make_parametrize_id(val):
    """Methods by name in the names of tests."""
    return val.name if isinstance(val, Method) else None
