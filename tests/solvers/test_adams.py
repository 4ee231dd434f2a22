"""Adams-Bashforth-Moulton."""

import math

import pytest
import torch

from biflow.config import Solver
from biflow.solvers import solve
from tests.solvers.fields import Counted, decay, nonlinear, nonlinear_solution


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
