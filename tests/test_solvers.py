import dataclasses
import json
import math
import re
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from biflow.config import SOLVERS, Sample, Solver, SolverName
from biflow.errors import UserError
from biflow.solvers import Solution, SolverError, runge_kutta_step, solve
from biflow.tableaus import TABLEAUS

METHODS = sorted(TABLEAUS)
ADAPTIVE = [name for name in METHODS if TABLEAUS[name].b_low is not None]


# dx/dk = cos(k) x² has the solution x(k) = 1 / (1/x(0) - sin k).
def nonlinear(x: Tensor, k: Tensor) -> Tensor:
    return torch.cos(k)[:, None] * x**2


def nonlinear_solution(x: Tensor, k: float) -> Tensor:
    return 1 / (1 / x - math.sin(k))


def decay(x: Tensor, k: Tensor, rate: Tensor) -> Tensor:
    return -rate[:, None] * x


class Counted:
    """A field that notes the k of every call."""

    def __init__(self, f):
        self.f = f
        self.ks: list[Tensor] = []

    def __call__(self, x, k, *args):
        self.ks.append(k)
        return self.f(x, k, *args)

    @property
    def batches(self) -> list[int]:
        return [len(k) for k in self.ks]


# Tableaus


@pytest.mark.parametrize("name", METHODS)
def test_tableau_fulfils_its_order_conditions(name):
    # Hairer, Nørsett, Wanner, Table II.2.1: one condition for each rooted tree of up to `order` nodes.
    tableau = TABLEAUS[name]
    a = torch.zeros(tableau.stages, tableau.stages, dtype=torch.float64)
    for i, row in enumerate(tableau.a):
        assert len(row) == i
        a[i, :i] = torch.tensor(row, dtype=torch.float64)
    c = torch.tensor(tableau.c, dtype=torch.float64)
    assert torch.allclose(a.sum(dim=1), c, atol=1e-14)

    trees = [
        (1, torch.ones_like(c), 1),
        (2, c, 1 / 2),
        (3, c**2, 1 / 3),
        (3, a @ c, 1 / 6),
        (4, c**3, 1 / 4),
        (4, c * (a @ c), 1 / 8),
        (4, a @ c**2, 1 / 12),
        (4, a @ a @ c, 1 / 24),
        (5, c**4, 1 / 5),
        (5, c**2 * (a @ c), 1 / 10),
        (5, (a @ c) ** 2, 1 / 20),
        (5, c * (a @ c**2), 1 / 15),
        (5, a @ c**3, 1 / 20),
        (5, c * (a @ a @ c), 1 / 30),
        (5, a @ (c * (a @ c)), 1 / 40),
        (5, a @ a @ c**2, 1 / 60),
        (5, a @ a @ a @ c, 1 / 120),
    ]
    for weights, order in ((tableau.b, tableau.order), (tableau.b_low, tableau.order - 1)):
        if weights is not None:
            for nodes, stage_sum, value in trees:
                if nodes <= order:
                    assert float(torch.tensor(weights, dtype=torch.float64) @ stage_sum) == pytest.approx(
                        value, abs=1e-14
                    )


def test_fsal_tableaus():
    assert {name for name in METHODS if TABLEAUS[name].fsal} == {"bosh3", "dopri5"}


# Fixed steps


