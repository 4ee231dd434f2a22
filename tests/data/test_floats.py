import numpy as np
import pytest

from biflow.data.clips import find_clips
from biflow.errors import UserError
from tests.clips import clip, values

UNIT = clip(1, 5) / np.float32(255)  # in [0, 1]
FRAMES = [40, 41, 42, 43, 44]


def stray(array, value):
    array = array.copy()
    array[3, 0, 0, 0] = value
    return array


def save(folder, **arrays):
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def said(caplog):
    lines = [record.getMessage() for record in caplog.records if "Floats" in record.getMessage()]
    caplog.clear()
    return lines


@pytest.mark.parametrize(
    ("scaled", "low", "high", "text"),
    [
        (UNIT, -1e-6, 1.0000002, r"[0, 1]: the smallest is -1e-06, the largest 1."),
        (UNIT * 2 - 1, -1.0015, 1.001, r"[-1, 1]: the smallest is -1.0015, the largest 1.001."),
        (UNIT * 255, -0.2, 255.2, r"[0, 255]: the smallest is -0.2, the largest 255.2."),
    ],
)
def test_the_range_is_that_of_the_source(tmp_path, caplog, scaled, low, high, text):
    """Values that rounding has brought outside change nothing but themselves; clips that are dark or bright neither."""
    save(tmp_path, clean=scaled, below=stray(scaled, low), above=stray(scaled, high))
    assert values(tmp_path) == dict.fromkeys(["above.npy", "below.npy", "clean.npy"], FRAMES)
    (line,) = said(caplog)
    assert line.startswith(f"Floats are taken as {text}")


def test_a_bright_clip_of_a_signed_source_is_signed(tmp_path, caplog):
    bright = clip(5, 5) / np.float32(127.5) - 1
    save(tmp_path, bright=bright, signed=UNIT * 2 - 1)
    assert values(tmp_path) == {"bright.npy": [200, 201, 202, 203, 204], "signed.npy": FRAMES}
    (line,) = said(caplog)
    assert line.endswith(f"1 of 2 arrays would fit [0, 1]: {tmp_path}/bright.npy.")


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (stray(UNIT, np.nan), "from nan to nan, but floats are taken as .0, 1."),
        (stray(UNIT, np.inf), "to inf"),
        (stray(UNIT, 1.05), "from 0.156863 to 1.05, but floats are taken as .0, 1.. Clip them"),
        (UNIT * 10000, "to 1725.49, but floats"),
    ],
)
def test_an_array_outside_is_refused_and_does_not_change_the_range(tmp_path, bad, text):
    save(tmp_path, a_bad=bad, good=UNIT)
    items = {item.name: item for item in find_clips(tmp_path)}
    assert items.keys() == {"a_bad.npy", "good.npy"}
    with pytest.raises(UserError, match=rf"a_bad\.npy has values .*{text}"):
        values(tmp_path)
    (tmp_path / "a_bad.npy").unlink()
    assert values(tmp_path) == {"good.npy": FRAMES}


def test_floats_of_several_ranges_are_refused(tmp_path):
    save(tmp_path, a=UNIT * 2 - 1, b=UNIT * 255)
    with pytest.raises(UserError, match=r"the smallest value is .*a\.npy, and the largest 44, in .*b\.npy\. Prepare"):
        values(tmp_path)


def test_the_range_can_be_given(tmp_path, caplog):
    save(tmp_path, a=UNIT)
    assert values(tmp_path, range="0,1") == {"a.npy": FRAMES}
    assert values(tmp_path, range="-1,1") == {"a.npy": [148, 148, 148, 149, 150]}  # (40 / 255 + 1) * 127.5 = 147.5
    assert values(tmp_path, range="0,255") == {"a.npy": [0] * 5}
    assert said(caplog) == []
    save(tmp_path, a=UNIT * 2 - 1)
    with pytest.raises(UserError, match=r"a\.npy has values from -0\.686\S* to -0\.654\S*, but .* taken as \[0, 1\]"):
        values(tmp_path, range="0,1")
