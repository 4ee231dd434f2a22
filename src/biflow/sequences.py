"""Frames of any model, one after the other: of one that streams, or of one that makes whole clips."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor

from biflow.config import Direction, Eps, Solver
from biflow.errors import UserError
from biflow.memory import check_past
from biflow.model import Model
from biflow.paths import State
from biflow.rollout import Frame, check_first, check_settings, sample_generators, stream

KNOWN = 0.25  # share of a clip that the end of the one before it gives


def follow(model: Model, first: State, **settings: Any) -> Iterator[Frame]:
    """Endless frames after `first`: those of `stream`, or, where the method makes whole clips, of `clips`."""
    return (clips if model.method.clips else stream)(model, first, **settings)


def clips(
    model: Model,
    first: Tensor,
    *,
    actions: Any = None,
    generators: Sequence[torch.Generator] | None = None,
    eps: Eps | None = None,
    context_eps: float | None = None,
    direction: Direction = "forward",
    solver: Solver | None = None,
    in_between: int = 1,
) -> Iterator[Frame]:
    """The frames of clips of `model.span` frames, each clip solved at once from noise. Eq. (1)

    The first clip begins with the frames of `first`, and every later one with the last quarter of the clip before it
    (outpainting; the paper makes single clips without a given frame). Memory grows with the span alone. The evaluations
    of a clip are shared out among its new frames.

    Args:
        model: of a method that makes whole clips.
        first: (b, j, 3, h, w) in [-1, 1] on the model's device, with j from 0, for clips from noise alone, to span - 1;
            of more, the last ones are taken. (b, 3, h, w) is one frame, if the model's shape is known.
        generators, solver: as of `stream`. So are all others, which such a method does not take.

    Raises UserError and SolverError as `stream` does, and UserError for a model that streams.
    """
    method, span = model.method, model.span
    if not method.clips:
        raise UserError(f"{method.title} makes frame after frame: use biflow.stream.")
    known = first[:, None] if model.shape and first.ndim == len(model.shape) + 1 else first
    generators = sample_generators(0, range(len(known))) if generators is None else generators
    check_settings(model, eps, direction, in_between)
    check_past(model, context_eps)
    if actions is not None:
        model.taken_actions()
    for frame in known.unbind(1) if known.shape[1] else [known.new_zeros((len(known), *known.shape[2:]))]:
        check_first(model, frame, len(generators))
    return _clips(model, known[:, max(0, known.shape[1] - span + 1) :], generators, solver or method.solver)


def _clips(model: Model, known: Tensor, generators: Sequence[torch.Generator], solver: Solver) -> Iterator[Frame]:
    numbers, repeated = count(1), min(model.span - 1, max(1, int(KNOWN * model.span)))
    while True:
        with torch.inference_mode():
            new = model.span - known.shape[1]
            rest = known.new_full((len(known), new, *known.shape[2:]), torch.nan)
            x, given = model.method.start(torch.cat([known, rest], dim=1), 0.0, generators)
            solution = model.method.advance(model.network, x, 0.0, 1.0, given=given, solver=solver)
            clip = solution.x.clamp(*model.limits) if model.limits else solution.x
        for place in range(new):
            nfe = solution.nfe // new + (place < solution.nfe % new)
            yield Frame(clip[:, known.shape[1] + place], nfe, float(next(numbers)))
        known = clip[:, model.span - repeated :]