@pytest.mark.parametrize(("k0", "k1"), [(0.0, 1.0), (1.0, -0.5)])
@pytest.mark.parametrize("name", METHODS)
def test_fixed_steps_converge_with_the_order_of_the_method(name, k0, k1):
    start = nonlinear_solution(torch.tensor([[0.5], [0.4]], dtype=torch.float64), k0)
    end = nonlinear_solution(torch.tensor([[0.5], [0.4]], dtype=torch.float64), k1)
    errors = [(solve(nonlinear, start, k0, k1, solver=Solver(name, steps=n)).x - end).abs().max() for n in (32, 64)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(TABLEAUS[name].order, abs=0.35)


@pytest.mark.parametrize("name", METHODS)
def test_a_polynomial_up_to_the_order_is_solved_in_one_exact_step(name):
    powers = torch.arange(TABLEAUS[name].order, dtype=torch.float64)  # dx/dk = 1 + 2k + 3k² …

    def polynomial(x, k):
        return ((powers + 1) * k[:, None] ** powers).sum(dim=1)

    x = solve(polynomial, torch.zeros(2, dtype=torch.float64), 0.5, 2.0, solver=Solver(name, steps=1)).x
    assert torch.allclose(x, (2.0 ** (powers + 1) - 0.5 ** (powers + 1)).sum().expand(2), rtol=1e-13)


@pytest.mark.parametrize(
    ("name", "steps", "nfe"),
    [("euler", 20, 20), ("midpoint", 2, 4), ("heun", 2, 4), ("rk4", 3, 12), ("bosh3", 5, 15), ("dopri5", 2, 12)],
)
def test_fixed_steps_cost_an_exact_number_of_evaluations(name, steps, nfe):
    f = Counted(nonlinear)
    solution = solve(f, torch.full((3, 1), 0.5), 0.0, 1.0, solver=Solver(name, steps=steps))
    assert len(f.ks) == nfe
    assert solution.nfe.tolist() == [nfe] * 3
    assert solution.nfe.dtype == torch.int64
    assert solution.accepted.tolist() == [steps] * 3
    assert solution.rejected.tolist() == [0] * 3
    assert torch.allclose(solution.next_step, torch.tensor(1 / steps))


def test_euler_is_the_textbook_formula():
    x = solve(decay, torch.ones(1, 1), 0.0, 1.0, solver=Solver("euler", steps=20), args=(torch.ones(1),)).x
    assert float(x) == pytest.approx(0.95**20, rel=1e-6)


# Adaptive steps


@pytest.mark.parametrize("name", ADAPTIVE)
def test_error_estimate_has_the_order_of_the_embedded_method(name):
    x, k = torch.tensor([[0.5]], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    tableau = TABLEAUS[name]
    estimates, low_errors = [], []
    for h in (torch.full_like(k, 0.04), torch.full_like(k, 0.02)):
        x_new, error, _ = runge_kutta_step(nonlinear, x, k, k + h, h, tableau, nonlinear(x, k), estimate=True)
        estimates.append(error.abs().item())
        low_errors.append((x_new - error - nonlinear_solution(x, h.item())).abs().item())
    # One step of a method of order p errs by h^(p + 1); the estimate is the embedded method's error, p = order - 1.
    assert math.log2(estimates[0] / estimates[1]) == pytest.approx(tableau.order, abs=0.3)
    assert estimates[1] == pytest.approx(low_errors[1], rel=0.2)


@pytest.mark.parametrize(("k0", "k1"), [(0.0, 1.0), (1.0, 0.0), (-0.7, 0.3)])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_tighter_tolerances_give_smaller_errors(name, k0, k1):
    x = torch.linspace(0.2, 0.6, 5, dtype=torch.float64)[:, None]
    start, end = nonlinear_solution(x, k0), nonlinear_solution(x, k1)
    for tol in (1e-2, 1e-3, 1e-4):
        solution = solve(nonlinear, start, k0, k1, solver=Solver(name, rtol=tol, atol=tol))
        assert (solution.x - end).abs().max() < 20 * tol


@pytest.mark.parametrize(
    "solver",
    [
        Solver("heun", rtol=1e-5, atol=1e-5),
        Solver("bosh3", steps=20),
        Solver("dopri5"),
        Solver("adams", rtol=1e-4, atol=1e-4),
    ],
)
def test_forward_then_backward_returns_to_the_start(solver):
    x = torch.rand(4, 3, 2, 2, dtype=torch.float64)

    def rotation(x, k):
        return torch.stack([-x[:, 1], x[:, 0], k[:, None, None] * x[:, 2]], dim=1)

    there = solve(rotation, x, 0.0, 1.0, solver=solver).x
    assert (there - x).abs().max() > 0.1
    assert torch.allclose(solve(rotation, there, 1.0, 0.0, solver=solver).x, x, atol=1e-3)


@pytest.mark.parametrize("solver", [Solver("heun"), Solver("heun", reference=True), Solver("bosh3"), Solver("adams")])
def test_each_sample_is_solved_as_if_alone(solver):
    x, rate = torch.rand(4, 3) + 0.5, torch.tensor([30.0, 0.1, 3.0, 60.0])
    f = Counted(decay)
    together = solve(f, x, 0.0, 1.0, solver=solver, args=(rate,))
    for i in range(4):
        alone = solve(decay, x[i : i + 1], 0.0, 1.0, solver=solver, args=(rate[i : i + 1],))
        for field in dataclasses.fields(Solution):
            assert torch.equal(getattr(together, field.name)[i : i + 1], getattr(alone, field.name)), field.name

    easy, stiff = together.nfe[1], together.nfe[3]
    assert easy < stiff / 3
    assert sum(f.batches) == together.nfe.sum()  # nobody pays for another
    assert min(f.batches) == 1
    assert len(f.batches) <= 2 * stiff


def test_args_follow_their_samples():
    # The state holds a name that the field leaves alone; the arg must bear the same one in every call.
    def f(x, k, name):
        assert torch.equal(x[:, 0], name)
        return torch.stack([torch.zeros_like(name), -name * x[:, 1]], dim=1)

    name = torch.tensor([50.0, 1.0, 20.0, 0.0])
    solution = solve(f, torch.stack([name, torch.ones(4)], dim=1), 0.0, 1.0, solver=Solver("bosh3"), args=(name,))
    assert torch.equal(solution.x[:, 0], name)
    assert len(set(solution.nfe.tolist())) > 2


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_rejected_step_reuses_its_first_stage(name):
    tableau = TABLEAUS[name]
    rate = torch.tensor([40.0])
    solution = solve(decay, torch.ones(1, 1), 0.0, 1.0, solver=Solver(name, rtol=1e-4, atol=1e-4), args=(rate,))
    accepted, rejected = int(solution.accepted), int(solution.rejected)
    assert rejected > 0
    first_stages = 1 if tableau.fsal else accepted
    assert int(solution.nfe) == first_stages + (accepted + rejected) * (tableau.stages - 1)


@pytest.mark.parametrize(("k0", "k1"), [(0.0, 1.0), (1.0, 0.0)])
def test_handing_on_the_proposed_step_saves_evaluations(k0, k1):
    x, rate, solver = torch.ones(2, 1), torch.tensor([8.0, -4.0]) * (k1 - k0), Solver("bosh3")
    cold = solve(decay, x, k0, k1, solver=solver, args=(rate,))
    warm = solve(decay, x, k0, k1, solver=solver, args=(rate,), first_step=cold.next_step)
    assert (cold.next_step > 0).all()
    assert (cold.rejected > 0).any()
    assert (warm.nfe < cold.nfe).any()
    assert (warm.nfe <= cold.nfe).all()


def test_next_step_is_the_proposal_before_clipping():
    # A constant field is exact at any step: 0.06, then the largest factor, 10: 0.6, then 6 clipped to the last 0.34.
    def constant(x, k):
        return torch.ones_like(x)

    solution = solve(constant, torch.zeros(1, 1), 0.0, 1.0, solver=Solver("heun"), first_step=0.06)
    assert int(solution.accepted) == 3
    assert float(solution.next_step) == pytest.approx(6.0)
    assert float(solve(constant, torch.zeros(1, 1), 0.0, 1.0, solver=Solver("heun")).next_step) == 1.0


@pytest.mark.parametrize(("k0", "k1"), [(0.1, 0.7), (0.7, 0.1), (-3.0, 2.3)])
@pytest.mark.parametrize(
    "solver", [Solver("rk4", steps=7), Solver("bosh3"), Solver("heun", rtol=1e-4), Solver("dopri5")]
)
def test_the_field_is_never_called_outside_the_interval(solver, k0, k1):
    f = Counted(lambda x, k: torch.sin(9 * k)[:, None] * x)
    solve(f, torch.ones(2, 1), k0, k1, solver=solver)
    ks, ends = torch.cat(f.ks), torch.tensor([k0, k1])
    assert ks.min() >= ends.min()
    assert ks.max() <= ends.max()
    assert f.ks[0][0] == ends[0]
    assert f.ks[-1][0] == ends[1]


@pytest.mark.parametrize(
    "solver",
    [
        Solver("heun", steps=8),
        Solver("heun"),
        Solver("heun", reference=True),
        Solver("bosh3"),
        Solver("adams"),
        Solver("adams", steps=4),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 4, 4), (0, 2)])
def test_any_shape_and_floating_dtype(solver, dtype, shape):
    x = torch.full(shape, 2.0, dtype=dtype)
    before = x.clone()

    def f(x, k):
        assert x.dtype == dtype
        assert k.dtype == torch.promote_types(dtype, torch.float32)
        return -x / 2

    solution = solve(f, x, 0.0, 1.0, solver=solver)
    assert solution.x.shape == shape
    assert solution.x.dtype == dtype
    assert solution.nfe.shape == shape[:1]
    assert torch.allclose(solution.x.double(), torch.tensor(2 / math.sqrt(math.e), dtype=torch.float64), atol=0.03)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "solver",
    [
        Solver("rk4", steps=10),
        Solver("heun", rtol=1e-4, atol=1e-4),
        Solver("dopri5", rtol=1e-5, atol=1e-5),
        Solver("adams", rtol=1e-3, atol=1e-3),
        Solver("adams", steps=60),
    ],
)
def test_gradients_flow_through(solver):
    x = torch.tensor([[0.3], [0.5]], dtype=torch.float64, requires_grad=True)
    rate = torch.tensor([1.0, 4.0], dtype=torch.float64, requires_grad=True)
    end = solve(lambda x, k, rate: torch.tanh(-rate[:, None] * x), x, 0.0, 1.0, solver=solver, args=(rate,)).x
    end.sum().backward()
    # sinh(rate x) decays as exp(-rate k), so x(1) = asinh(exp(-rate) sinh(rate x(0))) / rate
    exact = (torch.asinh(torch.exp(-rate) * torch.sinh(rate * x[:, 0])) / rate).sum()
    for grad, known in zip((x.grad, rate.grad), torch.autograd.grad(exact, (x, rate)), strict=True):
        assert torch.allclose(grad, known, atol=2e-3)


