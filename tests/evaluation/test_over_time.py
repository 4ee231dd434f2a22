import pytest
import torch

from biflow.evaluation.over_time import MEASURES, grid, trend


def test_measures_of_frames_that_are_known_by_hand():
    first = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    brighter = torch.full((3, 4, 4), 110, dtype=torch.uint8)
    half = torch.zeros(3, 4, 4, dtype=torch.uint8)
    half[:, :2] = 255
    found = {name: measure(torch.stack([brighter, half]), first) for name, measure in MEASURES.items()}
    assert found["motion"].tolist() == [10, (145 + 110) / 2]
    assert found["saturation"].tolist() == [0, 1]
    assert found["colour_drift"].tolist() == [10, 27.5]
    assert found["contrast"].tolist() == [0, 127.5]


def test_the_trend_of_a_line_is_its_slope():
    times = torch.tensor([0, 16, 40, 41])
    assert float(trend(times) @ (3 * times.double() + 7)) == pytest.approx(3)
    assert float(trend(times[:1]) @ torch.ones(1).double()) == 0


def pattern(amplitude, value):
    y, x = torch.meshgrid(torch.arange(64), torch.arange(96), indexing="ij")
    return (128 + amplitude * value(x, y)).round().to(torch.uint8).expand(1, 3, 64, 96)


def test_the_grid_s_power_is_the_variance_of_what_repeats_with_its_period():
    checks, stripes = (lambda x, y: 1 - 2 * ((x + y) % 2)), (lambda x, y: 1 - 2 * (y % 2))
    for value in (checks, stripes):
        assert float(grid(pattern(5, value), 2)) == pytest.approx(25, rel=1e-6)
    wide = pattern(5, lambda x, y: 1 - 2 * (x // 2 % 2))  # of period 4
    assert float(grid(wide, 2)) < 0.01
    assert float(grid(wide, 4)) == pytest.approx(25, rel=1e-6)


def test_a_grid_that_is_stronger_somewhere_is_found_and_smooth_pictures_have_none():
    fading = pattern(8, lambda x, y: (1 - 2 * ((x + y) % 2)) * x / 95)
    window, strength = torch.hann_window(96).square(), 8 * torch.arange(96) / 95  # the middle counts more
    expected = float((window * strength.square()).sum() / window.sum())
    assert float(grid(fading, 2)) == pytest.approx(expected, rel=0.05)
    assert float(grid(pattern(100, lambda x, y: x / 95), 2)) < 0.1
    assert float(grid(pattern(0, lambda x, y: x), 2)) == 0
