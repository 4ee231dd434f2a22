import pytest
import torch

from biflow.evaluation import intervals


def test_a_mean_of_equal_values_has_no_spread():
    assert intervals.of_mean(torch.full((5,), 3.0), 50, 0) == [3, 3]


def test_a_ratio_of_equal_means_of_videos_of_any_length_is_theirs():
    x, y = torch.tensor([[2.0, 1], [6, 3], [20, 10]]), torch.tensor([[8.0, 2], [4, 1]])
    assert intervals.of_ratio(x, y, 50, 0) == pytest.approx([0.5, 0.5])


def test_videos_that_count_nothing_leave_a_ratio_as_it_is():
    x, y, none = torch.tensor([[2.0, 1], [6, 3]]), torch.tensor([[8.0, 2], [4, 1]]), torch.zeros(5, 2)
    assert intervals.of_ratio(torch.cat([x, none]), torch.cat([none, y]), 50, 0) == intervals.of_ratio(x, y, 50, 0)


def test_the_interval_has_the_width_of_the_standard_error():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    low, high = intervals.of_mean(values, 1000, 0)
    assert low < float(values.mean()) < high
    assert high - low == pytest.approx(2 * 1.96 * float(values.std()) / 20, rel=0.1)