# Adams


@pytest.mark.parametrize(("k0", "k1"), [(0.0, 1.0), (1.0, -0.5)])
def test_adams_fixed_steps_converge_with_order_2(k0, k1):
    start = nonlinear_solution(torch.tensor([[0.5], [0.4]], dtype=torch.float64), k0)
    end = nonlinear_solution(torch.tensor([[0.5], [0.4]], dtype=torch.float64), k1)
    errors = [
        (solve(nonlinear, start, k0, k1, solver=Solver("adams", steps=n)).x - end).abs().max() for n in (256, 512)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.35)


@pytest.mark.parametrize("solver", [Solver("adams", steps=2), Solver("adams", steps=5), Solver("adams")])
def test_adams_is_exact_for_a_field_linear_in_k(solver):
    def quadratic(x, k):
        return (3 * k - 1)[:, None].expand_as(x)

    x = solve(quadratic, torch.zeros(2, 1, dtype=torch.float64), 0.25, 1.0, solver=solver).x
    assert torch.allclose(x, torch.tensor(1.5 * (1 - 0.25**2) - 0.75, dtype=torch.float64), rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 4])
def test_adams_costs_one_evaluation_a_step_none_of_them_at_the_end(steps):
    f = Counted(nonlinear)
    solution = solve(f, torch.full((3, 1), 0.5), 0.0, 1.0, solver=Solver("adams", steps=steps))
    ks = torch.stack(f.ks)[:, 0]
    assert len(ks) == steps
    assert solution.nfe.tolist() == solution.accepted.tolist() == [steps] * 3
    assert ks[0] == 0
    assert ks[-1] < 1
    assert (ks.diff().diff() < 0).all()  # the steps get smaller towards the end


