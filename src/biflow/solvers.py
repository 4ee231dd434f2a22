"""Explicit Runge-Kutta solvers for dx/dk = f(x, k) on batches: fixed steps, or steps adapted to every sample.

Samples never share a step size. In an adaptive solve each sample pays for its own difficulty only: it leaves the batch
when it is done, and its number of function evaluations (NFE) is what it would have been alone.

The interval may run either way (k0 < k1 or k0 > k1), and f is never called outside it.
"""

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Field = Callable[..., Tensor]
"""f(x, k, *args) -> dx/dk; x and dx/dk are (b, ...), k is (b,), every one of args has the same leading b."""


class SolverError(ArithmeticError):
    """The solve cannot go on: NaN or inf, a step too small to represent, or too many evaluations."""


@dataclass(frozen=True)
class Tableau:
    """An explicit Butcher tableau: a holds the rows below the diagonal, so that len(a[i]) == i.

    b gives the solution, of the stated order; b_low the embedded solution one order lower, whose difference from b is
    the error estimate. None: no estimate, hence fixed steps only.
    """

    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    b_low: tuple[float, ...] | None = None

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def fsal(self) -> bool:
        """First same as last: the last stage is the derivative at the new state, thus the next step's first stage."""
        return self.b[-1] == 0 and self.b[:-1] == self.a[-1]


_HEUN = Tableau(2, a=((), (1.0,)), b=(1 / 2, 1 / 2), c=(0.0, 1.0), b_low=(1.0, 0.0))

