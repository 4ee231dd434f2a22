"""Frames out of a model, one after the other: the only frame loop of the project.

Sampling to a file, previews while training, evaluation and the web page all drain `stream`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from biflow import paths
from biflow.errors import UserError
from biflow.networks import VideoUNet
from biflow.solvers import Field, Solver, solve

Direction = Literal["forward", "backward"]


@dataclass(frozen=True)
class Frame:
    """One step of a stream.

    Attributes:
        x: (b, 3, h, w) in [-1, 1].
        nfe: (b,) network evaluations that each sample's frame took.
        time: distance from the first frame, in frames of the training videos; negative backward in time.
    """

    x: Float[Tensor, "b 3 h w"]
    nfe: Int[Tensor, " b"]
    time: float


def sample_generators(seed: int, samples: Iterable[int]) -> list[torch.Generator]:
    """One CPU generator a sample, seeded by (seed, sample): a sample's noise does not depend on its batch."""
    states = (np.random.SeedSequence((seed, sample)).generate_state(1, np.uint64)[0] for sample in samples)
    return [torch.Generator().manual_seed(int(state >> np.uint64(1))) for state in states]


def stream(
    model: VideoUNet,
    first: Float[Tensor, "b 3 h w"],
    *,
    generators: Sequence[torch.Generator],
    eps: float | None = None,
    direction: Direction = "forward",
    solver: Solver | None = None,
    in_between: int = 1,
    fields: Callable[..., paths.Fields] | None = None,
) -> Iterator[Frame]:
    """Endless frames that follow (or, backward, precede) `first`; memory does not grow.

    BI-FLOW adds eps n to the last frame and solves along a straight line to the clean next frame (Eq. 9; backward:
    Sec. 5); eps = 0 is pure prediction (Eq. 7), as is FLOW. CONDIFF solves from noise, given the last frame.

    Args:
        model: on the device to compute on, in evaluation mode.
        first: the frames to start from, in [-1, 1].
        generators: one a sample, for its noise; see `sample_generators`.
        eps: noise level, BI-FLOW only; None for the model's own.
        direction: in time. CONDIFF only runs forward.
        solver: None for the default, adaptive Adams at rtol = atol = 1e-2.
        in_between: frames a step of the model: with 4, each of four legs of the curve gives a frame. A frame that is
            left with noise (eps > 0) is shown denoised at its time (Eq. 6), while the solution itself goes on.
        fields: what evaluates the model, `biflow.engines.fields(model)`; None for the model itself.

    Raises:
        UserError: frames that do not fit the model, or something that its method cannot do.
        SolverError: the solution is not finite, or takes too many evaluations.
    """
    eps = _check(model, first, eps, direction, in_between, len(generators))
    return _frames(
        model, fields or model, first, generators, eps, direction == "backward", solver or Solver(), in_between
    )


def _frames(
    model: VideoUNet,
    fields: Callable[..., paths.Fields],
    last: Tensor,
    generators: Sequence[torch.Generator],
    eps: float,
    backward: bool,
    solver: Solver,
    in_between: int,
) -> Iterator[Frame]:
    curve = paths.backward_line(eps) if backward else paths.forward_line(eps)
    legs = np.linspace(1.0, 0.0, in_between + 1) if backward else np.linspace(0.0, 1.0, in_between + 1)
    leg_solver = _share_steps(solver, in_between)
    field = model_field(fields, model.method, curve)
    step: Tensor | None = None
    # Not a decorator or one `with` around the loop: a generator would leave the caller in inference mode.
    for index in count(1):
        with torch.inference_mode():
            conditions: tuple[Tensor, ...] = ()
            if model.method == "condiff":
                x, conditions = _noise_like(last, generators), (last,)
            else:
                x = last + eps * _noise_like(last, generators) if eps else last
        for leg in range(in_between):
            with torch.inference_mode():
                k0, k1 = float(legs[leg]), float(legs[leg + 1])
                solution = solve(field, x, k0, k1, solver=leg_solver, args=conditions, first_step=step)
                x, nfe = solution.x, solution.nfe
                step = None if solver.reference else solution.next_step
                shown = x
                if leg < in_between - 1 and eps:
                    k = torch.tensor([k1])
                    line = paths.denoising_line(curve.t(k).item(), curve.alpha(k).item())
                    clean = solve(model_field(fields, model.method, line), x, 0.0, 1.0, solver=leg_solver)
                    shown, nfe = clean.x, nfe + clean.nfe
                shown = shown.clamp(-1, 1)
                if leg == in_between - 1:
                    last = shown
            time = index - 1 + (leg + 1) / in_between
            yield Frame(shown, nfe, -time if backward else time)


