"""Who steers a session, and the action that is held."""

import math
import time
from collections.abc import Callable
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

    Args:
        tell: is given the message for all viewers when the holder or the autopilot changes.

    Attributes:
        holder: who steers; None if nobody does.
        pressed: the action that is held, {} for the neutral one; None if no action is known (autopilot).
        deadline: when the autopilot takes over, in the time of `time.monotonic`; infinity while something is pressed.
    """

    def __init__(self, tell: Callable[[dict], None]) -> None:
        self._tell = tell
        self._free()

    def rest(self) -> None:
        """Let the autopilot take over from a viewer who has pressed nothing for long."""
        if time.monotonic() >= self.deadline:
            self.let_go()

    def let_go(self) -> None:
        """Let the autopilot take over from whoever steers."""
        if self.holder:
            self._free()
            self._tell(self.message)

    def _free(self) -> None:
        self.holder: Viewer | None = None
        self.pressed: Pressed | None = None
        self.deadline = math.inf

    def act(self, viewer: Viewer, actions: Actions | None, wanted: Any) -> list[str]:
        """Hold the action that a viewer wants. Returns a sentence for every value that could not be taken as it is.

        Raises:
            UserError: the model takes no actions, or another viewer steers.
        """
        if actions is None:
            raise UserError("This model takes no actions.")
        held, notes = pressed(actions, wanted)
        self.rest()
        if self.holder not in (None, viewer):
            if not held:
                return notes  # the end of an action that was refused
            seconds = f"{PATIENCE:g} seconds"
            raise UserError(f"Another viewer steers. You can, once that viewer has pressed nothing for {seconds}.")
        taken = self.holder is None
        self.holder, self.pressed = viewer, held
        self.deadline = math.inf if held else time.monotonic() + PATIENCE
        if taken:
            self._tell(self.message)
        return notes

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


def held(actions: Actions, values: Float[np.ndarray, " k"]) -> Pressed:
    """An action in a model's columns as a viewer would hold it."""
    return {actions.columns[i]: float(values[i]) for i in np.flatnonzero(values != actions.neutral)}


def description(actions: Actions) -> dict:
    """What a page needs to know to steer: columns, ranges and named actions, and which of these are on arrow keys."""
    arrows: dict[str, str] = {}
    for name in actions.keys:
        arrow = key_of(name)
        if arrow and arrow not in arrows.values():
            arrows[name] = arrow
    return {**actions.as_json(), "neutral": actions.neutral.tolist(), "arrows": arrows}
