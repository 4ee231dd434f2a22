"""Explicit Runge-Kutta: a Butcher tableau and one shared step; fixed steps, or steps adapted to every sample."""

import torch
from torch import Tensor

from biflow.config.solver import Solver
from biflow.paths import Field, PerSample, State
from biflow.solvers.solution import Problem, Solution, check, choose, columns, finite, fixed_solution, given_step, rms
from biflow.tableaus import TABLEAUS, Tableau


def runge_kutta_step(
    f: Field,
    x: State,
    k: PerSample,
    k_new: PerSample,
    h: PerSample,
    tableau: Tableau,
    first: State,
    args: tuple[Tensor, ...] = (),
    *,
    estimate: bool = False,
) -> tuple[State, State | None, State]:
    """One explicit Runge-Kutta step of every sample, from k to k_new; the one step all solves here are made of.

    Args:
        h: k_new - k, negative when going backward.
        first: the first stage, f(x, k, *args).
        estimate: also compute the embedded error estimate. Without it a FSAL tableau saves its last stage.

    Returns:
        The new state, its error estimate (None without `estimate`), and the last stage.
    """
    h = columns(h, x)
    stages = [first]
    inner = tableau.stages - tableau.fsal  # b is 0 on the last stage of a FSAL tableau
    for c, a in zip(tableau.c[1:inner], tableau.a[1:inner], strict=True):
        x_stage = (x + h * _combine(a, stages)).to(x.dtype)
        stages.append(f(x_stage, torch.lerp(k, k_new, c), *args))  # lerp is exact at c = 1: never beyond k_new
    x_new = (x + h * _combine(tableau.b[:inner], stages)).to(x.dtype)
    if not estimate:
        return x_new, None, stages[-1]

    assert tableau.b_low is not None  # Solver has seen to it
    if tableau.fsal:
        stages.append(f(x_new, k_new, *args))
    b_error = tuple(b - b_low for b, b_low in zip(tableau.b, tableau.b_low, strict=True))
    return x_new, h * _combine(b_error, stages), stages[-1]


def _combine(weights: tuple[float, ...], stages: list[Tensor]) -> Tensor:
    """The sum of weights[i] * stages[i]."""
    (weight, stage), *rest = [(w, stage) for w, stage in zip(weights, stages, strict=True) if w != 0]
    total = stage if weight == 1 else weight * stage
    for weight, stage in rest:
        total = torch.add(total, stage, alpha=weight)
    return total


