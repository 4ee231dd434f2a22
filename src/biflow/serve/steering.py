"""Who steers a session, and the action that is held."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from biflow.actions import Actions, key_of
from biflow.errors import UserError
from biflow.serve.viewer import Viewer

PATIENCE = 10.0  # seconds without a key after which the model continues by itself
Pressed = dict[str, float]  # values of columns; the others are neutral


class Steering:
    """Controls that one viewer holds at a time: who acts first, until that viewer leaves or rests.

    Times are those of `time.monotonic`.

    Attributes:
        holder: who steers; None if nobody does.
        pressed: the action that is held, {} for the neutral one; None if no action is known (autopilot).
        deadline: when the autopilot takes over; infinity while something is pressed.
    """

    def __init__(self) -> None:
        self.free()

    def free(self) -> None:
        """Let the autopilot take over."""
        self.holder: Viewer | None = None
        self.pressed: Pressed | None = None
        self.deadline = math.inf

    def act(self, viewer: Viewer, pressed: Pressed, now: float) -> bool:
        """Hold an action; True if the viewer has taken the controls with it. Raises UserError if another has them."""
        if self.holder not in (None, viewer):
            seconds = f"{PATIENCE:g} seconds"
            raise UserError(f"Another viewer steers. You can, once that viewer has pressed nothing for {seconds}.")
        taken = self.holder is None
        self.holder, self.pressed = viewer, pressed
        self.deadline = math.inf if pressed else now + PATIENCE
        return taken

    @property
    def message(self) -> dict:
        """What viewers are told about it."""
        number = self.holder.number if self.holder else None
        return {"type": "steering", "by": number, "autopilot": self.pressed is None}


def pressed(actions: Actions, wanted: Any) -> tuple[Pressed, list[str]]:
    """The columns that a client sets to other than neutral values, and a sentence for each that is not as it wanted."""
    if not isinstance(wanted, dict):
        return {}, ["An action must be an object of columns and values."]
    values: Pressed = {}
    notes: list[str] = []
    for name, value in wanted.items():
        if name not in actions.columns:
            notes.append(f"There is no action column {name[:40]!r}; the columns are {', '.join(actions.columns)}.")
        elif isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            notes.append(f"{name} must be a number.")
        else:
            place = actions.columns.index(name)
            low, high = actions.ranges[place]
            taken = float(min(max(value, low), high))
            notes += [] if taken == value else [f"{name} goes from {low:g} to {high:g}: took {taken:g}."]
            values |= {} if taken == actions.neutral[place] else {name: taken}
    return values, notes


def row(actions: Actions, held: Pressed) -> Float[np.ndarray, " k"]:
    """The action in a model's columns; it may have been meant for another model."""
    return actions.clamped(actions.row(**{name: value for name, value in held.items() if name in actions.columns}))


def description(actions: Actions) -> dict:
    """What a page needs to know to steer: columns, ranges and named actions, and which of these are on arrow keys."""
    arrows: dict[str, str] = {}
    for name in actions.keys:
        arrow = key_of(name)
        if arrow and arrow not in arrows.values():
            arrows[name] = arrow
    return {**actions.as_json(), "neutral": actions.neutral.tolist(), "arrows": arrows}