def rollout(
    model: VideoUNet, first: Float[Tensor, "b 3 h w"], *, frames: int, **settings
) -> Float[Tensor, "b n 3 h w"]:
    """The first `frames` frames of `stream(model, first, **settings)`, stacked."""
    return torch.stack([frame.x for frame in islice(stream(model, first, **settings), frames)], dim=1)


def denoise(
    model: VideoUNet, x: Float[Tensor, "b 3 h w"], t: float, alpha: float, *, solver: Solver | None = None
) -> tuple[Float[Tensor, "b 3 h w"], Int[Tensor, " b"]]:
    """Remove noise of level `alpha` from frames at time `t`, and say how many evaluations it took. Eq. (6)"""
    if model.method != "biflow":
        raise UserError(f"Denoising needs a BI-FLOW model: this one was trained with {model.method}.")
    field = model_field(model, model.method, paths.denoising_line(t, alpha))
    solution = solve(field, x, 0.0, 1.0, solver=solver or Solver())
    return solution.x, solution.nfe


def model_field(fields: Callable[..., paths.Fields], method: str, curve: paths.Curve) -> Field:
    """f(x, k, *conditions) → dx/dk along a curve; CONDIFF's one condition is the current frame."""
    if method == "condiff":
        return lambda x, k, condition: fields(x, k, condition=condition).v
    return paths.field_along(fields, curve)


def _noise_like(x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    noise = [torch.randn(x.shape[1:], generator=generator) for generator in generators]
    return torch.stack(noise).to(x.device, x.dtype)


def _share_steps(solver: Solver, legs: int) -> Solver:
    """The solver of one of `legs` legs: a fixed number of steps is shared among them."""
    if solver.steps is None or legs == 1:
        return solver
    return Solver(method=solver.method, steps=-(-solver.steps // legs))


def _check(
    model: VideoUNet, first: Tensor, eps: float | None, direction: str, in_between: int, generators: int
) -> float:
    """The noise level to use. Raises UserError for what this model cannot stream."""
    height, width = first.shape[-2:]
    if [height, width] != list(model.config["size"]):
        expected = "x".join(str(side) for side in model.config["size"])
        raise UserError(f"The first frame is {height}x{width}, but the model was trained on {expected}; resize it.")
    if generators != len(first):
        raise ValueError(f"{len(first)} samples need as many generators, not {generators}.")
    if direction not in ("forward", "backward"):
        raise UserError(f"There is no direction {direction!r}; the directions are forward and backward.")
    if in_between < 1:
        raise UserError(f"fps-factor is {in_between}, but must be at least 1.")
    if model.method == "condiff" and (direction == "backward" or in_between > 1):
        raise UserError(
            "CONDIFF solves from noise to the next frame: it has no backward direction and nothing between."
        )
    if model.method != "biflow":
        if eps:
            raise UserError(f"eps {eps:g} needs a BI-FLOW model: this one was trained with {model.method}, use eps 0.")
        return 0.0
    eps = float(model.config["eps"]) if eps is None else eps
    if not 0 <= eps < float("inf"):
        raise UserError(f"eps is {eps:g}, but must be 0 or more.")
    return eps
