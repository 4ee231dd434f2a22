"""Adams-Bashforth-Moulton of order 2: one evaluation a step, because the steps share theirs.

A step predicts with the field and its slope over the last step (Adams-Bashforth), evaluates there, and corrects with
that evaluation (trapezoidal rule); the next step starts from it. This is the PEC mode of E. Hairer, S. P. Nørsett,
G. Wanner, Solving Ordinary Differential Equations I, Sec. III.1, with the variable steps of Sec. III.5. The last step
only predicts: it needs no evaluation at the end of the interval, where alpha is 0 and a denoiser has nothing to see.

Since the slope is known before a step, so is the step's size, and hardly any evaluation is thrown away. Size is what
keeps Euler's error, h² |slope| / 2, at SHARE of the tolerance: the corrected step is that much better than Euler's
(benchmarks/solvers.py).
"""

from itertools import pairwise

import torch
from torch import Tensor

from biflow.solvers.settings import Solver
from biflow.solvers.solution import (
    Field,
    Solution,
    all_finite,
    choose,
    columns,
    failure,
    fixed_solution,
    given_step,
    rms,
)

SHARE = 0.25
REJECT = 6.0  # times SHARE: a step whose evaluation shows that much more than its slope had promised
FIRST, MOST = 0.25, 0.47  # of the interval: the first step, which has no slope to go by, and any but the last one
GROWTH = 3.0  # of a step over the one before
GRADED = 1.6  # fixed steps end at 1 - (1 - i / steps)^GRADED: the field changes fastest where alpha goes to 0


def solve_fixed(f: Field, x: Tensor, k0: float, k1: float, solver: Solver, args: tuple[Tensor, ...]) -> Solution:
    """Graded steps, without a host synchronisation before the check at the end."""
    steps = solver.steps
    assert steps is not None
    dtype = torch.promote_types(x.dtype, torch.float32)
    ends = [k0 + (k1 - k0) * (1 - (1 - i / steps) ** GRADED) for i in range(steps + 1)]
    slope: Tensor | None = None
    v = f(x, torch.full((len(x),), k0, dtype=dtype, device=x.device), *args)
    for k, k_new in pairwise(ends[:-1]):
        h = torch.full((len(x),), k_new - k, dtype=dtype, device=x.device)
        v_new = f(_predict(x, v, slope, h), torch.full_like(h, k_new), *args)
        x, v, slope = _correct(x, v, v_new, h), v_new, (v_new - v) / columns(h, x)
    h = torch.full((len(x),), k1 - ends[-2], dtype=dtype, device=x.device)
    x = _predict(x, v, slope, h)
    return fixed_solution(x, k1, steps=steps, nfe=steps, step=abs(ends[1] - k0))


def solve_adaptive(
    f: Field,
    x: Tensor,
    k0: float,
    k1: float,
    solver: Solver,
    args: tuple[Tensor, ...],
    first_step: Tensor | float | None,
) -> Solution:
    """Steps adapted to each sample. The variables of the loop hold the samples still live; `solution` holds all."""
    direction, interval = (1.0 if k1 > k0 else -1.0), abs(k1 - k0)
    k = torch.full((len(x),), k0, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    h_min = torch.finfo(k.dtype).eps * max(abs(k0), abs(k1))
    count = torch.zeros_like(k, dtype=torch.int64)
    solution = Solution(torch.empty_like(x), nfe=count + 1, accepted=count, rejected=count.clone(), next_step=k * 0)

    h = torch.full_like(k, FIRST * interval) if first_step is None else given_step(first_step, k)
    h = h.clamp(max=MOST * interval)
    v, slope, earlier = f(x, k, *args), None, torch.zeros_like(k)
    live = torch.arange(len(x), device=x.device)  # indices into the caller's batch
    while len(live) > 0:
        if slope is not None:
            # The size that meets the tolerance; rather two fair steps than a long one and a sliver at the end.
            # A slope may pass through zero and promise too much, hence the one before it counts as well.
            error = rms(slope.detach().abs() / (solver.atol + solver.rtol * x.detach().abs())).to(k.dtype) / 2
            meets = torch.minimum((SHARE / torch.maximum(error, earlier)).sqrt(), GROWTH * h)
            earlier = error
            remaining = (k1 - k).abs()
            last = meets >= 0.99 * remaining
            h = torch.where(last, remaining, torch.minimum(meets, MOST * remaining))
            x_end = _predict(x, v, slope, direction * h)
            underflow = h < h_min
            exhausted = ~last & (solution.nfe[live] >= solver.max_nfe)
            nonfinite = ~(torch.isfinite(error) & all_finite(x_end))
            if (nonfinite | underflow | exhausted).any():
                raise failure(nonfinite, underflow, exhausted, live, k, solver.max_nfe)
            if last.all() and len(live) == len(solution.x):
                solution.x = x_end  # copying by index wakes PyTorch's threads, which then get in OpenVINO's way
                solution.accepted += 1
                break
            if last.any():
                done, rest = live[last], ~last
                solution.x[done] = x_end[last]
                solution.accepted[done] += 1
                live, x, k, h = live[rest], x[rest], k[rest], h[rest]
                v, slope, earlier = v[rest], slope[rest], earlier[rest]
                args = tuple(arg[rest] for arg in args)
                if not rest.any():
                    break
        k_new = k + direction * h
        predicted = _predict(x, v, slope, direction * h)
        v_new = f(predicted, k_new, *args)
        solution.nfe[live] += 1
        change = v_new - v
        bounds = solver.atol + solver.rtol * torch.maximum(x.abs(), predicted.abs()).detach()
        ratio = h / 2 * rms(change.detach().abs() / bounds) / SHARE
        if slope is None:
            solution.next_step[live] = h * ratio.rsqrt().clamp(0.01, GROWTH).to(k.dtype)
        accept = ratio < REJECT
        solution.accepted[live] += accept
        solution.rejected[live] += ~accept
        # A rejected step stays where it was, and takes what it has seen as its slope: that alone makes it shorter.
        slope = change / columns(direction * h, x)
        x = choose(accept, _correct(x, v, v_new, direction * h), x)
        v = choose(accept, v_new, v)
        k = torch.where(accept, k_new, k)
    return solution


def _predict(x: Tensor, v: Tensor, slope: Tensor | None, h: Tensor) -> Tensor:
    """x + h v + h² slope / 2; without a slope Euler's step."""
    h = columns(h, x)
    return (x + h * v if slope is None else x + h * v + (h * h / 2) * slope).to(x.dtype)


def _correct(x: Tensor, v: Tensor, v_new: Tensor, h: Tensor) -> Tensor:
    """The trapezoidal rule."""
    return (x + columns(h, x) / 2 * (v + v_new)).to(x.dtype)