@pytest.mark.parametrize(("k0", "k1"), [(0.0, 1.0), (1.0, 0.0), (-0.7, 0.3)])
def test_adaptive_adams_keeps_to_its_tolerance(k0, k1):
    x = torch.linspace(0.2, 0.6, 5, dtype=torch.float64)[:, None]
    start, end = nonlinear_solution(x, k0), nonlinear_solution(x, k1)
    costs = []
    for tol in (1e-2, 1e-3, 1e-4):
        f = Counted(nonlinear)
        solution = solve(f, start, k0, k1, solver=Solver("adams", rtol=tol, atol=tol))
        assert ((solution.x - end).abs() < tol * (1 + end.abs())).all()
        assert torch.equal(solution.nfe, solution.accepted + solution.rejected)
        ks = torch.cat(f.ks)
        assert len(ks) == solution.nfe.sum()
        assert min(k0, k1) <= ks.min()
        assert ks.max() <= max(k0, k1)
        costs.append(int(solution.nfe.max()))
    assert costs[0] < costs[1] < costs[2]


def test_adams_learns_its_first_step_from_the_last_solve():
    x, rate = torch.ones(2, 1), torch.tensor([25.0, 0.01])
    cold = solve(decay, x, 0.0, 1.0, solver=Solver("adams"), args=(rate,))
    warm = solve(decay, x, 0.0, 1.0, solver=Solver("adams"), args=(rate,), first_step=cold.next_step)
    assert cold.next_step[0] < 0.25 < cold.next_step[1]  # the stiff one should start smaller, and the easy one larger
    assert cold.rejected.tolist() == [1, 0]
    assert warm.rejected.tolist() == [0, 0]
    assert warm.nfe[1] <= cold.nfe[1]


