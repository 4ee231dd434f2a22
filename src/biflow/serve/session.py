"""One dream: a stream of frames in a thread of its own, the controls that steer it, and those who watch.

Everything public may be called from any thread. Only the worker touches the streams.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from threading import Condition, Thread
from typing import Any

import torch
from torch import Tensor

from biflow.errors import UserError
from biflow.files import device
from biflow.rollout import Frame, sample_generators, stream
from biflow.serve.controls import Controls, changed, initial
from biflow.serve.images import encode
from biflow.serve.models import Served
from biflow.serve.recording import Recorder
from biflow.serve.viewer import Viewer
from biflow.serve.wire import pack
from biflow.solvers import SolverError
from biflow.video import resize, to_float, to_uint8

log = logging.getLogger("biflow")
PAST_FRAMES, PAST_BYTES = 120, 16 * 2**20
JOBS = 16  # that wait, of a client which asks faster than frames are made


@dataclass(frozen=True)
class Past:
    """A frame that one can go back to: uint8 pictures, one a stream."""

    id: int
    index: int
    time: float
    pictures: list[Tensor]


class _Stale(Exception):
    """The frame being solved is not wanted any more: the controls have changed, or the session ends."""


class Session:
    """See above. `run` is the worker; `advance` is one turn of it, for whoever has no thread."""

    def __init__(self, name: str, models: Mapping[str, Served]):
        self.name, self.models = name, models
        self.controls = initial(models)
        self.version = 0  # of the controls
        self.viewers: list[Viewer] = []
        self.ended: str | None = None
        self.left = time.monotonic()  # when the last viewer went
        self.recorder = Recorder()
        self.past: deque[Past] = deque(maxlen=PAST_FRAMES)
        self._changed = Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._steps = 0
        self._due = 0.0
        self._shown: list[Tensor] = []  # (1, 3, h, w) each, what is on screen: one, or two side by side
        self._streams: list[tuple[Iterator[Frame], torch.Generator]] = []  # what goes on from there
        self._solving: Controls | None = None  # those of the frame being solved
        self._gave_up = self._hurry = False
        self._id = self._index = 0
        self._time = self._base = 0.0
        self._newest: bytes | None = None
        self._thread: Thread | None = None
        self._jobs.append(lambda: self._begin(self._first(0)))

    # What clients do.

    def start(self) -> "Session":
        """Begin to work in a thread."""
        self._thread = Thread(target=self.run, name=f"session {self.name}", daemon=True)
        self._thread.start()
        return self

    def join(self, viewer: Viewer) -> None:
        """Let a viewer watch, from the frame on screen."""
        with self._changed:
            self.viewers.append(viewer)
            if self._newest:
                viewer.show(self._newest)
            self._changed.notify()

    def leave(self, viewer: Viewer) -> None:
        """The viewer is gone. A session without viewers rests."""
        with self._changed:
            self.viewers.remove(viewer)
            self.left = time.monotonic()
            self._hurry |= not self.viewers

    def taken(self) -> None:
        """A viewer has taken its frame: there is room for another."""
        with self._changed:
            self._changed.notify()

    def change(self, wanted: Any) -> list[str]:
        """Set controls; returns what there is to say about values that had to be others. All viewers are told."""
        with self._changed:
            controls, told = changed(self.controls, wanted, self.models)
            if controls.fps_cap != self.controls.fps_cap:
                self._due = 0.0
            self._hurry |= self.controls.playing and not controls.playing
            self.controls = controls
            self.version += 1
            self._changed.notify()
            self._tell({"type": "controls", "version": self.version, "controls": asdict(controls)})
        return told

    def step(self) -> None:
        """Solve one frame, then pause."""
        self.change({"playing": False})

        def add() -> None:
            self._steps, self._due = min(self._steps + 1, 8), 0.0

        self._do(add)

    def restart(self, first: int) -> None:
        """Start again from one of the model's first frames. Raises UserError if there is no such."""
        picture = self._first(first)
        self._do(lambda: self._begin(picture))

    def restart_from(self, picture: Tensor) -> None:
        """Start again from a uint8 picture (3, h, w), which is resized to what the models take."""
        self._do(lambda: self._begin(picture))

    def go_back(self, frame: int) -> None:
        """Go on from the past frame of that id; it stays as it is if that one is no longer kept."""
        self._do(lambda: self._go_back(frame))

    def record(self, on: bool) -> None:
        """Begin a recording, or finish it; viewers are told its name then."""
        self._do(lambda: self._record(on), at_once=False)

    def close(self, sentence: str = "The session has ended.") -> None:
        """End it, at the next network call at the latest."""
        with self._changed:
            self.ended = self.ended or sentence
            self._changed.notify()

    def wait_closed(self) -> None:
        """Wait, for a second at most, until a closed session's thread has ended."""
        if self._thread:
            self._thread.join(timeout=1)

    # The worker.

    def run(self) -> None:
        """Solve until the end. A crash ends this session, with a sentence to those who watch."""
        try:
            while self._wait():
                self.advance()
        except Exception:
            log.exception("The session %s crashed.", self.name)
            self.close("This session has crashed and ended; the server's log says why. Reload to begin another.")
        finally:
            self.recorder.close()
            with self._changed:
                self._tell({"type": "ended", "text": self.ended})
                self.past.clear()
                self._shown, self._streams, self._newest = [], [], None

    def _wait(self) -> bool:
        """Wait until there is something to do; False at the end."""
        with self._changed:
            while self.ended is None:
                wants = (self.controls.playing or self._steps) and any(viewer.hungry for viewer in self.viewers)
                left = self._due - time.monotonic()
                if self._jobs or (wants and left <= 0):
                    return True
                self._changed.wait(left if wants else None)
        return False

    def advance(self) -> None:
        """Do what clients asked for, if they did; otherwise solve the next frame and show it."""
        self._hurry = False
        if self._jobs:
            while self._jobs:
                self._jobs.popleft()()
            return
        with self._changed:
            controls, version = self.controls, self.version
        begun, started = time.perf_counter(), time.monotonic()
        try:
            frames = self._solve(controls)
        except _Stale:
            self._solving, self._gave_up = None, True
            return
        except (SolverError, UserError) as error:
            self._solving, self._steps = None, 0
            self._tell({"type": "error", "text": f"The next frame could not be solved: {error}"})
            self.change({"playing": False})
            return
        self._gave_up = False
        self._steps = max(0, self._steps - 1)
        self._shown = [frame.x for frame in frames]
        self._index += 1
        self._time = self._base + frames[0].time
        pictures = [to_uint8(frame.x[0]).cpu() for frame in frames]
        self._show(pictures, [int(frame.nfe[0]) for frame in frames], time.perf_counter() - begun, version)
        if controls.fps_cap:
            # From when it was due, so that the rate holds; but never to make up for a pause.
            self._due = max(self._due, started - 0.5 / controls.fps_cap) + 1 / controls.fps_cap

    def _solve(self, controls: Controls) -> list[Frame]:
        if self._solving is None or _streaming(controls) != _streaming(self._solving):
            self._start(controls)
        self._solving = controls
        # The noise of a frame depends on the seed and its place alone: both streams get the same, and so does whoever
        # goes back and plays on.
        seed = sample_generators(controls.seed, [self._index])[0].initial_seed()
        frames = []
        for made, generator in self._streams:
            generator.manual_seed(seed)
            frames.append(next(made))
        return frames

    def _start(self, controls: Controls) -> None:
        """New streams, from the frame on screen, under the controls as they are now."""
        chosen = [(controls.model, controls.eps), (controls.model_b, controls.eps_b)][: 2 if controls.two_up else 1]
        self._streams, self._base = [], self._time
        # A second stream begins where the first one is.
        for (name, eps), x in zip(chosen, [*self._shown, self._shown[0]], strict=False):
            served = self.models[name]
            if x.shape[-2:] != served.size:
                x = to_float(resize(to_uint8(x).cpu(), served.size)).to(device())
            (generator,) = sample_generators(controls.seed, [0])
            made = stream(
                served.model,
                x,
                generators=[generator],
                eps=eps,
                direction=controls.direction,
                solver=controls.full_solver,
                in_between=controls.in_between,
                fields=self._unless_stale(served.fields),
            )
            self._streams.append((made, generator))

    def _unless_stale(self, fields: Callable[..., Any]) -> Callable[..., Any]:
        """`fields`, until the frame being solved is one that nobody wants.

        One frame is given up for a change, not two in a row: a slider that is dragged must not stop the picture.
        """

        def evaluate(*inputs: Any, **named: Any) -> Any:
            if self.ended is not None:
                raise _Stale
            solving = self._solving
            moved = self._hurry or (solving and _streaming(solving) != _streaming(self.controls))
            if moved and not self._gave_up:
                raise _Stale
            return fields(*inputs, **named)

        return evaluate

    def _begin(self, picture: Tensor) -> None:
        """Show a first frame, of every stream."""
        self._index, self._time = 0, 0.0
        fitting = resize(picture[None], self.models[self.controls.model].size)[0]
        self._go_on([fitting] * (2 if self.controls.two_up else 1))

    def _go_back(self, frame: int) -> None:
        found = next((past for past in self.past if past.id == frame), None)
        if found is None:
            self._tell({"type": "error", "text": "That frame is no longer kept."})
            return
        self._index, self._time = found.index, found.time
        self._go_on(found.pictures)

    def _go_on(self, pictures: list[Tensor]) -> None:
        self._shown = [to_float(picture[None]).to(device()) for picture in pictures]
        self._solving, self._gave_up, self._due = None, False, 0.0
        self._show(pictures, [0] * len(pictures), 0.0, self.version)

    def _show(self, pictures: list[Tensor], nfe: list[int], seconds: float, version: int) -> None:
        """Keep a frame, and put it into every viewer's slot; it is encoded once."""
        begun = time.perf_counter()
        form = self.controls.format
        images = [encode(picture, form) for picture in pictures]
        self._id += 1
        header = {
            "id": self._id,
            "index": self._index,
            "time": round(self._time, 4),
            "nfe": nfe,
            "version": version,
            "solve_ms": round(1000 * seconds, 2),
            "encode_ms": round(1000 * (time.perf_counter() - begun), 2),
            "format": f"image/{form}",
        }
        self._tell(self.recorder.write(pictures))
        with self._changed:
            room = PAST_BYTES // sum(picture.numel() for picture in pictures)
            while len(self.past) >= max(1, room):
                self.past.popleft()
            self.past.append(Past(self._id, self._index, self._time, pictures))
            self._newest = pack(header, images)
            for viewer in self.viewers:
                viewer.show(self._newest)

    def _record(self, on: bool) -> None:
        controls, recorder = self.controls, self.recorder
        if on and not recorder.on:
            fps = self.models[controls.model].fps * controls.in_between
            self._tell(recorder.begin(min(fps, controls.fps_cap or fps)))
        elif not on:
            self._tell(recorder.finish())

    def _first(self, index: int) -> Tensor:
        first = self.models[self.controls.model].first
        if not 0 <= index < len(first):
            raise UserError(f"There is no first frame {index + 1}; this model has {len(first)}.")
        return first[index]

    def _do(self, job: Callable[[], None], *, at_once: bool = True) -> None:
        """Have the worker do it before the next frame; `at_once` gives up the frame being solved."""
        with self._changed:
            if len(self._jobs) < JOBS:
                self._jobs.append(job)
                self._hurry |= at_once
            self._changed.notify()

    def _tell(self, message: dict | None) -> None:
        if message:
            for viewer in list(self.viewers):
                viewer.tell(message)


def _streaming(controls: Controls) -> tuple:
    """The controls that a running stream cannot take up: another value needs another stream."""
    c = controls
    second = (c.model_b, c.eps_b) if c.two_up else None
    return c.model, c.eps, second, c.direction, c.solver, c.steps, c.rtol, c.in_between
