import pytest
import torch

from biflow.evaluation.distances import (
    Estimate,
    frechet_distance,
    frechet_distances,
    kernel_distance,
    kernel_distances,
    resample,
)

ONE = torch.ones(1, dtype=torch.float64)


def seeded(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def estimated(distances, x, y, **settings) -> Estimate:
    """Of a single distance."""
    frechet, kernel = resample(x, [y], **{"seed": 0, **settings})
    return (kernel if distances is kernel_distances else frechet).estimate(ONE)


def gaussian(mean, covariance) -> torch.Tensor:
    """Features with exactly these moments: two for each principal axis."""
    values, vectors = torch.linalg.eigh(covariance.double())
    axes = (vectors * values.clamp(min=0).sqrt()).T
    return mean.double() + torch.cat([axes, -axes]) * (len(axes) - 0.5) ** 0.5


def by_covariances(x, y) -> float:
    """The formula as it is usually written; the trace of a root is the sum of the roots of eigenvalues."""
    cross = torch.linalg.eigvals(x.T.cov() @ y.T.cov()).real.clamp(min=0).sqrt().sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + x.T.cov().trace() + y.T.cov().trace() - 2 * cross)


def test_two_gaussians_that_commute_are_as_far_apart_as_the_closed_form_says():
    # |m1 - m2|² + Σ (σ1 - σ2)² where both covariances share their axes.
    turn = torch.linalg.qr(normal(5, 5))[0]
    s1, s2 = torch.tensor([1.0, 2, 3, 4, 5]).double(), torch.tensor([2.0, 2, 1, 0, 7]).double()
    a = gaussian(torch.zeros(5), turn @ torch.diag(s1**2) @ turn.T)
    b = gaussian(torch.arange(5), turn @ torch.diag(s2**2) @ turn.T)
    assert frechet_distance(a, b) == pytest.approx(30 + float(((s1 - s2) ** 2).sum()), rel=1e-10)


def test_two_gaussians_in_the_plane_that_do_not_commute():
    # In 2-D, tr (S1 S2)^1/2 = (tr S1 S2 + 2 (det S1 S2)^1/2)^1/2.
    s1, s2 = torch.tensor([[2.0, 1], [1, 3]]), torch.tensor([[4.0, -1], [-1, 1]])
    cross = (torch.trace(s1 @ s2) + 2 * torch.det(s1 @ s2).sqrt()).sqrt()
    expected = 5 + 5 - 2 * float(cross)
    assert frechet_distance(gaussian(torch.zeros(2), s1), gaussian(torch.zeros(2), s2)) == pytest.approx(expected)


@pytest.mark.parametrize("n", [10, 60])  # a singular covariance, and one of full rank
def test_a_set_is_at_no_distance_from_itself(n):
    x = normal(n, 40) * 3 + 5
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-6 * float(x.T.cov().trace()))


def test_the_distance_is_the_one_by_covariances_whatever_the_order():
    x, other = normal(257, 12) * 10 + 1000, normal(50, 12, seed=3)
    expected = by_covariances(x, other)
    assert frechet_distance(x, other) == pytest.approx(expected, rel=1e-9)
    shuffled = x[torch.randperm(257, generator=seeded())]
    assert frechet_distance(shuffled, other) == pytest.approx(expected, rel=1e-9)


def test_weights_are_repetitions():
    x, y, w = normal(8, 3), normal(9, 3, seed=1), torch.tensor([0, 1, 2, 3, 0, 1, 1, 2])
    (weighted,) = frechet_distances(x, y, w[None].double(), torch.ones(1, 9).double())
    assert float(weighted) == pytest.approx(frechet_distance(x.repeat_interleave(w, 0), y), rel=1e-12)