# The reference implementation's solver


def torchode_heun(f, x: Tensor, k0: float, k1: float, tol: float, t_eval: bool, dt0: float | None = None):
    torchode = pytest.importorskip("torchode")
    term = torchode.ODETerm(lambda t, y: f(y.unflatten(1, x.shape[1:]), t).flatten(1))
    adjoint = torchode.AutoDiffAdjoint(torchode.Heun(term), torchode.IntegralController(tol, tol, term=term))
    t = torch.tensor([[k0, k1]], dtype=x.dtype).expand(len(x), 2)
    problem = torchode.InitialValueProblem(x.flatten(1), t[:, 0], t[:, 1], t if t_eval else None)
    return adjoint.solve(problem, dt0=None if dt0 is None else torch.full_like(t[:, 0], dt0))


def random_field(seed: int, strength: float):
    """Pulls (b, 3, 4, 4) towards a small random network's output, convolutional for even seeds, that swings with k."""
    torch.manual_seed(seed)
    if seed % 2 == 0:
        net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1))
    else:
        hidden = nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 48)
        net = nn.Sequential(nn.Flatten(), *hidden, nn.Unflatten(1, (3, 4, 4)))

    def f(x: Tensor, k: Tensor) -> Tensor:
        swing = torch.tanh(8 * torch.cos(7 * k))[:, None, None, None].expand(-1, 1, 4, 4)
        return strength * (2 * net(torch.cat([x, swing], dim=1)) - x)

    return f


@pytest.mark.parametrize(("k0", "k1"), [(0.0, 1.0), (1.0, 0.0), (0.25, 1.75)])
@pytest.mark.parametrize("tol", [1e-2, 1e-4])
@pytest.mark.parametrize("batch", [1, 4])
@torch.no_grad()
def test_reference_takes_the_steps_of_torchode(batch, tol, k0, k1):
    rejected = 0
    for seed in range(4 if tol == 1e-2 else 2):
        f = random_field(seed, strength=math.copysign([0.5, 1.0, 2.0][seed % 3], k1 - k0))
        x = torch.randn(batch, 3, 4, 4) * torch.linspace(0.5, 1, batch).reshape(-1, 1, 1, 1)
        ours = solve(f, x, k0, k1, solver=Solver("heun", rtol=tol, atol=tol, reference=True))
        theirs = torchode_heun(f, x, k0, k1, tol, t_eval=seed in (1, 2))
        assert theirs.status.tolist() == [0] * batch
        assert int(ours.nfe.max()) == int(theirs.stats["n_f_evals"][0])
        assert torch.equal(ours.accepted, theirs.stats["n_accepted"])
        assert torch.equal(ours.accepted + ours.rejected, theirs.stats["n_steps"])
        assert torch.equal(ours.nfe, 2 + 2 * theirs.stats["n_steps"])
        assert torch.allclose(ours.x.flatten(1), theirs.ys[:, -1], rtol=1e-6, atol=1e-6)
        rejected += int(ours.rejected.sum())
    assert rejected > 0


