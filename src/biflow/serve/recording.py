"""Recordings of what a session shows, as mp4 files, and beside them the actions that led to it, as JSON."""

import base64
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from biflow.actions import Actions
from biflow.errors import UserError
from biflow.files import write_json
from biflow.serve.controls import Controls
from biflow.serve.dream import Moment, stream_settings
from biflow.serve.images import encode
from biflow.serve.models import Served
from biflow.serve.shelf import Shelf
from biflow.serve.steering import Pressed, row
from biflow.video import VideoWriter, resize, to_float

log = logging.getLogger("biflow")
MAX_FRAMES = 6000
CLIP_SECONDS = 5.0


class Recorder:
    """Writes the frames of a session to an mp4, two streams side by side; only the last recording is kept.

    Its methods return the message for the viewers, if there is one: that it started, or under which names it ended.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._folder: Path | None = None
        self._writer: VideoWriter | None = None
        self._script: Script | None = None
        self._fps = 0.0
        self.on = False

    def begin(self, served: Served, controls: Controls, moment: Moment) -> dict:
        """Record from the next frame on, which follows `moment`; the last recording is deleted."""
        self.close()
        self.on, self._fps = True, _rate(served, controls)
        self._script = Script(served, controls, moment) if served.model.actions else None
        return {"type": "recording", "on": True}

    def write(self, moment: Moment, controls: Controls) -> dict | None:
        """Append a frame, its pictures side by side.

        Ends the recording if their size changes, the recording is too long or too large, or the disk is full.
        """
        if not self.on:
            return None
        frame = _side_by_side(moment)
        size = (frame.shape[1], frame.shape[2])
        try:
            if self._writer is None:
                self._folder = self._shelf.folder()
                path = self._folder / f"{secrets.token_urlsafe(16)}.mp4"
                self._writer = VideoWriter(path, self._fps, size, scale=_scale(moment)).__enter__()
            if reason := self._full(self._writer, size):
                return self.finish(reason)
            self._writer.write(frame)
        except (UserError, OSError) as error:
            return self._fail(error)
        if self._script:
            self._script.add(moment, controls)
        return None

    def _full(self, writer: VideoWriter, size: tuple[int, int]) -> str | None:
        """Why a frame of this size cannot be added, if that is so."""
        if writer.size != size:
            return "The recording has ended, since the size of the frames has changed."
        if writer.frames >= MAX_FRAMES:
            return f"The recording has ended: it has {MAX_FRAMES} frames, which is the most."
        if self._folder and not self._shelf.has_room(self._folder, writer.bytes):
            return "The recording has ended, since the server has no room for a larger one."
        return None

    def finish(self, reason: str | None = None) -> dict | None:
        """End the recording, for a reason that viewers are told; its name is None if it has no frames."""
        if not self.on:
            return None
        self.on = False
        writer, script = self._writer, None
        if writer is None:
            return _ended(None, 0)
        try:
            writer.__exit__(None, None, None)
            if self._script:
                script = writer.path.with_suffix(".json")
                write_json(script, {**self._script.content, "fps": self._fps}, indent=None)
        except (UserError, OSError) as error:
            return self._fail(error)
        return _ended(writer.path.name, writer.frames, script.name if script else None, reason)

    def _fail(self, error: Exception) -> dict:
        log.warning("A recording failed: %s", error)
        self.close()
        return _ended(None, 0, reason="The recording is lost: the server cannot write it. Its disk may be full.")

    def find(self, name: str) -> Path | None:
        """The file of that name of the last recording, if it is finished. It may be deleted at any moment."""
        writer = self._writer  # the worker may replace it meanwhile
        path = writer.path if writer and not self.on else None
        files = [path, path.with_suffix(".json")] if path else []
        return next((file for file in files if file.name == name and file.exists()), None)

    def close(self) -> None:
        """Delete the recording, finished or not."""
        if self._writer is not None and self.on:
            error = InterruptedError()
            self._writer.__exit__(type(error), error, None)
        if self._folder:
            self._shelf.delete(self._folder)
        self._folder, self._writer, self._script, self.on = None, None, None, False


def clip(
    moments: Sequence[Moment], served: Served, controls: Controls, shelf: Shelf, unwanted: Callable[[], bool]
) -> bytes:
    """The newest CLIP_SECONDS of these frames as an mp4: fewer if the size of the frames has changed meanwhile.

    Raises UserError if there are no frames, they cannot be encoded, or the clip has become `unwanted`.
    """
    if not moments:
        raise UserError("There are no frames yet.")
    fps = _rate(served, controls)
    shapes = [picture.shape for picture in moments[-1].pictures]
    newest = list(moments)[-max(1, round(CLIP_SECONDS * fps)) :]
    frames = list(takewhile(lambda one: [picture.shape for picture in one.pictures] == shapes, reversed(newest)))
    first = _side_by_side(frames[-1])
    folder = shelf.folder()
    try:
        path = folder / "clip.mp4"
        with VideoWriter(path, fps, (first.shape[1], first.shape[2]), scale=_scale(frames[-1])) as writer:
            for moment in reversed(frames):
                if unwanted():
                    raise UserError("The clip is no longer wanted.")
                writer.write(_side_by_side(moment))
        return path.read_bytes()
    finally:
        shelf.delete(folder)


def _rate(served: Served, controls: Controls) -> float:
    """Frames per second, as they are meant to be shown."""
    fps = served.fps * controls.in_between
    return min(fps, controls.fps_cap or fps)


def _scale(moment: Moment) -> int:
    return max(1, 512 // max(moment.pictures[0].shape))


def _side_by_side(moment: Moment) -> UInt8[Tensor, "3 h w"]:
    first, *others = moment.pictures
    others = [resize(other[None], (first.shape[1], first.shape[2]))[0] for other in others]
    return torch.cat([first, *others], dim=2)


def _ended(name: str | None, frames: int, actions: str | None = None, reason: str | None = None) -> dict:
    return {"type": "recording", "on": False, "name": name, "actions": actions, "frames": frames, "text": reason}


class Script:
    """The actions of a recording, and what it takes to stream the same frames again.

    Attributes:
        content: of the JSON file, without the frame rate.
    """

    def __init__(self, served: Served, controls: Controls, moment: Moment) -> None:
        model = served.model
        assert model.actions
        self._actions: Actions = model.actions
        self._settings = _settings(controls)
        self._rows: list[list[float] | None] = []
        self._recording: dict[str, Any] = {
            "model": served.name,
            "seed": controls.seed,
            "index": moment.index,
            **_level(served, controls, moment),
            "context_eps": model.context_eps,
            "solver": asdict(controls.full_solver),
            "in_between": controls.in_between,
            "direction": controls.direction,
            "engine": model.engine,
            "changed": controls.two_up,
            "first": [_png(picture) for picture in moment.seen(model, backward=controls.direction == "backward")],
        }
        self.content = {**model.actions.as_json(), "actions": self._rows, "recording": self._recording}

    def add(self, moment: Moment, controls: Controls) -> None:
        """Append the action of a frame, and note whether anything but the action has changed."""
        jumped = not any(moment.nfe)
        self._recording["changed"] |= jumped or _settings(controls) != self._settings
        self._rows.append(None if moment.action is None else self._row(moment.action))

    def _row(self, pressed: Pressed) -> list[float]:
        return [round(value, 6) for value in row(self._actions, pressed).tolist()]


def _level(served: Served, controls: Controls, moment: Moment) -> dict[str, Any]:
    """The noise level, or with "auto" the drift of real frames by which it is chosen."""
    if not controls.auto:
        return {"eps": controls.eps}
    frame = to_float(moment.seen(served.model)[-1][None])
    return {"eps": "auto", "real_drift": served.real_drift(frame).item()}


def _settings(controls: Controls) -> tuple:
    return *stream_settings(controls), controls.seed


def _png(picture: Tensor) -> str:
    return base64.b64encode(encode(picture, "png")).decode()
