import math
from typing import NamedTuple

import pytest
import torch

from biflow.paths import (
    PATHS,
    Curve,
    Fields,
    Query,
    backward_line,
    bilinear,
    denoising_line,
    field_along,
    forward_line,
    join,
    line,
    linear,
    present,
)
from biflow.solvers import Solver, solve

EPS = 0.3

# Bends in both coordinates, from (0, 0.2) to (1, 0.5), with alpha rising and falling on the way.
CURVED = Curve(
    t=lambda k: k**2,
    alpha=lambda k: 0.2 + 0.3 * k + 0.5 * torch.sin(math.pi * k),
    dt_dk=lambda k: 2 * k,
    dalpha_dk=lambda k: 0.3 + 0.5 * math.pi * torch.cos(math.pi * k),
)
CURVES = {
    "forward": forward_line(EPS),
    "backward": backward_line(EPS),
    "denoising": denoising_line(0.4, EPS),
    "line": line((0.1, 0.7), (0.9, 0.2)),
    "curved": CURVED,
}


def frames(b: int = 3, seed: int = 0) -> torch.Tensor:
    """x0, x1 and n, stacked: (3, b, 3, 2, 4)."""
    return torch.randn(3, b, 3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def full(value: float, b: int = 3) -> torch.Tensor:
    return torch.full((b,), value, dtype=torch.float64)


# Queries


def test_what_a_query_leaves_out_is_not_present():
    x, alpha = torch.zeros(2, 3), torch.ones(2)
    assert present(Query(x, alpha=alpha)) == {"x": x, "alpha": alpha}
    assert list(present(Query(x, x[:, 0], alpha, x))) == ["x", "t", "alpha", "condition"]
    assert list(present(Fields(x))) == ["v"]


def test_queries_are_joined_batch_after_batch_and_absent_tensors_stay_absent():
    one, two = (Query(torch.full((b, 2), float(b)), torch.full((b,), b / 4)) for b in (1, 2))
    both = join([one, two])
    assert both.x.tolist() == [[1, 1], [2, 2], [2, 2]]
    assert both.t.tolist() == [0.25, 0.5, 0.5]
    assert both.alpha is both.condition is None


def test_queries_of_another_kind_are_joined_as_what_they_are():
    class Steered(NamedTuple):
        x: torch.Tensor
        action: torch.Tensor

    both = join([Steered(torch.zeros(1, 2), torch.ones(1, 4)), Steered(torch.zeros(2, 2), torch.zeros(2, 4))])
    assert type(both) is Steered
    assert both.action[:, 0].tolist() == [1, 0, 0]


def test_field_along_asks_at_the_curve_and_without_a_condition():
    asked = []
    curve = line((0.1, 0.7), (0.9, 0.2))
    field_along(lambda q: asked.append(q) or Fields(q.x), curve)(torch.ones(2, 3), torch.tensor([0.0, 0.5]))
    (query,) = asked
    assert type(query) is Query
    assert query.x.tolist() == [[1, 1, 1]] * 2
    assert torch.allclose(query.t, torch.tensor([0.1, 0.5]))
    assert torch.allclose(query.alpha, torch.tensor([0.7, 0.45]))
    assert query.condition is None


# Eq. 4


def test_t_0_is_the_current_frame_and_t_1_the_next():
    x0, x1, n = frames()
    assert torch.equal(linear(x0, x1, full(0)), x0)
    assert torch.equal(linear(x0, x1, full(1)), x1)
    assert torch.equal(bilinear(x0, x1, n, full(0), full(0)), x0)
    assert torch.equal(bilinear(x0, x1, n, full(1), full(0)), x1)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_alpha_adds_noise_and_takes_no_signal_away(t):
    x0, x1, n = frames()
    clean = x1 if t else x0
    assert torch.allclose(bilinear(x0, x1, n, full(t), full(1)), clean + n)
    assert torch.allclose(bilinear(x0, x1, n, full(t), full(EPS)), clean + EPS * n)


def test_bilinear_by_hand_with_a_t_and_an_alpha_of_each_sample():
    x0, x1, n = (torch.tensor(values)[:, None] for values in ([1.0, 10.0], [3.0, 50.0], [100.0, -1000.0]))
    t, alpha = torch.tensor([0.25, 0.5]), torch.tensor([0.5, 0.1])
    assert linear(x0, x1, t).flatten().tolist() == [1.5, 30.0]
    assert bilinear(x0, x1, n, t, alpha).flatten().tolist() == [51.5, -70.0]


# Paths through several frames


def clip(s: int = 4, b: int = 3) -> torch.Tensor:
    """s + 1 frames of each of b samples."""
    return torch.randn(b, s + 1, 3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("path", PATHS)
def test_in_a_world_of_constant_velocity_all_paths_are_one(path):
    x0, v, _ = frames()
    moving = torch.stack([x0 + j / 3 * v for j in range(4)], dim=1)
    for t in (0.0, 0.2, 1 / 3, 0.5, 0.9, 1.0):
        x, dx = PATHS[path](moving, full(t))
        assert torch.allclose(x, x0 + t * v)
        assert torch.allclose(dx, v)


@pytest.mark.parametrize("path", PATHS)
def test_with_two_frames_every_path_is_the_papers(path):
    pair = clip(s=1)
    x, dx = PATHS[path](pair, full(0.3))
    assert torch.allclose(x, linear(*pair.unbind(1), full(0.3)))
    assert torch.allclose(dx, pair[:, 1] - pair[:, 0])


@pytest.mark.parametrize("path", ["knots", "cubic"])
def test_a_path_passes_every_frame_at_its_time(path):
    some = clip()
    for j in range(5):
        assert torch.allclose(PATHS[path](some, full(j / 4))[0], some[:, j])
    assert not torch.allclose(PATHS["linear"](some, full(0.5))[0], some[:, 2])


@pytest.mark.parametrize("path", PATHS)
def test_the_second_part_of_a_path_is_its_derivative(path):
    some, h = clip(), 1e-6
    t = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
    (below, _), (_, dx), (above, _) = (PATHS[path](some, t + step) for step in (-h, 0, h))
    assert torch.allclose(dx, (above - below) / (2 * h), atol=1e-6)


def test_the_cubic_path_is_smooth_and_follows_an_acceleration():
    some, h = clip(), 1e-9
    for j in (1, 2, 3):  # where the straight lines of "knots" have a kink
        before, after = (PATHS["cubic"](some, full(j / 4 + step))[1] for step in (-h, h))
        assert torch.allclose(before, after, atol=1e-5)
    falling = torch.tensor([[0.0, 1, 4, 9, 16]] * 3, dtype=torch.float64)  # (4 t)²
    x, dx = PATHS["cubic"](falling, full(0.4))
    assert torch.allclose(x, full(1.6**2))
    assert torch.allclose(dx, full(32 * 0.4))


# Curves


@pytest.mark.parametrize(
    ("curve", "start", "end"),
    [
        (forward_line(EPS), (0, EPS), (1, 0)),
        (backward_line(EPS), (0, 0), (1, EPS)),
        (denoising_line(0.4, EPS), (0.4, EPS), (0.4, 0)),
        (line((0.1, 0.7), (0.9, 0.2)), (0.1, 0.7), (0.9, 0.2)),
    ],
)
def test_a_line_runs_straight_from_its_start_to_its_end(curve, start, end):
    for k in (0.0, 0.25, 1.0):
        assert torch.allclose(curve.t(full(k)), full(start[0] + k * (end[0] - start[0])))
        assert torch.allclose(curve.alpha(full(k)), full(start[1] + k * (end[1] - start[1])))


@pytest.mark.parametrize("name", CURVES)
def test_the_derivatives_of_a_curve_are_those_of_its_parts(name):
    curve, k = CURVES[name], torch.linspace(0, 1, 7, dtype=torch.float64, requires_grad=True)
    for part, derivative in ((curve.t, curve.dt_dk), (curve.alpha, curve.dalpha_dk)):
        (expected,) = torch.autograd.grad(part(k).sum(), k)
        assert torch.allclose(derivative(k), expected)


# Eq. 8


def test_field_along_is_eq_8_by_hand():
    def network(q):
        return Fields(v=q.x + 10 * q.t[:, None], n=2 * q.x + 100 * q.alpha[:, None])

    curve = line((0.0, 0.5), (2.0, 0.1))  # dt/dk = 2, dalpha/dk = -0.4
    x, k = torch.tensor([[1.0, 3.0], [5.0, 7.0]], dtype=torch.float64), torch.tensor([0.5, 0.25], dtype=torch.float64)
    # First sample: t = 1, alpha = 0.3, thus v = x + 10 and n = 2x + 30. Second: t = 0.5, alpha = 0.4.
    expected = [[2 * 11 - 0.4 * 32, 2 * 13 - 0.4 * 36], [2 * 10 - 0.4 * 50, 2 * 12 - 0.4 * 54]]
    assert torch.allclose(field_along(network, curve)(x, k), torch.tensor(expected, dtype=torch.float64))


def test_field_along_without_a_noise_head_is_f_v_times_dt_dk():
    curve = line((0.0, 0.0), (3.0, 0.0))
    x, k = torch.ones(2, 3, 2, 2), torch.tensor([0.5, 1.0])
    dx = field_along(lambda q: Fields(v=q.x * q.t[:, None, None, None]), curve)(x, k)
    assert torch.equal(dx[:, 0, 0, 0], torch.tensor([4.5, 9.0]))


@pytest.mark.parametrize("name", CURVES)
def test_field_along_is_the_derivative_of_the_interpolation_along_the_curve(name):
    (x0, x1, n), curve = frames(), CURVES[name]
    k, h = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64), 1e-5

    def at(k):
        return bilinear(x0, x1, n, curve.t(k), curve.alpha(k))

    joint = field_along(lambda q: Fields(x1 - x0, n), curve)
    assert torch.allclose(joint(at(k), k), (at(k + h) - at(k - h)) / (2 * h), atol=1e-7)


@pytest.mark.parametrize(("k0", "k1"), [(0.0, 1.0), (1.0, 0.0), (0.2, 0.7)])
@pytest.mark.parametrize("name", CURVES)
def test_every_curve_leads_to_the_same_point(name, k0, k1):
    (x0, x1, n), curve = frames(), CURVES[name]

    def at(k):
        return bilinear(x0, x1, n, curve.t(full(k)), curve.alpha(full(k)))

    joint = field_along(lambda q: Fields(x1 - x0, n), curve)
    assert torch.allclose(solve(joint, at(k0), k0, k1, solver=Solver("dopri5", steps=10)).x, at(k1), atol=1e-6)


def test_a_detour_in_alpha_does_not_change_where_a_frame_lands():
    x0, x1, n = frames()
    detour = CURVED._replace(
        alpha=lambda k: EPS * (1 - k) + torch.sin(math.pi * k),
        dalpha_dk=lambda k: math.pi * torch.cos(math.pi * k) - EPS,
    )
    for curve in (forward_line(EPS), detour):
        joint = field_along(lambda q: Fields(x1 - x0, n), curve)
        assert torch.allclose(solve(joint, x0 + EPS * n, 0.0, 1.0, solver=Solver("rk4", steps=20)).x, x1, atol=1e-5)