@torch.no_grad()
def test_reference_takes_a_first_step_as_torchode_takes_dt0():
    f, x = random_field(1, 5.0), torch.randn(2, 3, 4, 4)
    ours = solve(f, x, 0.0, 1.0, solver=Solver("heun", reference=True), first_step=0.25)
    theirs = torchode_heun(f, x, 0.0, 1.0, 1e-2, t_eval=False, dt0=0.25)
    assert int(ours.nfe.max()) == int(theirs.stats["n_f_evals"][0])
    assert torch.allclose(ours.x.flatten(1), theirs.ys[:, -1], rtol=1e-6, atol=1e-6)


# Errors


@pytest.mark.parametrize(
    "solver",
    [
        Solver("euler", steps=3),
        Solver("heun"),
        Solver("heun", reference=True),
        Solver("bosh3"),
        Solver("adams"),
        Solver("adams", steps=3),
    ],
)
def test_nan_names_the_sample(solver):
    with pytest.raises(SolverError, match=r"(?i)sample 1\b.*look for it in the field") as error:
        solve(lambda x, k: -x.log(), torch.tensor([[1.0], [-1.0], [2.0]]), 0.0, 0.5, solver=solver)
    assert "NaN" in str(error.value)
    assert "k = " in str(error.value)


@pytest.mark.parametrize("method", ["heun", "adams"])
def test_an_overflowing_state_is_an_error(method):
    with pytest.raises(SolverError, match="sample 0 at k = 0: look"):
        solve(lambda x, k: x**2 * 1e30, torch.ones(1, 1), 0.0, 1.0, solver=Solver(method))


@pytest.mark.parametrize("method", ["bosh3", "adams"])
def test_a_solution_that_explodes_is_an_error(method):
    # dx/dk = x², x(0) = 1 has a pole at k = 1.
    with pytest.raises(SolverError, match=r"sample 0 at k = (0\.99|1)"):
        solve(lambda x, k: x**2, torch.ones(1, 1), 0.0, 2.0, solver=Solver(method))


def test_step_underflow_is_an_error():
    # Beyond k = 0.5 the field depends on every bit of k: no step is small enough.
    def rough(x, k):
        return torch.where(k > 0.5, 1e12 * torch.sin(1e9 * k), 1.0)[:, None].expand_as(x)

    with pytest.raises(SolverError, match=r"step size of sample 0 at k = 0\.\d+ underflows.*looser tolerances"):
        solve(rough, torch.ones(2, 1), 0.0, 1.0, solver=Solver("heun"))


