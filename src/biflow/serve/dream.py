"""The frames of a session: the streams that solve them, the one on screen, and past ones to go back to.

A `Dream` has no threads, no locks and no viewers; one thread at a time may use it. `biflow.serve.session` adds those.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

from biflow.errors import UserError
from biflow.paths import Fields, Network
from biflow.rollout import Shown, drain, sample_generators, stream
from biflow.serve.controls import Controls
from biflow.serve.models import Served
from biflow.video import resize, to_float, to_uint8

PAST_FRAMES, PAST_BYTES = 120, 16 * 2**20


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
    """

    id: int
    index: int
    time: float
    pictures: list[Tensor]
    nfe: list[int]
    seconds: float


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
        self._start_time = 0.0  # the time at which they were started
        self._unwanted: Callable[[], bool] = lambda: False

    @property
    def now(self) -> Moment:
        """The frame on screen; there is one after `begin`."""
        return self.past[-1]

    def begin(self, picture: Tensor, controls: Controls) -> Moment:
        """Start again from a uint8 picture (3, h, w), resized to what the model takes."""
        first = resize(picture[None], self.models[controls.model].size)[0]
        return self._jump(0, 0.0, [first] * (2 if controls.two_up else 1))

    def go_back(self, id: int) -> Moment:
        """Continue from a past frame. Raises UserError if it is no longer kept."""
        past = next((moment for moment in self.past if moment.id == id), None)
        if past is None:
            raise UserError("That frame is no longer kept.")
        return self._jump(past.index, past.time, past.pictures)

    def advance(self, controls: Controls, *, unwanted: Callable[[], bool] = lambda: False) -> Moment:
        """Solve the next frame. `unwanted` is asked before every network evaluation.

        Raises:
            Stale: `unwanted` returned True. As after any error, the frame on screen stays, to be continued from.
            UserError: the frame could not be solved.
        """
        self._unwanted = unwanted
        try:
            shown = self._solve(controls)
        except Exception:
            self._settings = None  # a stream that raised has ended
            raise
        self.solved += 1
        self._frames = [frame.x for frame in shown]
        pictures = [frame.pixels[0] for frame in shown]
        time, seconds = self._start_time + shown[0].time, sum(frame.seconds for frame in shown)
        return self._keep(self.now.index + 1, time, pictures, [frame.nfe[0] for frame in shown], seconds)

    def clear(self) -> None:
        """Free the memory of all frames."""
        self.past.clear()
        self._frames, self._streams, self._settings = [], [], None

    def _solve(self, controls: Controls) -> list[Shown]:
        if self._settings != stream_settings(controls):
            self._start(controls)
        seed = sample_generators(controls.seed, [self.now.index])[0].initial_seed()
        shown = []
        for frames, generator in self._streams:
            generator.manual_seed(seed)
            shown.append(next(frames))
        return shown

    def _start(self, controls: Controls) -> None:
        """New streams from the frame on screen; a second stream begins where the first one is."""
        chosen = [(controls.model, controls.eps), (controls.model_b, controls.eps_b)][: 2 if controls.two_up else 1]
        self._streams, self._start_time = [], self.now.time
        for (name, eps), x in zip(chosen, [*self._frames, self._frames[0]], strict=False):
            model = self.models[name].model
            if x.shape[-2:] != model.size:
                x = to_float(resize(to_uint8(x).cpu(), model.size))
            generator = torch.Generator()
            frames = stream(
                replace(model, network=self._while_wanted(model.network)),
                x.to(model.device),
                generators=[generator],
                eps=eps,
                direction=controls.direction,
                solver=controls.full_solver,
                in_between=controls.in_between,
            )
            self._streams.append((drain(frames, start=self.now.index + 1), generator))
        self._settings = stream_settings(controls)

    def _while_wanted(self, network: Network) -> Network:
        def evaluate(query: Any) -> Fields:
            if self._unwanted():
                raise Stale
            return network(query)

        return evaluate

    def _jump(self, index: int, time: float, pictures: list[Tensor]) -> Moment:
        """Show these pictures, and continue from them."""
        self._frames = [to_float(picture[None]) for picture in pictures]
        self._settings = None
        return self._keep(index, time, pictures, [0] * len(pictures), 0.0)

    def _keep(self, index: int, time: float, pictures: list[Tensor], nfe: list[int], seconds: float) -> Moment:
        room = PAST_BYTES // sum(picture.numel() for picture in pictures)
        while len(self.past) >= max(1, room):
            self.past.popleft()
        self.past.append(Moment(next(self._ids), index, time, pictures, nfe, seconds))
        return self.now


def stream_settings(controls: Controls) -> tuple:
    """The controls that a running stream cannot change: other values need a new stream."""
    c = controls
    second = (c.model_b, c.eps_b) if c.two_up else None
    return c.model, c.eps, second, c.direction, c.solver, c.steps, c.rtol, c.in_between