def test_nan_and_single_features_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(torch.tensor([[0.0, 1.0], [0.0, torch.nan]]), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(torch.zeros(1, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(torch.zeros(1, 2), torch.zeros(4, 2))


def test_kernel_distance_of_three_points_by_hand():
    # d = 1, k(a, b) = (ab + 1)³: within x k(1, 2) = 27, within y k(0, 3) = 1, across 1, 64, 1, 343.
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    assert kernel_distance(x, y) == pytest.approx(27 + 1 - 2 * (1 + 64 + 1 + 343) / 4)


def test_kernel_distance_is_unbiased_where_the_expectation_is_known():
    # x ~ N(0, 1), y ~ N(1, 1), d = 1, E k = E (xy + 1)³ = 1 + 3 E x E y + 3 E x² E y² + E x³ E y³, with moments
    # (0, 1, 0) and (1, 2, 4): 1 + 3, 1 + 3 + 12 + 16 and 1 + 6, so MMD² = 4 + 32 - 2 · 7 = 22.
    drawn = normal(1500, 2, 6, 1)
    values = torch.tensor([kernel_distance(x, y + 1) for x, y in drawn]).double()
    error = float(values.std() / len(values) ** 0.5)
    assert abs(float(values.mean()) - 22) < 3 * error
    assert error < 2


def test_the_jackknife_standard_error_is_the_spread_over_repeated_draws():
    draws = normal(80, 2, 60, 4)
    estimates = [estimated(kernel_distances, x, y + 0.5, resamples=2) for x, y in draws]
    spread = torch.tensor([estimate.value for estimate in estimates]).std()
    stated = torch.tensor([estimate.standard_error for estimate in estimates]).mean()
    assert float(stated / spread) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("distances", [kernel_distances, frechet_distances])
def test_intervals_hold_their_value_and_follow_the_seed(distances):
    x, y = normal(30, 4), normal(40, 4, seed=1) + 1
    first, again, other = (estimated(distances, x, y, resamples=100, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert first.interval[0] < first.value < first.interval[1]


def test_intervals_cover_the_expected_distance_about_as_often_as_they_say():
    drawn = normal(60, 2, 40, 1)
    centre = 22
    hits = 0
    for i, (x, y) in enumerate(drawn):
        low, high = estimated(kernel_distances, x, y + 1, resamples=200, seed=i).interval
        hits += low <= centre <= high
    assert hits / 60 > 0.75  # a skewed statistic at n = 40: under 95 %, but no fiction


def test_copies_of_one_video_add_no_certainty():
    x, y = normal(20, 4), normal(20, 4, seed=1) + 1
    twice = torch.arange(20).repeat_interleave(4)
    one = estimated(kernel_distances, x, y)
    copies = [z.repeat_interleave(4, 0) for z in (x, y)]
    grouped = estimated(kernel_distances, *copies, x_groups=twice, y_groups=twice)
    naive = estimated(kernel_distances, *copies)
    assert grouped.standard_error == pytest.approx(one.standard_error, rel=0.25)
    assert naive.standard_error < 0.7 * one.standard_error


def test_two_single_features_have_no_standard_error():
    assert estimated(kernel_distances, normal(2, 3), normal(2, 3, seed=1)).standard_error is None


@pytest.mark.parametrize(("n", "m"), [(6, 9), (6, 30), (30, 6), (11, 10)])
def test_the_distance_of_few_features_is_the_one_by_covariances(n, m):
    x, y = normal(n, 10) * 2, normal(m, 10, seed=1) + 0.5
    w, v = torch.arange(n) % 3 + 1, torch.arange(m) % 2 + 1
    (few,) = frechet_distances(x, y, w[None].double(), v[None].double())
    whole = by_covariances(x.repeat_interleave(w, 0), y.repeat_interleave(v, 0))
    assert float(few) == pytest.approx(whole, rel=1e-6)


def test_mean_and_trend_over_sets_are_those_of_their_distances():
    x, ys = normal(20, 4), [normal(15, 4, seed=i) + i for i in range(3)]
    _, found = resample(x, ys, resamples=50, seed=0)
    single = [kernel_distance(x, y) for y in ys]
    mean, trend = torch.full((3,), 1 / 3).double(), torch.tensor([-0.5, 0, 0.5]).double()
    assert found.estimate(mean).value == pytest.approx(sum(single) / 3)
    assert found.estimate(trend).value == pytest.approx((single[2] - single[0]) / 2)
    assert found.estimate(trend).interval[0] < found.estimate(trend).value < found.estimate(trend).interval[1]
    alone = [estimated(kernel_distances, x, y) for y in ys]
    # Errors of sets that share their real features add up, at most.
    assert found.estimate(mean).standard_error <= sum(one.standard_error for one in alone) / 3 * 1.0001
