"""What a method is: everything that FLOW, BI-FLOW, CONDIFF and the others differ in."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from biflow.config import Solver, TrainConfig
from biflow.errors import UserError
from biflow.methods.noise import Noise
from biflow.paths import NO_CONDITIONS, Conditions, Fields, Level, Network, PerSample, State, conditioned, present
from biflow.solvers import Field, Solution, solve

Terms = dict[str, PerSample]
Given = tuple[Tensor, ...]  # of b samples each


class Loss(NamedTuple):
    """The loss of b clips, not yet reduced.

    terms: one value per sample and named term. "v" and "u", which are in the unit of motion, are weighed with
        1 / v_scale², the others with 1.
    at: one value in [0, 1] per sample for each variable that was drawn, such as t; the log shows the terms against it.
    """

    terms: Terms
    at: dict[str, PerSample]


class Method:
    """A way to learn and to solve the next frame.

    A new method is a subclass in a file of its own (docs/extending.md). Its attributes say what it is and what it can
    do. Most methods need `loss` and `field` only.

    Attributes:
        name: in settings, files and tables of results.
        title: for people.
        heads: fields that its network answers with: f^v, or f^v and f^n.
        window: adjacent frames that its loss looks at, for a span of 1.
        takes_eps: whether it streams with a noise level.
        backward: whether it can be solved backward in time.
        spans: whether its loss takes windows of any number of frames: the way from the first to the last, or a clip.
        clips: whether it solves a clip of `span` frames at once, from noise, and so cannot stream.
        in_between: whether a frame can be solved in several legs, with a frame to show after each.
        teacher: the method of the model that its loss learns from, if any; it begins with the weights of that model.
        solver: how a frame is solved unless someone asks for something else.
        motion_unit: whether f^v is a change between frames, which is learned in the unit of their rms change.
    """

    name: str
    title: str
    heads: int = 1
    window: int = 2
    takes_eps: bool = False
    backward: bool = True
    spans: bool = False
    clips: bool = False
    in_between: bool = True
    motion_unit: bool = True
    teacher: str | None = None
    solver: Solver = Solver()

    def frames(self, span: int) -> int:
        """How many adjacent frames its loss looks at, for a model of that span."""
        return span if self.clips else span * (self.window - 1) + 1

    def state(self, frame: tuple[int, ...], span: int) -> tuple[int, ...]:
        """The shape of what is solved, for frames of that shape."""
        return (span, *frame) if self.clips else frame

    def loss(
        self, network: Network, clips: Float[Tensor, "b window *shape"], generator: torch.Generator, config: TrainConfig
    ) -> Loss:
        """The loss of clips in [-1, 1]; t, alpha and noise are drawn from `generator`, on its device."""
        raise NotImplementedError

    def start(self, frame: State, eps: Level, generators: Noise) -> tuple[State, Given]:
        """The state that the frame after (or before) `frame` is solved from, and what else `advance` needs (b, ...).

        A level of each sample's own is among the latter. `generators` has one for each sample, or is the noise itself;
        `noise_like` takes either.
        """
        return frame, ()

    def field(self, network: Network, eps: Level, backward: bool) -> Field:
        """f(x, k, *given) -> dx/dk, the ODE of a frame for k from 0 to 1, or from 1 to 0 if `backward`."""
        raise NotImplementedError

    def solved_by(self, solver: Solver, *, backward: bool) -> Solver:
        """The solver that a frame is really solved by where this one is asked for."""
        return solver

    def advance(
        self,
        network: Network,
        x: State,
        k0: float,
        k1: float,
        *,
        given: Given = (),
        conditions: Conditions = NO_CONDITIONS,
        eps: Level = 0.0,
        solver: Solver,
        first_step: Tensor | None = None,
    ) -> Solution:
        """Solve from k0 to k1, the whole of a frame or a leg of it; k1 < k0 is backward in time."""
        field, args = under(lambda network: self.field(network, eps, k1 < k0), network, conditions, given)
        return solve(field, x, k0, k1, solver=solver, args=args, first_step=first_step)

    def clean(
        self,
        network: Network,
        x: State,
        k: float,
        *,
        conditions: Conditions,
        eps: Level,
        backward: bool,
        solver: Solver,
    ) -> Solution | None:
        """The frame to show for a state on the way, at k. None: the state itself."""
        return None

    def denoise(
        self, network: Network, x: State, t: float, alpha: Level, *, conditions: Conditions, solver: Solver
    ) -> Solution:
        """Remove noise of level `alpha` from states at time `t`. Raises UserError where noise is not learned."""
        raise UserError(f"Denoising needs a BI-FLOW model; this one was trained with {self.title}.")

    def noise(self, network: Network, x: State, alpha: float, *, conditions: Conditions) -> State | None:
        """The noise that its network sees in frames x with noise of level `alpha`; None if it learns none."""
        return None

    def example(self, frame: State, eps: float = 0.0, conditions: Conditions = NO_CONDITIONS) -> Any:
        """The first query by which the frame after `frame` is solved, always with the same noise."""
        queries = []

        def record(query: Any) -> Fields:
            queries.append(query)
            zero = torch.zeros_like(query[0])
            return Fields(zero, zero if self.heads == 2 else None)

        generators = [torch.Generator().manual_seed(i) for i in range(len(frame))]
        x, given = self.start(frame, eps, generators)
        how = {"given": given, "conditions": conditions, "eps": eps, "solver": Solver("euler", steps=1)}
        self.advance(record, x, 0.0, 1.0, **how)
        return queries[0]


def under(
    field_of: Callable[[Network], Field], network: Network, conditions: Conditions, given: Given = ()
) -> tuple[Field, Given]:
    """The field of a network that is asked under conditions, and what to solve it with as `args`.

    The conditions are among these, since each has to stay with its sample when a solver drops some.
    """
    names = present(conditions)
    return partial(_field_under, field_of, network, tuple(names), len(given)), (*given, *names.values())


def _field_under(
    field_of: Callable[[Network], Field],
    network: Network,
    names: tuple[str, ...],
    own: int,
    x: Tensor,
    k: Tensor,
    *args: Tensor,
) -> Tensor:
    """dx/dk from a state, where `args` are `own` tensors of the method and, after them, the named conditions."""
    now = Conditions(**dict(zip(names, args[own:], strict=True)))
    return field_of(conditioned(network, now))(x, k, *args[:own])


def squared_error(prediction: State, target: State) -> PerSample:
    """The paper's squared norm over the number of elements, so that it does not depend on the resolution."""
    return (prediction.float() - target).square().flatten(1).mean(1)