def solve_fixed(problem: Problem, solver: Solver) -> Solution:
    """Equal steps, without a host synchronisation before the check at the end."""
    f, x, k0, k1, args = problem
    steps, tableau = solver.steps, TABLEAUS[solver.method]
    assert steps is not None
    k = torch.full((len(x),), k0, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    h = torch.full_like(k, (k1 - k0) / steps)
    for i in range(1, steps + 1):
        k_new = torch.full_like(k, k0 * (1 - i / steps) + k1 * (i / steps))  # exact at both ends
        x, _, _ = runge_kutta_step(f, x, k, k_new, h, tableau, f(x, k, *args), args)
        k = k_new
    nfe = steps * (tableau.stages - tableau.fsal)
    return fixed_solution(x, k1, steps=steps, nfe=nfe, step=abs(k1 - k0) / steps)


def solve_adaptive(problem: Problem, solver: Solver, first_step: Tensor | float | None) -> Solution:
    """Steps adapted to each sample. The variables of the loop hold the samples still live; `solution` holds all."""
    f, x, k0, k1, args = problem
    tableau = TABLEAUS[solver.method]
    direction = 1.0 if k1 > k0 else -1.0
    k = torch.full((len(x),), k0, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    h_min = torch.finfo(k.dtype).eps * max(abs(k0), abs(k1))
    count = torch.zeros_like(k, dtype=torch.int64)
    solution = Solution(torch.empty_like(x), nfe=count, accepted=count.clone(), rejected=count.clone(), next_step=k * 0)

    h, evaluations = _first_step(problem, k, solver, first_step)
    solution.nfe += evaluations
    live = torch.arange(len(x), device=x.device)  # indices into the caller's batch
    stale = torch.ones_like(live, dtype=torch.bool)  # samples whose first stage must be evaluated
    first = x  # no first stage yet: all are stale
    while len(live) > 0:
        if (n_stale := int(stale.sum())) == len(live):
            first = f(x, k, *args)
        elif n_stale > 0:
            first = first.index_put((stale,), f(x[stale], k[stale], *(arg[stale] for arg in args)))
        h_taken, k_new = _clip_step(k, h, k1, direction, solver.reference)
        x_new, error, v_new = runge_kutta_step(f, x, k, k_new, direction * h_taken, tableau, first, args, estimate=True)
        assert error is not None
        # Step size control of Hairer et al., Sec. II.4, with the limits of torchode's IntegralController.
        bounds = solver.atol + solver.rtol * torch.maximum(x.abs(), x_new.abs()).detach()
        ratio = rms(error.detach().abs() / bounds)
        accept = ratio < 1
        proposed = h_taken * (0.9 * ratio ** (-1 / tableau.order)).clamp(0.2, 10.0).to(k.dtype)
        finished = accept & (direction * (k_new - k1) >= 0)

        solution.nfe[live] += stale + (tableau.stages - 1)
        solution.accepted[live] += accept
        solution.rejected[live] += ~accept
        nonfinite = ~(torch.isfinite(ratio) & finite(x_new))
        underflow = ~accept & (proposed < h_min)
        exhausted = ~finished & (solution.nfe[live] >= solver.max_nfe)
        check(nonfinite, underflow, exhausted, live, k, solver.max_nfe)

        h = torch.where(finished, h, proposed)  # a finished sample keeps what was proposed before the clipping
        k = torch.where(accept, k_new, k)
        x = choose(accept, x_new, x)
        if tableau.fsal:
            first, stale = choose(accept, v_new, first), torch.zeros_like(accept)
        else:
            stale = accept | solver.reference  # torchode evaluates the first stage anew even after a rejection

        if finished.any():
            done, rest = live[finished], ~finished
            solution.x[done], solution.next_step[done] = x[finished], h[finished]
            live, x, k, h, first, stale = live[rest], x[rest], k[rest], h[rest], first[rest], stale[rest]
            args = tuple(arg[rest] for arg in args)
    return solution


def _clip_step(k: Tensor, h: Tensor, k1: float, direction: float, reference: bool) -> tuple[Tensor, Tensor]:
    """The size of the step to take, where h is proposed, and the k it leads to: not beyond k1."""
    end = torch.full_like(k, k1)
    remaining = (end - k).abs()
    if reference:  # as in torchode, rounding may miss k1 by a bit, and leave one more, tiny step
        h = torch.minimum(h, remaining)
        return h, k + direction * h
    last = 1.01 * h >= remaining  # as in Hairer's DOPRI5: rather 1 % more than a tiny last step
    return torch.where(last, remaining, h), torch.where(last, end, k + direction * h)


def _first_step(problem: Problem, k: Tensor, solver: Solver, first_step: Tensor | float | None) -> tuple[Tensor, int]:
    """The size to try first, and the evaluations that it took to find it."""
    f, x, _, k1, args = problem
    end = torch.full_like(k, k1)
    if first_step is not None:
        return given_step(first_step, k), 0
    if not solver.reference:
        return (end - k).abs(), 0
    direction = 1.0 if k1 > problem.k0 else -1.0
    # Hairer et al., Sec. II.4, by two evaluations, in torchode's reading of it.
    bounds = solver.atol + solver.rtol * x.abs()
    v0 = f(x, k, *args)
    d0, d1 = rms(x / bounds), rms(v0 / bounds)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
    h0 = torch.minimum(h0, (end - k).abs())
    v1 = f((x + direction * columns(h0, x) * v0).to(x.dtype), k + direction * h0, *args)
    d = torch.maximum(d1, rms((v1 - v0) / bounds) / h0)
    h1 = torch.where(d <= 1e-15, (h0 * 1e-3).clamp(min=1e-6), (0.01 / d) ** (1 / TABLEAUS[solver.method].order))
    return torch.minimum(100 * h0, h1).detach(), 2