@pytest.mark.parametrize("method", ["heun", "adams"])
def test_too_many_evaluations_is_an_error(method):
    rate, f = torch.tensor([1.0, 1000.0]), Counted(decay)
    with pytest.raises(SolverError, match=r"50 evaluations were not enough for sample 1 at k = .*looser tolerances"):
        solve(f, torch.ones(2, 1), 0.0, 1.0, solver=Solver(method, max_nfe=50), args=(rate,))
    assert len(f.ks) < 110


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": "dopri"}, "Unknown solver method 'dopri': did you mean 'dopri5'?"),
        ({"method": "Heun"}, "did you mean 'heun'?"),
        ({"method": "xyz"}, "the methods are euler, midpoint"),
        (
            {"method": "rk4"},
            "'rk4' has no error estimate: set a number of steps, "
            "or use one of midpoint, heun, ralston, bosh3, dopri5, adams",
        ),
        ({"steps": 0}, "steps must be at least 1"),
        ({"rtol": 0.0}, "rtol and atol must be positive, but are 0.0 and 0.01"),
        ({"atol": math.nan}, "rtol and atol must be positive"),
        ({"max_nfe": 0}, "max_nfe must be at least 1"),
        ({"method": "bosh3", "reference": True}, "The reference solver is torchode's adaptive Heun"),
        ({"steps": 4, "reference": True}, "The reference solver is torchode's adaptive Heun"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Solver(**settings)


@pytest.mark.parametrize(("settings", "setting"), [({"method": "dopri"}, "solver"), ({"method": "rk4"}, "steps")])
def test_a_refusal_names_the_setting_on_the_command_line(settings, setting):
    with pytest.raises(UserError) as error:
        Solver(**settings)
    assert error.value.setting == setting


def test_settings_survive_json():
    solver = Solver("bosh3", rtol=1e-3)
    assert Solver(**json.loads(json.dumps(dataclasses.asdict(solver)))) == solver
    assert list(dataclasses.asdict(solver)) == ["method", "steps", "rtol", "atol", "reference", "max_nfe"]


def test_the_names_of_solvers_are_adams_the_tableaus_and_the_reference():
    assert SOLVERS == get_args(SolverName) == ("adams", *TABLEAUS, "reference")
    assert Sample(Path("model")).full_solver == Solver()


@pytest.mark.parametrize("name", SOLVERS)
def test_every_name_gives_its_solver(name):
    solver = Solver.named(name, steps=None if name in ("reference", *ADAPTIVE) else 3)
    assert solver.name == name
    assert str(solver).startswith(f"{name}, ")
    assert solver.method == ("heun" if name == "reference" else name)
    assert solver.reference == (name == "reference")


def test_a_name_becomes_settings():
    assert Solver.named("adams") == Solver()
    assert Solver.named("reference") == Solver("heun", reference=True)
    assert Solver.named("bosh3", rtol=1e-3) == Solver("bosh3", rtol=1e-3, atol=1e-3)
    assert Solver.named("bosh3", rtol=1e-3, atol=1e-4) == Solver("bosh3", rtol=1e-3, atol=1e-4)
    assert Solver.named("midpoint", steps=2) == Solver("midpoint", steps=2)
    with pytest.raises(UserError, match="did you mean 'midpoint'"):
        Solver.named("midpont")
    with pytest.raises(UserError, match="needs method 'heun' and no steps"):
        Solver.named("reference", steps=2)


def test_a_solver_in_words():
    assert str(Solver("adams", rtol=1e-3)) == "adams, adaptive, rtol 0.001"
    assert str(Solver("midpoint", steps=2)) == "midpoint, 2 fixed steps"
    assert str(Solver("heun", reference=True)) == "reference, adaptive, rtol 0.01"


FIXED_AND_ADAPTIVE = [
    Solver("euler", steps=2),
    Solver("adams", steps=2),
    Solver("adams"),
    Solver("bosh3"),
    Solver("heun", reference=True),
]


@pytest.mark.parametrize("solver", FIXED_AND_ADAPTIVE, ids=str)
@pytest.mark.parametrize("shape", [(2, 1, 4), (1, 3, 4), (4,), (), (2, 3, 4, 1)])
def test_a_field_of_another_shape_is_refused_instead_of_broadcast(shape, solver):
    sentence = re.escape(f"The field gives dx/dk of shape {shape} for x of shape (2, 3, 4).")
    with pytest.raises(ValueError, match=sentence):
        solve(lambda x, k: torch.ones(shape), torch.zeros(2, 3, 4), 0.0, 1.0, solver=solver)


def test_calls_that_make_no_sense_are_refused():
    x = torch.ones(2, 1)
    with pytest.raises(ValueError, match="k0 and k1 must be finite and differ"):
        solve(decay, x, 1.0, 1.0, solver=Solver())
    with pytest.raises(ValueError, match="one entry for each of the 2 samples, but one has 3"):
        solve(decay, x, 0.0, 1.0, solver=Solver(), args=(torch.ones(3),))
    with pytest.raises(ValueError, match="first_step must be positive"):
        solve(decay, x, 0.0, 1.0, solver=Solver(), args=(torch.ones(2),), first_step=-0.1)
