"""What a solve returns or raises, and the arithmetic that the methods share."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from biflow.paths import Field, PerSample, State

Flags = Bool[Tensor, " b"]
Counts = Int[Tensor, " b"]


class Problem(NamedTuple):
    """dx/dk = f(x, k, *args) from k0 to k1, with x the state at k0."""

    f: Field
    x: State
    k0: float
    k1: float
    args: tuple[Tensor, ...] = ()


class SolverError(ArithmeticError):
    """The solve cannot go on: NaN or inf, a step too small to represent, or too many evaluations."""


@dataclass
class Solution:
    """What `solve` returns, for each sample of the batch.

    Attributes:
        x: the state at k1.
        nfe: evaluations of f that this sample cost.
        accepted: accepted steps.
        rejected: rejected steps.
        next_step: a good `first_step` for a similar solve, such as the next frame's; > 0 in either direction. Of
            Runge-Kutta the last size that the controller proposed, before it was clipped to the interval's end; of
            Adams the size that its first step should have had.
    """

    x: State
    nfe: Counts
    accepted: Counts
    rejected: Counts
    next_step: PerSample


def given_step(first_step: Tensor | float, k: Tensor) -> Tensor:
    """The caller's first step as one size per sample, in the dtype of k. Raises ValueError unless all are positive."""
    h = torch.as_tensor(first_step, dtype=k.dtype, device=k.device).detach().expand_as(k)
    if not (h > 0).all():
        raise ValueError("first_step must be positive for every sample, whichever way the interval runs.")
    return h


def fixed_solution(x: Tensor, k1: float, *, steps: int, nfe: int, step: float) -> Solution:
    """The Solution of `steps` fixed steps. Raises SolverError if x is not finite: the one look at it, at the end.

    A graph that is traced cannot look.
    """
    good = finite(x)
    if not torch.compiler.is_compiling() and not good.all():
        sample = int((~good).nonzero()[0])
        raise SolverError(f"Sample {sample} is NaN or inf at k = {k1:g}: take more steps, or look for it in the field.")
    count = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    size = torch.full((len(x),), step, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    return Solution(x, nfe=count + nfe, accepted=count + steps, rejected=count, next_step=size)


def check(nonfinite: Flags, underflow: Flags, exhausted: Flags, live: Counts, k: PerSample, max_nfe: int) -> None:
    """Raise SolverError for the first sample in trouble; k is the start of the step that failed."""
    trouble = nonfinite | underflow | exhausted
    if not trouble.any():
        return
    row = int(trouble.nonzero()[0])
    where = f"sample {int(live[row])} at k = {float(k[row]):g}"
    if nonfinite[row]:
        raise SolverError(f"NaN or inf in the step of {where}: look for it in the field, or try fixed steps.")
    if underflow[row]:
        raise SolverError(f"The step size of {where} underflows: try looser tolerances, or fixed steps.")
    raise SolverError(f"{max_nfe} evaluations were not enough for {where}: try looser tolerances, or fixed steps.")


def choose(accept: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The new value of the samples that accept it, the old one of the others."""
    return torch.where(columns(accept, new), new, old)


def columns(per_sample: Tensor, x: Tensor) -> Tensor:
    """(b,) to (b, 1, ...), to go with x of (b, ...)."""
    return per_sample.reshape(-1, *[1] * (x.ndim - 1))


def rows(x: Tensor) -> Tensor:
    """One row per sample: (b, ...) to (b, n), also when b is 0 or x is (b,)."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def finite(x: Tensor) -> Tensor:
    """Of each sample, whether all its elements are finite: (b, ...) to (b,)."""
    return torch.isfinite(rows(x).abs().amax(dim=1))  # the maximum keeps NaN; a seventh of isfinite's time over all x


def rms(x: Tensor) -> Tensor:
    """Root mean square over each sample's elements: (b, ...) to (b,), in at least float32."""
    flat = rows(x)
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(flat, dim=1, dtype=dtype) / math.sqrt(flat.shape[1])
