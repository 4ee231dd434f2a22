"""The frames of a session: the streams that solve them, the one on screen, and past ones to go back to.

A `Dream` has no threads, no locks and no viewers; one thread at a time may use it. `biflow.serve.session` adds those.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from biflow.actions import Actions
from biflow.drift import EVERY, AutoEps
from biflow.errors import UserError
from biflow.model import Model
from biflow.moments import NO_PLAN, Plan
from biflow.paths import Fields, Network
from biflow.rollout import Shown, drain, frame_seed, stream
from biflow.serve.controls import Controls
from biflow.serve.models import Served
from biflow.serve.steering import Pressed, held, row
from biflow.video import resize, to_float

PAST_FRAMES, PAST_BYTES = 480, 16 * 2**20


class Stale(Exception):
    """The frame being solved is no longer wanted."""


@dataclass(frozen=True)
class Moment:
    """A frame as it is on screen: one picture, or two with a second stream.

    Attributes:
        id: increases with every frame shown, also when going back.
        index: number of frames since the first one.
        time: distance from the first frame, in frames of the training videos; negative before it.
        pictures: uint8 (3, h, w), one per stream, on the CPU.
        nfe: network evaluations per stream; 0 if the frame was not solved now.
        seconds: time that solving took.
        before: the pictures of the whole frames before it, newest first, as many as models see.
        whole: whether it is a frame that a model saw, or will see, and not one in between.
        action: values of columns, with which it was solved; None if no action was known.
        plan: what the autopilot does next.
        eps: noise level of the first stream, where it was chosen from frame to frame.
        drift: of each stream, over that of real frames (`biflow.drift`); None where it was not measured.
    """

    id: int
    index: int
    time: float
    pictures: list[Tensor]
    nfe: list[int]
    seconds: float
    before: tuple[list[Tensor], ...] = ()
    whole: bool = True
    action: Pressed | None = None
    plan: Plan = NO_PLAN
    eps: float | None = None
    drift: list[float] | None = None

    def seen(self, model: Model, stream: int = 0, *, backward: bool = False) -> list[Tensor]:
        """The picture of a stream after those before it that the model sees, the newest last, and of its size.

        Backward in time it sees none before: these are still to come.
        """
        before = () if backward else self.before[: model.context]
        pictures = [at[stream if stream < len(at) else 0] for at in (*reversed(before), self.pictures)]
        return [resize(picture[None], model.size)[0] for picture in pictures]


class Dream:
    """Solves one frame after the other under controls that may change before each.

    A frame's noise depends on the seed and its index alone: both streams get the same noise, and going back and on
    again gives the same frames.

    Args:
        models: the models to choose from, by name.

    Attributes:
        past: the newest frames, the one on screen last; at most PAST_FRAMES, and PAST_BYTES of pixels.
        solved: number of frames solved so far.
    """

    def __init__(self, models: Mapping[str, Served]) -> None:
        self.models = models
        self.past: deque[Moment] = deque(maxlen=PAST_FRAMES)
        self.solved = 0
        self._ids = count(1)
        self._frames: list[Tensor] = []  # (1, 3, h, w) per stream, the frame on screen before rounding to pixels
        self._streams: list[tuple[Iterator[Shown], torch.Generator]] = []
        self._settings: tuple | None = None  # what the streams were started with; None: they cannot continue
        self._auto: AutoEps | None = None  # chooses the noise level of the first stream
        self._start_time = 0.0  # the time at which they were started
        self._pressed: Pressed | None = None  # the action to take before the next frame
        self._taken: Pressed | None = None  # the action that the first stream asked for last
        self._unwanted: Callable[[], bool] = lambda: False

    @property
    def now(self) -> Moment:
        """The frame on screen; there is one after `begin`."""
        return self.past[-1]

    def begin(self, pictures: UInt8[Tensor, "j 3 h w"], controls: Controls) -> Moment:
        """Start again from a uint8 picture and those before it, the newest last, resized to what the model takes."""
        *past, first = resize(pictures, self.models[controls.model].size)
        streams = 2 if controls.two_up else 1
        return self._jump(0, 0.0, [first] * streams, self._newest([[picture] for picture in reversed(past)]))

    def go_back(self, id: int) -> Moment:
        """Continue from a past frame. Raises UserError if it is no longer kept."""
        past = next((moment for moment in self.past if moment.id == id), None)
        if past is None:
            raise UserError("That frame is no longer kept.")
        return self._jump(past.index, past.time, past.pictures, past.before, past.plan)

    def settle(self) -> Moment:
        """Continue from the frame on screen as going back to it would: from its pictures, in 256 levels."""
        self._frames = [to_float(picture[None]) for picture in self.now.pictures]
        self._settings = self._auto = None
        return self.now

    def advance(
        self, controls: Controls, *, action: Pressed | None = None, unwanted: Callable[[], bool] = lambda: False
    ) -> Moment:
        """Solve the next frame, after this action. `unwanted` is asked before every network evaluation.

        Without one, moments of the clips steer, forward in time and where the first model has some. A model takes what
        it has columns for. With frames in between, an action acts on the next whole frame.

        Raises:
            Stale: `unwanted` returned True. As after any error, the frame on screen stays, to be continued from.
            UserError: the frame could not be solved.
        """
        action, plan = self._autopilot(controls) if action is None else (action, NO_PLAN)
        self._unwanted, self._pressed = unwanted, action
        try:
            shown = self._solve(controls)
            pictures = [frame.pixels[0] for frame in shown]
            drift = self._drift(controls, pictures) if self.now.index % EVERY == 0 else None
        except Exception:
            self._settings = None  # a stream that raised has ended
            raise
        self.solved += 1
        self._frames = [frame.x for frame in shown]
        time, seconds = self._start_time + shown[0].time, sum(frame.seconds for frame in shown)
        moment = Moment(next(self._ids), self.now.index + 1, time, pictures, [frame.nfe[0] for frame in shown], seconds)
        whole, before = shown[0].time.is_integer(), self._before(controls.direction == "backward")
        known = {"before": before, "whole": whole, "action": self._taken, "plan": plan, "drift": drift}
        return self._keep(replace(moment, eps=shown[0].eps[0] if shown[0].eps else None, **known))

    def clear(self) -> None:
        """Free the memory of all frames."""
        self.past.clear()
        self._frames, self._streams, self._settings = [], [], None

    def _before(self, backward: bool) -> tuple[list[Tensor], ...]:
        """The whole frames before the next one; backward in time that is one fewer."""
        if not self.now.whole:
            return self.now.before
        return self.now.before[1:] if backward else self._newest([self.now.pictures, *self.now.before])

    def _newest(self, before: Sequence[list[Tensor]]) -> tuple[list[Tensor], ...]:
        """As many of them as the models see."""
        return tuple(before[: max(served.model.context for served in self.models.values())])

    def _solve(self, controls: Controls) -> list[Shown]:
        if self._settings != stream_settings(controls):
            self._start(controls)
        seed = frame_seed(controls.seed, self.now.index)
        shown = []
        for frames, generator in self._streams:
            generator.manual_seed(seed)
            shown.append(next(frames))
        return shown

    def _start(self, controls: Controls) -> None:
        """New streams from the frame on screen; a second stream begins where the first one is."""
        chosen = [(controls.model, controls.eps), (controls.model_b, controls.eps_b)][: 2 if controls.two_up else 1]
        self._streams, self._start_time, self._taken = [], self.now.time, None
        self.past[-1] = replace(self.now, whole=True)
        for place, (name, eps) in enumerate(chosen):
            model, generator = self.models[name].model, torch.Generator()
            first = self._first(model, place if place < len(self._frames) else 0, controls.direction == "backward")
            frames = stream(
                replace(model, network=self._while_wanted(model.network)),
                first.to(model.device),
                actions=self._actions(model.actions, leads=not place) if model.actions else None,
                generators=[generator],
                eps=self._chooser(name, first[:, -1]) if controls.auto and not place else eps,
                direction=controls.direction,
                solver=controls.full_solver,
                in_between=controls.in_between,
            )
            self._streams.append((drain(frames, start=self.now.index + 1), generator))
        self._settings = stream_settings(controls)

    def _chooser(self, name: str, frame: Tensor) -> AutoEps:
        """What chooses the noise level of the first stream. It goes on until there is another picture or model."""
        served = self.models[name]
        if self._auto is None or self._auto.model is not served.model:
            self._auto = AutoEps(served.model, 1, served.real_drift(frame))
        return self._auto

    def _first(self, model: Model, place: int, backward: bool) -> Float[Tensor, "1 j 3 h w"]:
        """The frame on screen of the stream at `place`, after those before it; not rounded if it has the right size."""
        *past, now = [to_float(picture[None]) for picture in self.now.seen(model, place, backward=backward)]
        if self._frames[place].shape == now.shape:
            now = self._frames[place]
        return torch.stack([*(picture.to(now.device) for picture in past), now], dim=1)

    def _drift(self, controls: Controls, pictures: list[Tensor]) -> list[float] | None:
        """The drift of these pictures, over that of real frames; None if a model of theirs does not tell."""
        names = [controls.model, controls.model_b][: len(pictures)]
        found = [self.models[name].drift(picture) for name, picture in zip(names, pictures, strict=True)]
        return [one for one in found if one is not None] if None not in found else None

    def _autopilot(self, controls: Controls) -> tuple[Pressed | None, Plan]:
        """What the autopilot does after the frame on screen, and then."""
        served = self.models[controls.model]
        if not (served.moments and served.model.actions) or controls.direction == "backward":
            return None, NO_PLAN
        if not self.now.whole:  # no action begins here
            return self.now.action, self.now.plan
        row, plan = served.moments.after(self.now.pictures[0], self.now.plan)
        return held(served.model.actions, row), plan

    def _actions(self, actions: Actions, *, leads: bool) -> Iterator[Float[np.ndarray, " k"] | None]:
        """The actions of a stream, each as it is when the stream asks for it."""
        while True:
            pressed = self._pressed
            if leads:
                self._taken = pressed
            yield None if pressed is None else row(actions, pressed)

    def _while_wanted(self, network: Network) -> Network:
        def evaluate(query: Any) -> Fields:
            if self._unwanted():
                raise Stale
            return network(query)

        return evaluate

    def _jump(
        self,
        index: int,
        time: float,
        pictures: list[Tensor],
        before: tuple[list[Tensor], ...],
        plan: Plan = NO_PLAN,
    ) -> Moment:
        """Show these pictures, and continue from them."""
        self._keep(Moment(next(self._ids), index, time, pictures, [0] * len(pictures), 0.0, before, plan=plan))
        return self.settle()

    def _keep(self, moment: Moment) -> Moment:
        room = PAST_BYTES // sum(picture.numel() for picture in moment.pictures)
        while len(self.past) >= max(1, room):
            self.past.popleft()
        self.past.append(moment)
        return moment


def stream_settings(controls: Controls) -> tuple:
    """The controls that a running stream cannot change: other values need a new stream."""
    c = controls
    second = (c.model_b, c.eps_b) if c.two_up else None
    return c.model, "auto" if c.auto else c.eps, second, c.direction, c.solver, c.steps, c.rtol, c.in_between
