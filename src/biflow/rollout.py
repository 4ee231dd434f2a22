"""Frames out of a model, one after the other: the only frame loop of the project, and the one place that drains it.

Sampling to a file, previews while training, evaluation and the web page all drain `stream`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice, pairwise, repeat
from typing import Any, SupportsFloat

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from biflow.config import Direction, Eps, Solver
from biflow.drift import AutoEps, real_drift
from biflow.errors import UserError
from biflow.memory import Memory
from biflow.model import Model
from biflow.paths import State
from biflow.solvers import SolverError
from biflow.spinning import moved, offsets
from biflow.video import to_uint8

Policy = Callable[[State], Any]  # the action after a frame


@dataclass(frozen=True)
class Frame:
    """One step of a stream.

    Attributes:
        x: (b, *shape); for frames (b, 3, h, w) in [-1, 1].
        nfe: (b,) network evaluations that each sample's frame took.
        time: distance from the first frame, in frames of the training videos; negative backward in time.
        eps: (b,) noise level of each sample, if it was chosen from frame to frame, else None.
    """

    x: State
    nfe: Int[Tensor, " b"]
    time: float
    eps: Float[Tensor, " b"] | None = None


def sample_generators(seed: int, samples: Iterable[int]) -> list[torch.Generator]:
    """One CPU generator per sample, seeded by (seed, sample): a sample's noise does not depend on its batch."""
    return [torch.Generator().manual_seed(frame_seed(seed, sample)) for sample in samples]


def frame_seed(seed: int, index: int) -> int:
    """What a generator is seeded with, so that noise depends on `seed` and on the number of a sample or frame alone.

    `biflow.serve` seeds with it before every frame, so that a stream can be continued, or repeated, from any of them.
    """
    return int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def stream(
    model: Model,
    first: State,
    *,
    actions: Policy | Iterable[Any] | None = None,
    generators: Sequence[torch.Generator] | None = None,
    eps: Eps | AutoEps | None = None,
    context_eps: float | None = None,
    direction: Direction = "forward",
    solver: Solver | None = None,
    in_between: int = 1,
) -> Iterator[Frame]:
    """Endless frames that follow (or, backward, precede) `first`; memory does not grow.

    BI-FLOW adds eps n to the last frame and solves along a straight line to the clean next frame (Eq. 9; backward:
    Sec. 5); eps = 0 is pure prediction (Eq. 7), as is FLOW. CONDIFF solves from noise, given the last frame.

    Args:
        model: of any network and sample shape; `biflow.engines.with_engine` gives a faster one.
        first: the frames to start from, within the model's limits ([-1, 1] for pixels), on its device. Several frames
            (b, j, 3, h, w), the newest last, also give a model with context its past.
        actions: what is done before each new frame: k numbers, (k,) or one row per sample (b, k), within the model's
            ranges, or None for an action that is not known. Each is asked for just before its frame is solved, and the
            frames end with them; a function, such as `autopilot(model)`, is asked with the frame before. Backward in
            time, it is what led to the frame that is there. By default nothing is done: the neutral action.
        generators: one per sample, for its noise; `sample_generators(0, range(b))` by default.
        eps: noise level, for methods that take one; the model's own by default. "auto" chooses it for each sample and
            frame, so that frames stay as free of errors as real ones; an `AutoEps` of your own (biflow.drift) outlives
            the stream.
        context_eps: noise level of the past frames that the model sees, if forward in time; its own by default.
        direction: direction in time, where the method can be solved backward.
        solver: that of the method by default: adaptive Adams at rtol = atol = 1e-2, or one jump of a flow map.
        in_between: frames per frame of the training videos: with 4, each of four legs of the curve gives one. A frame
            on the way, also one of a model of a larger `span`, is shown denoised at its time (Eq. 6).

    Raises:
        UserError: frames that do not fit the model, or something that its method cannot do.
        SolverError: the solution is not finite, or takes too many evaluations.

    Examples:
        >>> import biflow
        >>> model = biflow.load_model(biflow.shipped_model())
        >>> first = biflow.first_frames(model.folder / "first", model.size, samples=1)
        >>> frames = biflow.stream(model, biflow.to_float(first), eps=0.2)
        >>> next(frames).x.shape
        torch.Size([1, 3, 64, 64])
    """
    generators = sample_generators(0, range(len(first))) if generators is None else generators
    past, last = _split(model, first)
    for frame in (*past, last):
        check_first(model, frame, len(generators))
    check_streams(model)
    eps, legs = check_settings(model, eps, direction, in_between), model.span * in_between
    if actions is not None:
        model.taken_actions()
    solver = _shared(solver or model.method.solver, legs)
    ends = (1.0, 0.0) if direction == "backward" else (0.0, 1.0)
    memory = Memory(model, past if direction == "forward" else [], generators, context_eps)
    todo = repeat(model.actions.neutral if model.actions else None) if actions is None else actions
    return _frames(model, last, memory, todo, generators, eps, solver, np.linspace(*ends, legs + 1).tolist())


