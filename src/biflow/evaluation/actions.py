"""The actions under which the videos of an evaluation are generated, as rows; NaN where the model is not told one."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from biflow.action_rows import OWN, UNKNOWN, is_file, read_rows
from biflow.actions import Actions, script
from biflow.data.windows import Windows
from biflow.errors import UserError
from biflow.files import reading, sha256
from biflow.model import Model

TURN = 22  # frames to each side, by default; 88 degrees in the maze
USUAL_TURN = f"left*{TURN} right*{TURN}"


def settled(actions: str | None, model: Model, test: Windows) -> str | None:
    """The `actions` of a protocol for this model and set: None for a model without actions only.

    Raises:
        UserError: actions for a model that takes none, or the actions of a set that has others.
    """
    if model.actions is None:
        if actions is not None:
            model.taken_actions()
        return None
    if actions == OWN and not same(model, test):
        theirs = ", ".join(test.actions.columns) if test.actions else "none"
        what = f"The model's actions are {', '.join(model.actions.columns)}, but {test.root} has {theirs}"
        raise UserError(f"{what}; evaluate with a script or with none.", setting="actions")
    chosen = actions or (OWN if same(model, test) else UNKNOWN)
    if chosen == OWN:
        _check_ranges(model.actions, test)
    return chosen


def _check_ranges(taken: Actions, test: Windows) -> None:
    """Raise UserError for an action of the set that is out of the model's range."""
    for clip, entry in enumerate(test.clips):
        rows = test.action_rows(clip)
        try:
            taken.check(rows[np.isfinite(rows).all(1)], f"the clip {entry['name']} of {test.root}")
        except UserError as error:
            raise UserError(f"{error} Evaluate with a script or with none.", setting="actions") from error


def same(model: Model, test: Windows) -> bool:
    """Whether a set has the actions that the model takes."""
    return model.actions is not None and test.actions is not None and model.actions.columns == test.actions.columns


def rows(
    actions: str | None, model: Model, test: Windows, places: Int[np.ndarray, "b 2"], frames: int, *, backward: bool
) -> Float[np.ndarray, "b n k"] | None:
    """What is done before each of `frames` frames of each video; None for a model without actions.

    Args:
        actions: those of a protocol, `settled`.
        places: the number of the clip and the place in it from which each video starts.
        backward: whether frames go back in time; the actions are then those that led to each frame.
    """
    if model.actions is None or actions is None:
        return None
    if actions == UNKNOWN:
        return np.full((len(places), frames, len(model.actions.columns)), np.nan, np.float32)
    if actions == OWN:
        return np.stack([own(test, clip, place, frames, backward=backward) for clip, place in places.tolist()])
    try:
        once = read_rows(Path(actions), model.actions)[0] if is_file(actions) else script(model.actions, actions)
    except UserError as error:
        raise UserError(str(error), setting="actions") from error
    return np.repeat(np.resize(once, (frames, once.shape[1]))[None], len(places), 0)


def file_record(actions: str | None) -> dict | None:
    """The name and the checksum of the file that holds the actions of a protocol; None if they are not in a file."""
    if actions is None or not is_file(actions):
        return None
    try:
        with reading(actions, "cannot be read", "Check the path."):
            return {"name": Path(actions).name, "sha256": sha256(actions)}
    except UserError as error:
        raise UserError(str(error), setting="actions") from error


def own(test: Windows, clip: int, place: int, frames: int, *, backward: bool = False) -> Float[np.ndarray, "n k"]:
    """What was done in a clip after the frame at `place`, and then in the next clips, after the last in the first.

    Backward it is what was done before that frame, the latest first, and then in the clips before. Rows that are not
    known are left out.
    """
    step, clips = (-1 if backward else 1), len(test.clips)
    rows = test.action_rows(clip)
    rows = rows[:place][::-1] if backward else rows[place:]
    known = rows[np.isfinite(rows).all(1)]
    for more in range(1, clips + 1):
        if len(known) >= frames:
            break
        part = test.action_rows((clip + step * more) % clips)[::step]
        known = np.concatenate([known, part[np.isfinite(part).all(1)]])
    if not len(known):
        raise UserError(f"No actions are known in the test split of {test.root}.", setting="actions")
    return np.resize(known, (frames, known.shape[1]))


def turn(model: Model, asked: str | None) -> Float[np.ndarray, "n k"] | None:
    """The rows of a turn away and back: those of the script, or of the actions "left" and "right" if the model has any.

    Raises:
        UserError: a script that is not understood.
    """
    if model.actions is None:
        return None
    if asked is None and not {"left", "right"} <= model.actions.keys.keys():
        return None
    try:
        return script(model.actions, asked or USUAL_TURN)
    except UserError as error:
        raise UserError(str(error), setting="turn") from error
