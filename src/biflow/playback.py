"""Where `biflow sample` starts and what is done there: a script, a file or a set's own actions, or a live recording."""

import base64
import io
import logging
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from biflow.action_rows import OWN, UNKNOWN, column_order, is_file, read_rows
from biflow.actions import script
from biflow.config import Sample, parse
from biflow.config.solver import Solver
from biflow.data.starts import starts
from biflow.documents import checked
from biflow.drift import AutoEps
from biflow.errors import UserError
from biflow.files import reading
from biflow.model import Model
from biflow.moments import Moments, read_moments
from biflow.rollout import Frame, Policy, frame_seed
from biflow.schemas import Recording
from biflow.video import parse_image

log = logging.getLogger("biflow")
# Settings that a recording has itself.
FIXED = (
    "first", "samples", "seed", "eps", "context_eps", "direction", "solver", "steps", "rtol", "atol", "fps_factor"
)  # fmt: skip
USUAL = {field.name: field.default for field in fields(Sample)}
FRAMES = 512  # unless actions or the user say how many, or the method makes whole clips


class Playback(NamedTuple):
    """What to stream.

    frames: to start from, the newest last.
    rows: the actions of each sample; NaN for one that is not known. None for a model without actions.
    length: number of steps of the model.
    how: settings of the stream.
    moments: what steers, in place of rows.
    noise: seed and number of the first frame, if each frame's noise is drawn as in a live session.
    """

    frames: UInt8[Tensor, "b j 3 h w"]
    rows: Float[np.ndarray, "b n k"] | None
    length: int
    how: dict[str, Any]
    moments: Moments | None = None
    noise: tuple[int, int] | None = None

    def actions(self, part: range) -> Policy | Iterable[Any] | None:
        """The actions of these samples, for `stream`."""
        if self.rows is None:
            return self.moments and self.moments.policy()
        return iter(self.rows[part.start : part.stop].swapaxes(0, 1))


def playback(settings: Sample, model: Model) -> Playback:
    """What these settings ask for.

    Raises:
        UserError: nothing to start from, actions that the model does not take, fewer of them than frames, or settings
            that a recording has itself.
    """
    text, wanted = settings.actions, settings.frames
    how = {"eps": settings.eps, "context_eps": settings.context_eps, "direction": settings.direction}
    how |= {"solver": settings.full_solver(model.method.solver), "in_between": settings.fps_factor}
    source = settings.first or (model.folder or settings.model) / "first"
    choice = {"samples": settings.samples, "seed": settings.seed, "past": model.context}
    if text is None:
        begin = starts(source, model.size, **choice)
        length = wanted or (max(1, model.span - 1) if model.method.clips else FRAMES)
        return _unsteered(Playback(begin.frames, None, length, how), model)
    actions = model.taken_actions()
    if text == OWN:
        backward = settings.direction == "backward"
        found = starts(source, model.size, **choice, actions=wanted or FRAMES, fewer=wanted is None, backward=backward)
        assert found.actions is not None
        rows = found.actions[..., column_order(found.columns, actions, str(source))]
        return Playback(found.frames, rows, rows.shape[1], how)
    recording: dict = {}
    if text == UNKNOWN:
        rows = np.full((wanted or FRAMES, len(actions.columns)), np.nan, np.float32)
    elif is_file(text):
        rows, recording = read_rows(Path(text), actions)
    else:
        rows = script(actions, text)
    if wanted and len(rows) < wanted:
        few = f"There are {len(rows)} actions for {wanted} frames. Give more, or ask for fewer frames."
        raise UserError(few, setting="actions")
    if recording:
        found = _recorded(Path(text), recording, rows, wanted, how, model)
        _check_left_out(settings)
        return found
    frames = starts(source, model.size, **choice).frames
    rows = rows[:wanted]
    return Playback(frames, np.repeat(rows[None], len(frames), 0), len(rows), how)


def _check_left_out(settings: Sample) -> None:
    """Raise UserError for a setting that the recording has itself."""
    for name in (name for name in FIXED if getattr(settings, name) != USUAL[name]):
        what = f"{settings.actions} is the recording of a live session, which sets {name} itself: leave it out."
        raise UserError(what, setting=name)


def _unsteered(play: Playback, model: Model) -> Playback:
    """The same where no actions are given: moments of the clips steer, or the model continues by itself."""
    if model.actions is None:
        return play
    if play.how["direction"] == "forward" and (moments := read_moments(model.folder, model.actions)):
        log.info("No actions are given: each stream does what was done in the clips where they looked most like it.")
        return play._replace(moments=moments)
    log.warning("No actions are given: the model continues by itself.")
    return play._replace(rows=np.full((len(play.frames), play.length, len(model.actions.columns)), np.nan, np.float32))


def reseeded(frames: Iterator[Frame], generators: list[torch.Generator], noise: tuple[int, int]) -> Iterator[Frame]:
    """The frames of a stream with the noise of a live session, which depends on the seed and the frame's number."""
    seed, first = noise
    for index in count(first):
        for generator in generators:
            generator.manual_seed(frame_seed(seed, index))
        frame = next(frames, None)
        if frame is None:
            return
        yield frame


def _recorded(
    path: Path, content: dict, rows: Float[np.ndarray, "n k"], wanted: int | None, how: dict, model: Model
) -> Playback:
    """The same stream as in the live session that was recorded."""
    recording = checked(content, Recording, f"{path} does not describe a recording of biflow serve", "")
    if recording.get("changed"):
        log.warning("Settings were changed during the recording %s; the video will differ from then on.", path)
    if (engine := recording.get("engine", model.engine)) != model.engine:
        log.warning("The recording was made with %s, and this is %s: frames may differ slightly.", engine, model.engine)
    images = [_picture(image, path, model) for image in recording["first"]]
    how = {**how, "eps": recording["eps"], "context_eps": recording["context_eps"] if model.context else None}
    how |= {"direction": recording["direction"], "in_between": recording["in_between"]}
    how["solver"] = parse(Solver, recording["solver"], str(path))
    if recording["eps"] == "auto" and "real_drift" in recording:
        how["eps"] = AutoEps(model, 1, torch.tensor([recording["real_drift"]]))
    rows = rows[:wanted]
    noise = (recording["seed"], recording["index"])
    return Playback(torch.stack(images)[None], rows[None], len(rows), how, noise=noise)


def _picture(text: str, path: Path, model: Model) -> UInt8[Tensor, "3 h w"]:
    """A picture in base64 of a recording, as large as the model's frames."""
    with reading(path, "holds a picture that cannot be read", "The recording is damaged."):
        picture = parse_image(io.BytesIO(base64.b64decode(text)), f"A picture of the recording {path}")[0]
    if tuple(picture.shape[1:]) != model.size:
        sizes = ["x".join(map(str, size)) for size in (picture.shape[1:], model.size)]
        raise UserError(f"{path} has pictures of {sizes[0]}, but the model makes frames of {sizes[1]}.")
    return picture