def _shared(solver: Solver, legs: int) -> Solver:
    """The solver of a leg: a number of fixed steps is shared out."""
    return solver if solver.steps is None else replace(solver, steps=-(-solver.steps // legs))


def _split(model: Model, first: Tensor) -> tuple[list[Tensor], State]:
    """The frames before the one to start from, the newest last, and that one."""
    if model.shape is None or first.ndim != len(model.shape) + 2 or not first.shape[1]:
        return [], first
    return list(first[:, :-1].unbind(1)), first[:, -1]


def _frames(
    model: Model,
    last: Tensor,
    memory: Memory,
    actions: Policy | Iterable[Any],
    generators: Sequence[torch.Generator],
    eps: Eps | AutoEps,
    solver: Solver,
    ends: list[float],
) -> Iterator[Frame]:
    """The frame loop. A frame is solved in legs between the `ends`, values of k from 0 to 1, or from 1 to 0."""
    method, network, backward, legs = model.method, model.network, ends[0] > ends[-1], len(ends) - 1
    eps = AutoEps(model, len(last), real_drift(model, last)) if eps == "auto" else eps
    step: Tensor | None = None
    rows = repeat(None) if callable(actions) else actions
    # Not a decorator or one `with` around the loop: a generator would leave the caller in inference mode.
    for index, action in enumerate(rows):
        with torch.inference_mode():
            action = actions(last) if callable(actions) else action
            aside = offsets(model.spin, generators)
            looked, level = (eps.look(last), eps.level) if isinstance(eps, AutoEps) else (0, eps)
            x, given = method.start(moved(last, aside), level, generators)
            conditions = memory.conditions(action, f"frame {index + 1}", aside)
        how: dict[str, Any] = {"conditions": conditions, "eps": level, "solver": solver}
        for leg, (k0, k1) in enumerate(pairwise(ends), start=1):
            with torch.inference_mode():
                solution = method.advance(network, x, k0, k1, given=given, first_step=step, **how)
                x, shown, nfe = solution.x, solution.x, solution.nfe
                step = None if solver.reference else solution.next_step
                if leg < legs and (clean := method.clean(network, x, k1, backward=backward, **how)):
                    shown, nfe = clean.x, nfe + clean.nfe
                shown = moved(shown, -aside, border=last)
                shown = shown.clamp(*model.limits) if model.limits else shown
            time = (-1 if backward else 1) * (index * legs + leg) * model.span / legs
            if leg == legs and isinstance(eps, AutoEps):
                eps.passed()
            yield Frame(shown, nfe + (looked if leg == 1 else 0), time, level if isinstance(level, Tensor) else None)
        if not backward:
            memory.add(last)
        last = shown


def generate(model: Model, first: State, *, frames: int, **settings) -> Float[Tensor, "b n *frame"]:
    """The first `frames` frames of `stream(model, first, **settings)`, stacked. Raises UserError for none."""
    if frames < 1:
        raise UserError(f"frames is {frames}, but must be at least 1.", setting="frames")
    return torch.stack([frame.x for frame in islice(stream(model, first, **settings), frames)], dim=1)


@torch.inference_mode()
def denoise(
    model: Model, x: State, t: float, alpha: float, *, solver: Solver | None = None
) -> tuple[State, Int[Tensor, " b"]]:
    """Remove noise of level `alpha` from frames at time `t`, and say how many evaluations it took. Eq. (6)

    Raises UserError for a model whose method does not learn noise.
    """
    how = {"conditions": model.conditions(len(x)), "solver": solver or Solver()}
    solution = model.method.denoise(model.network, x, t, alpha, **how)
    return solution.x, solution.nfe


@dataclass(frozen=True)
class Shown:
    """A frame of a stream as it is shown.

    Attributes:
        x: (b, 3, h, w) in [-1, 1], on the model's device.
        pixels: the same as uint8, on the CPU.
        nfe: evaluations of each sample.
        eps: noise level of each sample, if it was chosen from frame to frame, else None.
        time: as of `Frame`.
        seconds: that solving took, for the whole batch.
    """

    x: Float[Tensor, "b 3 h w"]
    pixels: UInt8[Tensor, "b 3 h w"]
    nfe: list[int]
    time: float
    seconds: float
    eps: list[float] | None = None


def drain(frames: Iterator[Frame], *, start: int = 1) -> Iterator[Shown]:
    """The frames of a stream as pixels, with what they cost; the first one has number `start`.

    Raises:
        UserError: a frame that could not be solved, by its number.
    """
    for number in count(start):
        begun = time.perf_counter()
        try:
            frame = next(frames, None)
        except SolverError as error:
            raise UserError(f"Frame {number} could not be solved: {error}") from error
        if frame is None:
            return
        pixels = to_uint8(frame.x).cpu()  # waits for the device
        eps = None if frame.eps is None else frame.eps.tolist()
        yield Shown(frame.x, pixels, frame.nfe.tolist(), frame.time, time.perf_counter() - begun, eps)


def check_first(model: Model, first: Tensor, generators: int) -> None:
    """Raise UserError for frames that this model cannot start from."""
    if model.shape is not None and tuple(first.shape[1:]) != tuple(model.shape):
        taken = ", ".join(map(str, ("b", *model.shape)))
        hint = "add the batch dimension, as first[None] does" if first.shape == model.shape else "resize them"
        raise UserError(f"The first frames are {tuple(first.shape)}, but the model starts from ({taken}); {hint}.")
    if not first.is_floating_point():
        raise UserError(f"The first frames are {first.dtype}; convert pixels with biflow.video.to_float.")
    if not first.isfinite().all():
        raise UserError("The first frames have values that are not finite numbers (NaN or infinity).")
    low, high = model.limits or (-torch.inf, torch.inf)
    slack = 1e-3 * (high - low)
    if len(first) and (first.min() < low - slack or first.max() > high + slack):
        found = f"from {first.min():g} to {first.max():g}, but must lie in [{low:g}, {high:g}]"
        raise UserError(f"The first frames go {found}; convert pixels with biflow.video.to_float.")
    if generators != len(first):
        raise UserError(f"{len(first)} samples need as many generators, not {generators}.")


def check_streams(model: Model) -> None:
    """Raise UserError for a model whose method makes whole clips."""
    if model.method.clips:
        what = f"{model.method.title} makes clips of {model.span} frames at once, and cannot stream"
        raise UserError(f"{what}. `biflow sample` makes such clips; in Python, use biflow.clips.")


def check_settings(model: Model, eps: Eps | AutoEps | None, direction: str, in_between: int) -> Eps | AutoEps:
    """The noise level to use, or what chooses it. Raises UserError for what this model cannot do."""
    method = model.method
    chosen = "auto" if isinstance(eps, AutoEps) else eps
    if not (chosen in (None, "auto") or isinstance(chosen, SupportsFloat)):
        raise UserError(f"eps is {eps!r}, but must be a number or 'auto'.", setting="eps")
    if direction not in ("forward", "backward"):
        raise UserError(f"There is no direction {direction!r}; the directions are forward and backward.")
    if not isinstance(in_between, int) or in_between < 1:
        raise UserError(f"in_between is {in_between}, but must be a whole number of at least 1.")
    if direction == "backward" and not method.backward:
        raise UserError(f"{method.title} has no backward direction.", setting="direction")
    if in_between > 1 and not method.in_between:
        raise UserError(f"{method.title} solves a frame as a whole: it has nothing in between.")
    if not method.takes_eps:
        if eps:
            raise UserError(f"eps {chosen} needs a BI-FLOW model; {method.title} takes no noise, use eps 0.")
        return 0.0
    if isinstance(eps, AutoEps) or eps == "auto":
        return eps
    level = float(model.eps if eps is None else eps)
    if not 0 <= level < float("inf"):
        raise UserError(f"eps is {level:g}, but must be 0 or more.", setting="eps")
    return level
