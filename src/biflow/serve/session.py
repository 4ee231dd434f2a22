"""A session: a dream in a thread of its own, the controls that steer it, its pace, and those who watch.

Every public method may be called from any thread. Only the worker thread changes the dream.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import count
from threading import Condition, Thread
from typing import Any

import torch
from torch import Tensor

from biflow.errors import UserError
from biflow.serve.controls import Controls, changed, initial
from biflow.serve.dream import Dream, Moment, Stale, stream_settings
from biflow.serve.models import Served
from biflow.serve.recording import Recorder
from biflow.serve.shelf import Shelf
from biflow.serve.starts import Starts
from biflow.serve.steering import Pressed, Steering
from biflow.serve.viewer import Viewer
from biflow.serve.wire import framed

log = logging.getLogger("biflow")
JOBS = 16  # that may wait, if a client asks faster than frames are solved
STEPS = 8  # single frames that may wait


class Session:
    """`run` is the worker; `advance` is one turn of it, for callers without a thread."""

    def __init__(self, name: str, models: Mapping[str, Served], shelf: Shelf | None = None, address: str = "") -> None:
        self.name, self.models, self.address = name, models, address  # the address is that of who opened it
        self.controls = initial(models)
        self.version = 0  # of the controls
        self.viewers: list[Viewer] = []
        self.ended: str | None = None  # why, once it has ended
        self.left = time.monotonic()  # when the last viewer left
        self.shelf = shelf or Shelf()
        self.recorder = Recorder(self.shelf)
        self.dream = Dream(models)
        self.steering = Steering(self._tell)
        self.starts = Starts()
        self._changed = Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._steps = 0  # single frames that were asked for
        self._due = 0.0  # when the next frame may be solved
        self._hurry = False  # the frame being solved is no longer wanted, whatever the controls
        self._gave_up = False  # the last frame was not finished
        self._waiting = False  # the worker is inside `_wait`
        self._newest: bytes | None = None
        self.numbers = count(1)  # of its viewers
        self._thread: Thread | None = None
        if len(self._served.first):
            self.restart()
        else:  # something to see for clients that ask for nothing
            grey = torch.full((1, 3, *self._served.size), 128, dtype=torch.uint8)
            self._do(lambda: self._jump(self.dream.begin(grey, self.controls)))

    # For clients.

    def start(self) -> "Session":
        """Start the worker thread."""
        self._thread = Thread(target=self.run, name=f"session {self.name}", daemon=True)
        self._thread.start()
        return self

    @property
    def idle(self) -> bool:
        """Whether the worker waits with nothing to do: nothing will change until a client does something."""
        with self._changed:
            return self._waiting and not self._jobs and not self._wanted

    @property
    def unwatched(self) -> float:
        """Since when (`time.monotonic`) nobody has acknowledged the frames that are due; infinity if none are."""
        with self._changed:
            return max((viewer.silent for viewer in self.viewers), default=self.left)

    def join(self, viewer: Viewer) -> None:
        """Add a viewer, who sees the frame on screen first."""
        with self._changed:
            self.viewers.append(viewer)
            if self.steering.holder:  # viewers assume the autopilot
                viewer.tell(self.steering.message)
            if self._newest:
                viewer.show(self._newest)
            self._changed.notify()

    def leave(self, viewer: Viewer) -> None:
        """Remove a viewer. A session without viewers solves nothing."""
        with self._changed:
            self.viewers.remove(viewer)
            if viewer is self.steering.holder:
                self.steering.let_go()
            self.left = time.monotonic()
            self._hurry |= not self.viewers

    def taken(self) -> None:
        """A viewer has taken its frame, so there is room for the next."""
        with self._changed:
            self._changed.notify()

    def change(self, wanted: Any) -> list[str]:
        """Set controls and tell all viewers. Returns a sentence for every value that could not be taken as it is."""
        with self._changed:
            controls, notes = changed(self.controls, wanted, self.models)
            if controls.fps_cap != self.controls.fps_cap:
                self._due = 0.0
            self._hurry |= self.controls.playing and not controls.playing
            another = controls.model != self.controls.model
            self.controls = controls
            if another:
                self.steering.let_go()
                if self.starts.now is None and len(self._served.first):
                    self.restart()
            self.version += 1
            self._changed.notify()
            self._tell({"type": "controls", "version": self.version, "controls": asdict(controls)})
        return notes

    def act(self, viewer: Viewer, wanted: Any) -> list[str]:
        """Hold the action that a viewer wants, as `Steering.act` does."""
        with self._changed:
            notes = self.steering.act(viewer, self._served.model.actions, wanted)
            self._changed.notify()  # of the new deadline
        return notes

    def step(self) -> None:
        """Solve one frame, then pause."""
        self.change({"playing": False})

        def add() -> None:
            self._steps, self._due = min(self._steps + 1, STEPS), 0.0

        self._do(add)

    def restart(self, number: int | None = None) -> None:
        """Start again from what has this number in `Starts`, or from the same as last. Raises UserError."""
        with self._changed:
            pictures = self.starts.choose(self._served, number)
            self._tell(self.starts.news())
            self._do(lambda: self._jump(self.dream.begin(pictures, self.controls)))

    def restart_from(self, picture: Tensor) -> None:
        """Start again from a uint8 picture (3, h, w), which is resized to what the model takes."""
        with self._changed:
            self.restart(self.starts.add(picture))

    def go_back(self, frame: int) -> None:
        """Continue from the past frame with that id. If it is no longer kept, viewers are told and nothing changes."""
        self._do(lambda: self._go_back(frame))

    def record(self, on: bool) -> None:
        """Start or finish a recording; viewers are told its name when it is finished."""
        self._do(lambda: self._record(on), at_once=False)

    def recent(self) -> deque[Moment]:
        """The frames that are kept, the newest last; none once the session has ended."""
        return self.dream.past.copy()  # in one go, whatever the worker does

    def close(self, sentence: str = "The session has ended.") -> None:
        """End the session, at the latest before the next network evaluation."""
        with self._changed:
            self.ended = self.ended or sentence
            self._changed.notify()

    def wait_closed(self) -> None:
        """Wait at most one second for the thread of a closed session to end."""
        if self._thread:
            self._thread.join(timeout=1)

    # The worker.

    def run(self) -> None:
        """Solve frames until the session ends. A crash ends this session only, and viewers are told so."""
        try:
            while self._wait():
                self.advance()
        except Exception:
            log.exception("The session %s crashed.", self.name)
            self.close("This session has crashed and ended; the server's log says why. Reload to start another.")
        finally:
            self.recorder.close()
            with self._changed:
                self._tell({"type": "ended", "text": self.ended})
                self.dream.clear()
                self._newest = None

    def _wait(self) -> bool:
        """Wait until there is something to do; False once the session has ended."""
        with self._changed:
            while self.ended is None:
                self.steering.rest()
                wanted, left = self._wanted, self._due - time.monotonic()
                if self._jobs or (wanted and left <= 0):
                    return True
                self._waiting = True
                left = min(left if wanted else math.inf, self.steering.deadline - time.monotonic())
                self._changed.wait(None if left == math.inf else left)
                self._waiting = False
        return False

    @property
    def _wanted(self) -> bool:
        """Whether a frame is to be solved, and a viewer has room for it."""
        wanted = self.starts.now is not None and (self.controls.playing or self._steps)
        return bool(wanted) and any(viewer.hungry for viewer in self.viewers)

    def advance(self) -> None:
        """Do the jobs that wait, if there are any; otherwise solve the next frame and show it."""
        self._hurry = False
        if self._jobs:
            while self._jobs:
                self._jobs.popleft()()
            return
        with self._changed:
            self.steering.rest()
            controls, version, held = self.controls, self.version, self.steering.pressed
        started = time.monotonic()
        try:
            moment = self.dream.advance(controls, action=held, unwanted=lambda: self._unwanted(controls, held))
        except Stale:
            self._gave_up = True
            return
        except UserError as error:
            self._steps = 0
            self._tell({"type": "error", "text": str(error)})
            self.change({"playing": False})
            return
        self._gave_up, self._steps = False, max(0, self._steps - 1)
        self._show(moment, controls, version)
        if controls.fps_cap:
            # Counted from when it was due, so that the rate holds; but a pause is never made up for.
            self._due = max(self._due, started - 0.5 / controls.fps_cap) + 1 / controls.fps_cap

    def _unwanted(self, solving: Controls, held: Pressed | None) -> bool:
        """Whether to give up the frame that is being solved under these controls, after this action of a viewer.

        After a change one frame is given up, but not two in a row: dragging a slider must not stop the picture. A key
        is then seen after 1 interval between frames, not 1.5. A frame whose own action is new is finished, so that an
        analogue stick, which changes all the time, costs no frames.
        """
        if self.ended is not None:
            return True
        if self.recorder.on:
            return False  # a stream that starts anew takes other steps, and the recording could not be repeated
        moved = self._hurry or stream_settings(solving) != stream_settings(self.controls)
        fresh = held not in (None, self.dream.now.action) or solving.in_between > 1  # it acts with a whole frame only
        moved |= self.steering.pressed != held and not fresh
        return moved and not self._gave_up

    def _go_back(self, frame: int) -> None:
        try:
            self._jump(self.dream.go_back(frame))
        except UserError as error:
            self._tell({"type": "error", "text": str(error)})

    def _jump(self, moment: Moment) -> None:
        self._gave_up, self._due = False, 0.0
        self._show(moment, self.controls, self.version)

    def _show(self, moment: Moment, controls: Controls, version: int) -> None:
        """Encode a frame once, and put it into every viewer's slot."""
        message = framed(moment, controls.format, version)
        self._tell(self.recorder.write(moment, controls))
        with self._changed:
            self._newest = message
            for viewer in self.viewers:
                viewer.show(message)

    def _record(self, on: bool) -> None:
        if on and not self.recorder.on:
            self._tell(self.recorder.begin(self._served, self.controls, self.dream.settle()))
        elif not on:
            self._tell(self.recorder.finish())

    @property
    def _served(self) -> Served:
        return self.models[self.controls.model]

    def _do(self, job: Callable[[], None], *, at_once: bool = True) -> None:
        """Have the worker do a job before the next frame; `at_once` gives up the frame being solved."""
        with self._changed:
            if len(self._jobs) < JOBS:
                self._jobs.append(job)
                self._hurry |= at_once
            self._changed.notify()

    def _tell(self, message: dict | None) -> None:
        if message:
            for viewer in list(self.viewers):
                viewer.tell(message)
