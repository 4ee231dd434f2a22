import pytest
import torch

from biflow.evaluation.over_time import measure, trend


def test_measures_of_frames_that_are_known_by_hand():
    first = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    brighter = torch.full((3, 4, 4), 110, dtype=torch.uint8)
    half = torch.zeros(3, 4, 4, dtype=torch.uint8)
    half[:, :2] = 255
    found = measure(torch.stack([brighter, half]), first)
    assert found["motion"].tolist() == [10, (145 + 110) / 2]
    assert found["saturation"].tolist() == [0, 1]
    assert found["colour_drift"].tolist() == [10, 27.5]
    assert found["contrast"].tolist() == [0, 127.5]


def test_the_trend_of_a_line_is_its_slope():
    times = torch.tensor([0, 16, 40, 41])
    assert float(trend(times) @ (3 * times.double() + 7)) == pytest.approx(3)
    assert float(trend(times[:1]) @ torch.ones(1).double()) == 0
