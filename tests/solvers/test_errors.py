"""Solves that cannot succeed, and calls that make no sense."""

import re

import pytest
import torch

from biflow.config import Solver
from biflow.solvers import SolverError, solve
from tests.solvers.fields import Counted, decay


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
