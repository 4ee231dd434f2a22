"""ODE solvers on batches: explicit Runge-Kutta and Adams, fixed steps, or steps adapted to every sample.

Samples never share a step size. In an adaptive solve each sample pays for its own difficulty only: it leaves the batch
when it is done, and its number of function evaluations (NFE) is what it would have been alone.

The interval may run either way (k0 < k1 or k0 > k1), and f is never called outside it.
"""

import math
from functools import partial

from jaxtyping import Float
from torch import Tensor

from biflow.config.solver import Solver
from biflow.paths import Field, PerSample, State
from biflow.solvers import adams, runge_kutta
from biflow.solvers.runge_kutta import runge_kutta_step
from biflow.solvers.solution import Problem, Solution, SolverError

__all__ = ["Field", "Solution", "Solver", "SolverError", "runge_kutta_step", "solve"]


def solve(
    f: Field,
    x: State,
    k0: float,
    k1: float,
    *,
    solver: Solver,
    args: tuple[Tensor, ...] = (),
    first_step: PerSample | Float[Tensor, ""] | float | None = None,
) -> Solution:
    """Solve dx/dk = f(x, k, *args) from k0 to k1, either of which may be the larger one.

    Args:
        f: the field. It gets k of shape (b,) in the dtype of x, but at least float32. In an adaptive solve b shrinks as
            samples finish, and is smaller still where only some of them need a new first stage.
        x: the state at k0, of any floating dtype; left unchanged.
        solver: the settings.
        args: tensors with x's leading size b, handed to f with the samples they belong to.
        first_step: size (> 0) of the first adaptive step, one for all or one a sample; it is clipped to the interval.
            None: the whole interval (Adams: a quarter), or the Hairer rule if `solver.reference`. Ignored with fixed
            steps.

    Returns:
        The state at k1 and the costs of each sample. Differentiable where f is; the step sizes count as constants.

    Raises:
        ValueError: an interval of no length, an arg whose leading size is not b, a first_step that is not positive, or
            a field of another shape than x.
        SolverError: NaN or inf (fixed steps look for it at the end only, once), a step too small to represent, or
            more than `solver.max_nfe` evaluations; it names the sample and k.
    """
    if not 0 < abs(k1 - k0) < math.inf:
        raise ValueError(f"k0 and k1 must be finite and differ, but are {k0} and {k1}.")
    if sizes := [len(arg) for arg in args if len(arg) != len(x)]:
        raise ValueError(f"Every one of args needs one entry for each of the {len(x)} samples, but one has {sizes[0]}.")

    problem, method = Problem(partial(_checked, f), x, k0, k1, args), adams if solver.method == "adams" else runge_kutta
    if solver.steps is not None:
        return method.solve_fixed(problem, solver)
    return method.solve_adaptive(problem, solver, first_step)


def _checked(f: Field, x: Tensor, k: Tensor, *args: Tensor) -> Tensor:
    dx = f(x, k, *args)
    if dx.shape != x.shape:  # broadcasting would hide it
        raise ValueError(f"The field gives dx/dk of shape {tuple(dx.shape)} for x of shape {tuple(x.shape)}.")
    return dx
