"""Where `biflow sample` starts and what is done there: a script, a file or a set's own actions, or a live recording."""

import base64
import csv
import io
import json
import logging
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from biflow.actions import Actions, script
from biflow.config import Sample, parse
from biflow.config.solver import Solver
from biflow.data.actions import table
from biflow.data.starts import starts
from biflow.errors import UserError
from biflow.files import reading
from biflow.model import Model
from biflow.rollout import Frame, frame_seed
from biflow.video import parse_image

log = logging.getLogger("biflow")
FRAMES = 512  # unless actions or the user say how many
OWN, UNKNOWN = "data", "none"  # values of --actions: those of the set; none that the model knows of


class Playback(NamedTuple):
    """What to stream.

    frames: to start from, the newest last.
    rows: the actions of each sample; NaN for one that is not known. None for a model without actions, or to do nothing.
    length: number of steps of the model.
    how: settings of the stream.
    noise: seed and number of the first frame, if each frame's noise is drawn as in a live session.
    """

    frames: UInt8[Tensor, "b j 3 h w"]
    rows: Float[np.ndarray, "b n k"] | None
    length: int
    how: dict[str, Any]
    noise: tuple[int, int] | None = None

    def actions(self, part: range) -> Iterator[Any] | None:
        """The actions of these samples, for `stream`."""
        if self.rows is None:
            return None
        rows = self.rows[part.start : part.stop].swapaxes(0, 1)
        return (None if np.isnan(row).any() else row for row in rows)


def playback(settings: Sample, model: Model) -> Playback:
    """What these settings ask for.

    Raises:
        UserError: nothing to start from, actions that the model does not take, or fewer of them than frames.
    """
    text, wanted = settings.actions, settings.frames
    if text is not None and model.actions is None:
        raise UserError("This model takes no actions; it was trained on clips without them.", setting="actions")
    how = {"eps": settings.eps, "context_eps": settings.context_eps, "direction": settings.direction}
    how |= {"solver": settings.full_solver, "in_between": settings.fps_factor}
    source = settings.first or settings.model / "first"
    choice = {"samples": settings.samples, "seed": settings.seed, "past": model.context}
    if text is None or model.actions is None:
        if model.actions:
            log.warning("No actions are given: the neutral one is used throughout.")
        return Playback(starts(source, model.size, **choice).frames, None, wanted or FRAMES, how)
    if text == OWN:
        found = starts(source, model.size, **choice, actions=wanted or 1)
        if not wanted:  # as many as there are after these starts
            found = _longest(source, model, choice)
        assert found.actions is not None
        return Playback(found.frames, found.actions, found.actions.shape[1], how)
    recording: dict = {}
    if text == UNKNOWN:
        rows = np.full((wanted or FRAMES, len(model.actions.columns)), np.nan, np.float32)
    elif Path(text).suffix.lower() in (".json", ".csv"):
        rows, recording = read_rows(Path(text), model.actions)
    else:
        rows = script(model.actions, text)
    if wanted and len(rows) < wanted:
        few = f"There are {len(rows)} actions for {wanted} frames. Give more, or ask for fewer frames."
        raise UserError(few, setting="actions")
    if recording:
        return _recorded(Path(text), recording, rows, wanted, how)
    frames = starts(source, model.size, **choice).frames
    rows = rows[:wanted]
    return Playback(frames, np.repeat(rows[None], len(frames), 0), len(rows), how)


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


def _longest(source: Path, model: Model, choice: dict):
    """The starts that are followed by the most actions, at most FRAMES."""
    low, high = 1, FRAMES
    while low < high:
        middle = (low + high + 1) // 2
        try:
            starts(source, model.size, **choice, actions=middle)
            low = middle
        except UserError:
            high = middle - 1
    return starts(source, model.size, **choice, actions=low)


def read_rows(path: Path, actions: Actions) -> tuple[Float[np.ndarray, "n k"], dict]:
    """The rows of a file, NaN where one is not known, and what it says of the recording that it lies beside, if any."""
    with reading(path, "cannot be read", "Check the path."):
        text = path.read_text()
    recording: dict = {}
    if path.suffix.lower() == ".csv":
        lines = [row for row in csv.reader(text.splitlines()) if row]
        named = bool(lines) and not _is_number(lines[0][0])
        columns = [cell.strip() for cell in lines.pop(0)] if named else None
        rows = [[float(cell) if _is_number(cell) else np.nan for cell in row] for row in lines]
    else:
        try:
            content = json.loads(text)
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON ({error}).") from error
        content = content if isinstance(content, dict) else {"actions": content}
        columns, rows, recording = content.get("columns"), content.get("actions"), content.get("recording") or {}
        if isinstance(rows, dict):
            hint = "For a set's own actions, prepare it and give the set as first and `data` as actions."
            raise UserError(f"{path} holds the actions of several clips, not one list. {hint}")
    unknown = np.array([row is None for row in rows or []]) if recording else np.zeros(len(rows or []), bool)
    known = [row for row, gap in zip(rows or [], unknown, strict=True) if not gap]
    values = np.full((len(unknown), len(actions.columns)), np.nan, np.float32)
    if known or not len(unknown):
        found = table(str(path), known, {"columns": columns})
        order = _order(found.columns, actions, path) if columns else list(range(found.rows.shape[1]))
        values[~unknown] = actions.check(found.rows[:, order], str(path))
    return values, recording


def _order(columns: tuple[str, ...], actions: Actions, path: Path) -> list[int]:
    for name in {*columns} ^ {*actions.columns}:
        where = f"{path} has a column {name}" if name in columns else f"{path} has no column {name}"
        raise UserError(f"{where}; the model's actions are {', '.join(actions.columns)}.", setting="actions")
    return [columns.index(name) for name in actions.columns]


def _recorded(path: Path, recording: dict, rows: np.ndarray, wanted: int | None, how: dict) -> Playback:
    """The same stream as in the live session that was recorded."""
    if recording.get("changed"):
        log.warning("Settings were changed during the recording %s; the video will differ from then on.", path)
    try:
        images = [parse_image(io.BytesIO(base64.b64decode(image)), str(path))[0] for image in recording["first"]]
        how = {**how, **{key: recording[key] for key in ("eps", "context_eps", "direction", "in_between")}}
        how["solver"] = parse(Solver, recording["solver"], str(path))
        noise = (int(recording["seed"]), int(recording["index"]))
        legs = max(1, int(how["in_between"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not describe a recording of biflow serve ({error!r}).") from error
    rows = rows[::legs][:wanted]
    return Playback(torch.stack(images)[None], rows[None], len(rows), how, noise)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
