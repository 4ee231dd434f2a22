"""Rows of actions from a file, in the columns of a model."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from biflow.actions import Actions
from biflow.data.action_csv import read_csv
from biflow.data.actions import table
from biflow.documents import parsed_json, read_bytes
from biflow.errors import UserError

OWN, UNKNOWN = "data", "none"  # words for actions: those of the set; none that the model knows of


def is_file(text: str) -> bool:
    """Whether what is given as actions is the path of a file."""
    return Path(text).suffix.lower() in (".csv", ".json")


def read_rows(path: Path, actions: Actions) -> tuple[Float[np.ndarray, "n k"], dict]:
    """The rows of a CSV or JSON file, and what it says of the live recording that it lies beside, {} if it does not.

    There is a row for each step of the model; a recording has one for every frame in between as well. Its rows may be
    missing: NaN, where no action was known. Raises UserError.
    """
    raw = read_bytes(path)
    recording: dict = {}
    if path.suffix.lower() == ".csv":
        clips = list(read_csv(raw, str(path), keep=actions.columns))
        several = any(name is not None for name, _, _ in clips)
        rows, columns = (clips[0][1], clips[0][2]["columns"]) if clips else ([], None)
    else:
        content = parsed_json(raw, str(path))
        content = content if isinstance(content, dict) else {"actions": content}
        columns, rows, recording = content.get("columns"), content.get("actions"), content.get("recording") or {}
        several = isinstance(rows, dict)
    if several:
        what = f"{path} holds the actions of several clips, not one list"
        raise UserError(f"{what}. Prepare the clips, start from that set, and use the actions {OWN!r}.")
    if not isinstance(rows, list) or not isinstance(recording, dict):
        raise UserError(f"{path} holds no list of actions. Write a row of numbers for each frame.")
    unknown = np.array([row is None and bool(recording) for row in rows], bool)
    values = np.full((len(rows), len(actions.columns)), np.nan, np.float32)
    known = [row for row, gap in zip(rows, unknown, strict=True) if not gap]
    if known or not rows:
        found = table(str(path), known, {"columns": columns})
        order = column_order(found.columns if columns else actions.columns, actions, str(path))
        if found.rows.shape[1] == len(order):
            found.rows[:] = found.rows[:, order]
        values[~unknown] = actions.check(found.rows, str(path))
    legs = recording.get("in_between", 1)
    return values[:: legs if isinstance(legs, int) and legs > 1 else 1], recording


def column_order(columns: tuple[str, ...], actions: Actions, where: str) -> list[int]:
    """Where each column of a model's actions is among these columns. Raises UserError for other ones."""
    for name in sorted({*columns} ^ {*actions.columns}):
        what = f"{where} has {'a' if name in columns else 'no'} column {name}"
        raise UserError(f"{what}; the model's actions are {', '.join(actions.columns)}.", setting="actions")
    return [columns.index(name) for name in actions.columns]
