"""Tableaus, fixed steps and adaptive steps, against known solutions."""

import dataclasses
import math

import pytest
import torch

from biflow.config import Solver
from biflow.solvers import Solution, runge_kutta_step, solve
from biflow.tableaus import TABLEAUS
from tests.solvers.fields import ADAPTIVE, METHODS, Counted, decay, nonlinear, nonlinear_solution

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
    x = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) + 0.5
    rate = torch.tensor([30.0, 0.1, 3.0, 60.0])
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