# E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, 2nd edition, Sec. II.1, II.4, II.5.
# The embedded solution of the two-stage methods is Euler's.
TABLEAUS: dict[str, Tableau] = {
    "euler": Tableau(1, a=((),), b=(1.0,), c=(0.0,)),
    "midpoint": Tableau(2, a=((), (1 / 2,)), b=(0.0, 1.0), c=(0.0, 1 / 2), b_low=(1.0, 0.0)),
    "heun": _HEUN,
    "heun-euler": _HEUN,  # the same, under the name it has as an adaptive method
    "ralston": Tableau(2, a=((), (2 / 3,)), b=(1 / 4, 3 / 4), c=(0.0, 2 / 3), b_low=(1.0, 0.0)),
    "rk4": Tableau(
        4,
        a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
        c=(0.0, 1 / 2, 1 / 2, 1.0),
    ),
    "bosh3": Tableau(  # Bogacki-Shampine 3(2)
        3,
        a=((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        b=(2 / 9, 1 / 3, 4 / 9, 0.0),
        c=(0.0, 1 / 2, 3 / 4, 1.0),
        b_low=(7 / 24, 1 / 4, 1 / 3, 1 / 8),
    ),
    "dopri5": Tableau(  # Dormand-Prince 5(4)
        5,
        a=(
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
        c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
        b_low=(5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40),
    ),
}


@dataclass(frozen=True)
class Solver:
    """How to solve: a method, and either a number of fixed steps or tolerances. `dataclasses.asdict` of it is JSON.

    Args:
        method: a key of `TABLEAUS`.
        steps: that many equal steps; None adapts the step size of every sample to rtol and atol.
        rtol, atol: tolerated error of one step, for each element atol + rtol * |x|. Adaptive solves only.
        reference: reproduce the reference implementation, that is torchode's Heun with its IntegralController, to the
            step. It spends 2 evaluations on choosing the first step, and computes the first stage again after a
            rejection. Needs method "heun" and steps None.
        max_nfe: an adaptive solve gives up once an unfinished sample has cost that many evaluations.

    Raises:
        ValueError: settings that are unknown, out of range, or do not go together.
    """

    method: str = "heun"
    steps: int | None = None
    rtol: float = 1e-2
    atol: float = 1e-2
    reference: bool = False
    max_nfe: int = 1000

    def __post_init__(self) -> None:
        if self.method not in TABLEAUS:
            near = difflib.get_close_matches(self.method.lower(), TABLEAUS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"the methods are {', '.join(TABLEAUS)}."
            raise ValueError(f"Unknown solver method {self.method!r}: {hint}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, or None for adaptive steps, but is {self.steps}.")
        if not (self.rtol > 0 and self.atol > 0):
            raise ValueError(f"rtol and atol must be positive, but are {self.rtol} and {self.atol}.")
        if self.max_nfe < 1:
            raise ValueError(f"max_nfe must be at least 1, but is {self.max_nfe}.")
        if self.reference and (self.steps is not None or self.tableau is not _HEUN):
            raise ValueError("reference=True is torchode's adaptive Heun: it needs method='heun' and steps=None.")
        if self.steps is None and self.tableau.b_low is None:
            adaptive = ", ".join(name for name, tableau in TABLEAUS.items() if tableau.b_low is not None)
            raise ValueError(
                f"{self.method!r} has no error estimate: give a number of steps, or take one of {adaptive}."
            )

    @property
    def tableau(self) -> Tableau:
        return TABLEAUS[self.method]


@dataclass
class Solution:
    """What `solve` returns, for each sample of the batch.

    Attributes:
        x: the state at k1.
        nfe: evaluations of f that this sample cost.
        accepted: accepted steps.
        rejected: rejected steps.
        next_step: the last step size that the controller proposed, before it was clipped to the interval's end; > 0
            in either direction. A good `first_step` for a similar solve, such as the next frame's.
    """

    x: Float[Tensor, "b *shape"]
    nfe: Int[Tensor, " b"]
    accepted: Int[Tensor, " b"]
    rejected: Int[Tensor, " b"]
    next_step: Float[Tensor, " b"]


def solve(
    f: Field,
    x: Float[Tensor, "b *shape"],
    k0: float,
    k1: float,
    *,
    solver: Solver,
    args: tuple[Tensor, ...] = (),
    first_step: Float[Tensor, " b"] | Float[Tensor, ""] | float | None = None,
) -> Solution:
    """Solve dx/dk = f(x, k, *args) from k0 to k1, either of which may be the larger one.

    Args:
        f: the field. It gets k of shape (b,) in the dtype of x, but at least float32. In an adaptive solve b shrinks as
            samples finish, and is smaller still where only some of them need a new first stage.
        x: the state at k0, of any floating dtype; left unchanged.
        solver: the settings.
        args: tensors with x's leading size b, handed to f with the samples they belong to.
        first_step: size (> 0) of the first adaptive step, one for all or one a sample; it is clipped to the interval.
            None: the whole interval, or the Hairer rule if `solver.reference`. Ignored with fixed steps.

    Returns:
        The state at k1 and the costs of each sample. Differentiable where f is; the step sizes count as constants.

    Raises:
        ValueError: an interval of no length, an arg whose leading size is not b, or a first_step that is not positive.
        SolverError: NaN or inf (fixed steps look for it at the end only, once), a step too small to represent, or
            more than `solver.max_nfe` evaluations; it names the sample and k.
    """
    if not 0 < abs(k1 - k0) < math.inf:
        raise ValueError(f"k0 and k1 must be finite and differ, but are {k0} and {k1}.")
    if sizes := [len(arg) for arg in args if len(arg) != len(x)]:
        raise ValueError(f"Every one of args needs one entry for each of the {len(x)} samples, but one has {sizes[0]}.")
    if solver.steps is not None:
        return _solve_fixed(f, x, k0, k1, solver.tableau, solver.steps, args)
    return _solve_adaptive(f, x, k0, k1, solver, args, first_step)


def runge_kutta_step(
    f: Field,
    x: Float[Tensor, "b *shape"],
    k: Float[Tensor, " b"],
    k_new: Float[Tensor, " b"],
    h: Float[Tensor, " b"],
    tableau: Tableau,
    first: Float[Tensor, "b *shape"],
    args: tuple[Tensor, ...] = (),
    *,
    estimate: bool = False,
) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b *shape"] | None, Float[Tensor, "b *shape"]]:
    """One explicit Runge-Kutta step of every sample, from k to k_new; the one step all solves here are made of.

    Args:
        h: k_new - k, negative when going backward.
        first: the first stage, f(x, k, *args).
        estimate: also compute the embedded error estimate. Without it a FSAL tableau saves its last stage.

    Returns:
        The new state, its error estimate (None without `estimate`), and the last stage.
    """
    h = _columns(h, x)
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


def _solve_fixed(
    f: Field, x: Tensor, k0: float, k1: float, tableau: Tableau, steps: int, args: tuple[Tensor, ...]
) -> Solution:
    """Equal steps, without a host synchronisation before the check at the end."""
    k = torch.full((len(x),), k0, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    h = torch.full_like(k, (k1 - k0) / steps)
    for i in range(1, steps + 1):
        k_new = torch.full_like(k, k0 * (1 - i / steps) + k1 * (i / steps))  # exact at both ends
        x, _, _ = runge_kutta_step(f, x, k, k_new, h, tableau, f(x, k, *args), args)
        k = k_new

    finite = torch.isfinite(_rows(x)).all(dim=1)
    if not finite.all():
        sample = int((~finite).nonzero()[0])
        raise SolverError(f"Sample {sample} is NaN or inf at k = {k1:g}: take more steps, or look for it in the field.")
    count = torch.zeros_like(h, dtype=torch.int64)
    return Solution(
        x,
        nfe=count + steps * (tableau.stages - tableau.fsal),
        accepted=count + steps,
        rejected=count,
        next_step=h.abs(),
    )


def _solve_adaptive(
    f: Field,
    x: Tensor,
    k0: float,
    k1: float,
    solver: Solver,
    args: tuple[Tensor, ...],
    first_step: Tensor | float | None,
) -> Solution:
    """Steps adapted to each sample. The variables of the loop hold the samples still live; `solution` holds all."""
    tableau = solver.tableau
    direction = 1.0 if k1 > k0 else -1.0
    k = torch.full((len(x),), k0, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    h_min = torch.finfo(k.dtype).eps * max(abs(k0), abs(k1))
    count = torch.zeros_like(k, dtype=torch.int64)
    solution = Solution(torch.empty_like(x), nfe=count, accepted=count.clone(), rejected=count.clone(), next_step=k * 0)

    if first_step is not None:
        h = torch.as_tensor(first_step, dtype=k.dtype, device=k.device).detach().expand_as(k)
        if not (h > 0).all():
            raise ValueError("first_step must be positive for every sample, whichever way the interval runs.")
    elif solver.reference:
        h = _hairer_first_step(f, x, k, torch.full_like(k, k1), direction, solver, args)
        solution.nfe += 2
    else:
        h = torch.full_like(k, abs(k1 - k0))

    live = torch.arange(len(x), device=x.device)  # indices into the caller's batch
    stale = torch.ones_like(live, dtype=torch.bool)  # samples whose first stage must be evaluated
    first = x  # no first stage yet: all are stale
    while len(live) > 0:
        n_stale = int(stale.sum())
        if n_stale == len(live):
            first = f(x, k, *args)
        elif n_stale > 0:
            first = first.index_put((stale,), f(x[stale], k[stale], *(arg[stale] for arg in args)))

        h_taken, k_new = _clip_step(k, h, k1, direction, solver.reference)
        x_new, error, v_new = runge_kutta_step(f, x, k, k_new, direction * h_taken, tableau, first, args, estimate=True)
        assert error is not None
        # Step size control of Hairer et al., Sec. II.4, with the limits of torchode's IntegralController.
        bounds = solver.atol + solver.rtol * torch.maximum(x.abs(), x_new.abs()).detach()
        ratio = _rms(error.detach().abs() / bounds)
        accept = ratio < 1
        proposed = h_taken * (0.9 * ratio ** (-1 / tableau.order)).clamp(0.2, 10.0).to(k.dtype)
        finished = accept & (direction * (k_new - k1) >= 0)

        solution.nfe[live] += stale + (tableau.stages - 1)
        solution.accepted[live] += accept
        solution.rejected[live] += ~accept
        nonfinite = ~(torch.isfinite(ratio) & torch.isfinite(_rows(x_new)).all(dim=1))
        underflow = ~accept & (proposed < h_min)
        exhausted = ~finished & (solution.nfe[live] >= solver.max_nfe)
        if (nonfinite | underflow | exhausted).any():
            raise _failure(nonfinite, underflow, exhausted, live, k, solver)

        h = torch.where(finished, h, proposed)  # a finished sample keeps what was proposed before the clipping
        k = torch.where(accept, k_new, k)
        x = _where(accept, x_new, x)
        if tableau.fsal:
            first, stale = _where(accept, v_new, first), torch.zeros_like(accept)
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


def _hairer_first_step(
    f: Field, x: Tensor, k: Tensor, end: Tensor, direction: float, solver: Solver, args: tuple[Tensor, ...]
) -> Tensor:
    """First step size after Hairer et al., Sec. II.4, by two evaluations, in torchode's reading of it."""
    bounds = solver.atol + solver.rtol * x.abs()
    v0 = f(x, k, *args)
    d0, d1 = _rms(x / bounds), _rms(v0 / bounds)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
    h0 = torch.minimum(h0, (end - k).abs())
    v1 = f((x + direction * _columns(h0, x) * v0).to(x.dtype), k + direction * h0, *args)
    d = torch.maximum(d1, _rms((v1 - v0) / bounds) / h0)
    h1 = torch.where(d <= 1e-15, (h0 * 1e-3).clamp(min=1e-6), (0.01 / d) ** (1 / solver.tableau.order))
    return torch.minimum(100 * h0, h1).detach()


def _failure(
    nonfinite: Bool[Tensor, " b"],
    underflow: Bool[Tensor, " b"],
    exhausted: Bool[Tensor, " b"],
    live: Int[Tensor, " b"],
    k: Float[Tensor, " b"],
    solver: Solver,
) -> SolverError:
    """The error for the first sample in trouble: at k stands the start of the step that failed."""
    row = int((nonfinite | underflow | exhausted).nonzero()[0])
    where = f"sample {int(live[row])} at k = {float(k[row]):g}"
    if nonfinite[row]:
        return SolverError(f"NaN or inf in the step of {where}: look for it in the field, or try fixed steps.")
    if underflow[row]:
        return SolverError(f"The step size of {where} underflows: try looser tolerances, or fixed steps.")
    return SolverError(
        f"{solver.max_nfe} evaluations were not enough for {where}: try looser tolerances, or fixed steps."
    )


def _where(accept: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The new value of the samples that accept it, the old one of the others."""
    return torch.where(_columns(accept, new), new, old)


def _columns(per_sample: Tensor, x: Tensor) -> Tensor:
    """(b,) to (b, 1, ...), to go with x of (b, ...)."""
    return per_sample.reshape(-1, *[1] * (x.ndim - 1))


def _rows(x: Tensor) -> Tensor:
    """One row a sample: (b, ...) to (b, n), also when b is 0 or x is (b,)."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def _rms(x: Tensor) -> Tensor:
    """Root mean square over each sample's elements: (b, ...) to (b,)."""
    rows = _rows(x)
    return torch.linalg.vector_norm(rows / math.sqrt(rows.shape[1]), dim=1)
