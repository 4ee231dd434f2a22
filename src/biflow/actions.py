"""Actions: what is done after a frame is seen and before the next, as numbers in columns with names and ranges."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from biflow.documents import checked
from biflow.errors import UserError
from biflow.schemas import NamedActions

MOST = 1_000_000  # frames of a script
STILL = "still"  # the name of the neutral action
X_COLUMNS = {"steer", "steering", "angle", "turn", "yaw", "x"}  # lower is left
Y_COLUMNS = {"throttle", "gas", "accelerate", "move", "speed", "y"}  # higher is forward
ARROWS = {"left": "left", "right": "right"}  # of named actions
ARROWS |= dict.fromkeys(("forward", "up", "gas", "accelerate"), "up")
ARROWS |= dict.fromkeys(("back", "backward", "brake", "reverse", "down"), "down")


class ActionsError(UserError):
    """Actions that do not fit their description or their clip."""


@dataclass(frozen=True)
class Actions:
    """What the columns of actions mean.

    Attributes:
        columns: their names.
        ranges: lowest and highest value of each.
        keys: named actions for people, such as "forward": values of some columns; the others are neutral. If there are
            none, each column gets two, or one if it has one direction.

    Raises:
        UserError: names, ranges or keys that do not fit together.
    """

    columns: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...]
    keys: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.columns or len(set(self.columns)) < len(self.columns):
            raise UserError(f"The columns of actions need names that differ, not {list(self.columns)}.")
        if len(self.ranges) != len(self.columns):
            raise UserError(f"There are {len(self.columns)} columns of actions, but {len(self.ranges)} ranges.")
        for name, (low, high) in zip(self.columns, self.ranges, strict=True):
            if not -np.inf < low < high < np.inf:
                raise UserError(f"The range of the action {name} is {low:g} to {high:g}; the second must be larger.")
        for key, values in self.keys.items():
            if not re.fullmatch(r"[\w-]+", key) or key == STILL:
                raise UserError(f"{key!r} cannot name an action. Use letters, digits, - and _; {STILL} is taken.")
            for name, value in values.items():
                low, high = self.ranges[self._column(name)]
                if not low <= value <= high:
                    raise UserError(f"The action {key} sets {name} to {value:g}, but its range is {low:g} to {high:g}.")
        if not self.keys:
            object.__setattr__(self, "keys", _named(self))

    @property
    def neutral(self) -> Float[np.ndarray, " k"]:
        """The action of doing nothing: 0, or what of the range is nearest to it."""
        return np.array([min(max(0.0, low), high) for low, high in self.ranges], np.float32)

    def row(self, **values: float) -> Float[np.ndarray, " k"]:
        """The action that sets these columns, and leaves the others neutral."""
        row = self.neutral
        for name, value in values.items():
            row[self._column(name)] = value
        return row

    def scaled(self, rows: Float[np.ndarray, "*n k"]) -> Float[np.ndarray, "*n k"]:
        """Rows in the unit of a network: 0 is neutral, and what lies farthest from it is -1 or 1. NaN stays."""
        low, high = np.array(self.ranges, np.float32).T
        neutral = self.neutral
        return ((rows - neutral) / np.maximum(high - neutral, neutral - low)).astype(np.float32)

    def clamped(self, rows: Float[np.ndarray, "*n k"]) -> Float[np.ndarray, "*n k"]:
        """Rows within the ranges; what is not finite becomes neutral."""
        low, high = np.array(self.ranges, np.float32).T
        return np.clip(np.where(np.isfinite(rows), rows, self.neutral), low, high).astype(np.float32)

    def check(self, rows: np.ndarray, where: str) -> Float[np.ndarray, "*n k"]:
        """The rows as float32. `where` begins the message: "actions.csv", for example.

        Raises ActionsError for another width, values that are not finite, and values out of range.
        """
        with np.errstate(over="ignore"):  # they become infinite, and so out of range
            rows = np.asarray(rows, np.float32)
        if rows.ndim == 0 or rows.shape[-1] != len(self.columns):
            width = rows.shape[-1] if rows.ndim else 1
            needed = f"{len(self.columns)}, for {self._names()}"
            raise ActionsError(f"Each action of {where} has {width} numbers, but must have {needed}.")
        low, high = np.array(self.ranges, np.float32).T
        slack = 1e-4 * (high - low)  # rounding
        bad = np.argwhere(~((rows >= low - slack) & (rows <= high + slack)))
        if len(bad):
            place, column = tuple(bad[0]), bad[0][-1]
            number = f" {place[-2]}" if len(place) > 1 else ""
            what = f"The action{number} of {where} has {self.columns[column]} {rows[place]:g}"
            why = f"but its range is {low[column]:g} to {high[column]:g}"
            raise ActionsError(f"{what}, {why if np.isfinite(rows[place]) else 'which is not a finite number'}.")
        return np.clip(rows, low, high)

    def as_json(self) -> dict[str, Any]:
        """What config.json and index.json keep."""
        return {"columns": list(self.columns), "ranges": [list(r) for r in self.ranges], "keys": self.keys}

    def _column(self, name: str) -> int:
        if name not in self.columns:
            raise UserError(f"There is no action column {name!r}; the columns are {self._names()}.")
        return self.columns.index(name)

    def _names(self) -> str:
        return ", ".join(self.columns)


def from_json(content: Any, where: str) -> Actions:
    """Actions from what `as_json` gave. Raises ActionsError, which names the file `where`."""
    try:
        found = checked(content, NamedActions, f"{where} does not describe actions", "")
        ranges = tuple((float(low), float(high)) for low, high in found["ranges"])
        keys = {key: {name: float(v) for name, v in values.items()} for key, values in found.get("keys", {}).items()}
    except UserError as error:
        raise ActionsError(str(error)) from error
    try:
        return Actions(tuple(found["columns"]), ranges, keys)
    except UserError as error:
        raise ActionsError(f"{where}: {error}") from error


def script(actions: Actions, text: str) -> Float[np.ndarray, "n k"]:
    """The rows of a script such as "forward*40 left*12 still*5".

    Each word is a named action, or several joined by +, then * and a number of frames. "turn=0.5" sets a column:
    "forward+turn=0.5*8".

    Raises:
        UserError: a word that is not understood.
    """
    rows = []
    for word in text.split():
        names, _, count = word.partition("*")
        if not (count or "1").isdecimal() or not names:
            raise UserError(f"{word!r} is not an action: write a name, * and a number of frames, as in forward*40.")
        row = actions.row(**_values(actions, names.split("+")))
        if len(count) > 9 or len(rows) + int(count or 1) > MOST:
            raise UserError(f"The actions are for more than {MOST:,} frames.")
        rows += [row] * int(count or 1)
    if not rows:
        raise UserError("The actions are empty: write a name, * and a number of frames, as in forward*40.")
    return actions.check(np.array(rows), "the script")


def _values(actions: Actions, names: list[str]) -> dict[str, float]:
    values: dict[str, float] = {}
    for name in names:
        column, equals, value = name.partition("=")
        if equals:
            try:
                values[column] = float(value)
            except ValueError as error:
                raise UserError(f"{name!r} does not set an action to a number, as turn=0.5 does.") from error
        elif name in actions.keys:
            values |= actions.keys[name]
        elif name != STILL:
            near = difflib.get_close_matches(name, actions.keys, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(f"There is no action {name!r}; there are {', '.join((*actions.keys, STILL))}.{hint}")
    return values


def _named(actions: Actions) -> dict[str, dict[str, float]]:
    """Names for the ends of each column: left and right, forward and back where its name says so."""
    keys: dict[str, dict[str, float]] = {}
    ends = {"left", "right", "forward", "back"} & {name.lower() for name in actions.columns}  # names of their own
    for column, (low, high), neutral in zip(actions.columns, actions.ranges, actions.neutral.tolist(), strict=True):
        word = re.sub(r"\W+", "_", column.lower()) or "action"
        if word in X_COLUMNS and not ends and low < neutral < high and not {"left", "right"} & keys.keys():
            keys |= {"left": {column: low}, "right": {column: high}}
        elif word in Y_COLUMNS and not ends and not {"forward", "back"} & keys.keys():
            keys |= {"forward": {column: high}} | ({"back": {column: low}} if low < neutral else {})
        elif low < neutral < high:
            while f"{word}-up" in keys:
                word += "_"
            keys |= {f"{word}-down": {column: low}, f"{word}-up": {column: high}}
        else:
            while word in keys or word == STILL:
                word += "_"
            keys |= {word: {column: high if high > neutral else low}}
    return keys


def key_of(name: str) -> str | None:
    """The arrow key that a named action is on: "up", "down", "left" or "right"; None for other actions."""
    return ARROWS.get(name)


def described(content: Mapping[str, Any] | None, where: str) -> Actions | None:
    """Actions as a file may hold them; None if it holds none."""
    return from_json(content, where) if content else None
