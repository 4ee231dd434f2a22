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

from biflow.config.solver import Solver
from biflow.solvers.solution import Problem, Solution, check, choose, columns, finite, fixed_solution, given_step, rms

SHARE = 0.33
REJECT = 6.0  # times SHARE: a step whose evaluation shows that much more than its slope had promised
FIRST, MOST = 0.25, 0.5  # of the interval: the first step, which has no slope to go by, and any but the last one
LAST = 0.7  # of the size that meets the tolerance: a last step is not corrected, so it has to be shorter
GROWTH = 3.0  # of a step over the one before
GRADED = 1.6  # fixed steps end at 1 - (1 - i / steps)^GRADED: the field changes fastest where alpha goes to 0


def solve_fixed(problem: Problem, solver: Solver) -> Solution:
    """Graded steps, without a host synchronisation before the check at the end."""
    f, x, k0, k1, args = problem
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


def solve_adaptive(problem: Problem, solver: Solver, first_step: Tensor | float | None) -> Solution:
    """Steps adapted to each sample. The variables of the loop hold the samples still live, `ends` and the like all."""
    f, x, k0, k1, args = problem
    direction, interval = (1.0 if k1 > k0 else -1.0), abs(k1 - k0)
    k = torch.full((len(x),), k0, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    h_min = torch.finfo(k.dtype).eps * max(abs(k0), abs(k1))
    h = torch.full_like(k, FIRST * interval) if first_step is None else given_step(first_step, k)
    h = h.clamp(max=MOST * interval)
    next_step, earlier = h, torch.zeros_like(k)
    live = torch.arange(len(x), device=x.device)  # indices into the caller's batch
    rejected = torch.zeros_like(live)
    ends, nfe, rejections = torch.empty_like(x), torch.zeros_like(live), torch.zeros_like(live)

    v, slope, evaluations = f(x, k, *args), None, 1
    while len(live) > 0:
        bounds = solver.atol + solver.rtol * x.detach().abs()
        if slope is None:
            x_new = _predict(x, v, slope, direction * h)
        else:
            error = rms(slope.detach() / bounds) / 2
            h, last = _step_size(torch.maximum(error, earlier), h, (k1 - k).abs())
            earlier = error
            x_new = _predict(x, v, slope, direction * h)
            underflow = h < h_min
            exhausted = ~last & (evaluations >= solver.max_nfe)
            nonfinite = ~(torch.isfinite(error) & finite(x_new))
            check(nonfinite, underflow, exhausted, live, k, solver.max_nfe)
            if last.any():
                nfe[live[last]], rejections[live[last]] = evaluations, rejected[last]
                if last.all():  # copying by index wakes PyTorch's threads, which then get in OpenVINO's way
                    ends = x_new if len(live) == len(ends) else ends.index_copy(0, live, x_new)
                    break
                ends[live[last]] = x_new[last]
                rest = ~last
                live, rejected, k, h, earlier = live[rest], rejected[rest], k[rest], h[rest], earlier[rest]
                x, v, slope, x_new, bounds = x[rest], v[rest], slope[rest], x_new[rest], bounds[rest]
                args = tuple(arg[rest] for arg in args)
        k_new = k + direction * h
        v_new = f(x_new, k_new, *args)
        evaluations += 1
        change = v_new - v
        ratio = h / 2 * rms(change.detach() / bounds) / SHARE
        if slope is None:
            next_step = h * ratio.rsqrt().clamp(0.01, GROWTH)
        # A rejected step stays where it was, and takes what it has seen as its slope: that alone makes it shorter.
        accept = ratio < REJECT
        rejected = rejected + ~accept
        slope = change / columns(direction * h, x)
        x = choose(accept, _correct(x, v, v_new, direction * h), x)
        v = choose(accept, v_new, v)
        k = torch.where(accept, k_new, k)
    # Every step takes one evaluation but the last, which takes none; the first one takes another.
    return Solution(ends, nfe=nfe, accepted=nfe - rejections, rejected=rejections, next_step=next_step)


def _step_size(error: Tensor, h: Tensor, remaining: Tensor) -> tuple[Tensor, Tensor]:
    """The size of the next step, and whether it is the last one, where steps of 1 have that error.

    A slope may pass through zero and promise too much, hence the caller counts the one before it as well.
    """
    meets, most = (SHARE / error).sqrt(), GROWTH * h
    last = torch.minimum(LAST * meets, most) >= 0.99 * remaining
    # Rather two fair steps than a long one and a sliver at the end.
    return torch.where(last, remaining, torch.minimum(torch.minimum(meets, most), MOST * remaining)), last


def _predict(x: Tensor, v: Tensor, slope: Tensor | None, h: Tensor) -> Tensor:
    """x + h v + h² slope / 2; without a slope Euler's step."""
    h = columns(h, x)
    v = v if slope is None else torch.addcmul(v, h / 2, slope)
    return torch.addcmul(x, h, v).to(x.dtype)


def _correct(x: Tensor, v: Tensor, v_new: Tensor, h: Tensor) -> Tensor:
    """The trapezoidal rule."""
    return torch.addcmul(x, columns(h, x) / 2, v + v_new).to(x.dtype)
