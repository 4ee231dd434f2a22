"""The actions of a whole set: what its columns mean, and a row for each frame that the set keeps."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from biflow.actions import Actions, ActionsError
from biflow.data.actions import SHARED, Table, agree

Kept = Sequence[int] | Int[np.ndarray, " kept"]


class ActionSet:
    """Gathers the actions of clips. Ranges and resampling depend on all of them, so they are known at the end."""

    def __init__(self) -> None:
        self.tables: list[Table] = []
        self.clips: list[tuple[Table | None, Kept]] = []

    def add(self, name: str, table: Table | None, frames: int, kept: Sequence[int]) -> None:
        """Add the next clip, which has `frames` frames and of which those at the indices `kept` are kept.

        Raises ActionsError.
        """
        if table:
            if len(table.rows) not in (frames - 1, frames):
                counts = f"{name} has {frames} frames, but {table.where} has {len(table.rows)} actions"
                raise ActionsError(f"{counts}. It needs {frames}, or {frames - 1} without the last.")
            table = Table(table.where, table.columns, table.rows[: frames - 1], table.settings)
            table.meaning().check(table.rows, table.where)
            agree([*self.tables[:1], table])
            self.tables.append(table)
        self.clips.append((table, np.array(kept, np.int32) if table else range(len(kept))))

    def meaning(self) -> tuple[Actions, list[str]] | None:
        """What the columns mean and how each is resampled; None if no clip has actions. Raises UserError."""
        if not self.tables:
            return None
        first = self.tables[0]
        settings = {}
        for table in self.tables:  # a part of the set may state what holds for all of it
            settings |= {name: table.settings[name] for name in SHARED if name in table.settings}
        values = np.concatenate([table.rows for table in self.tables]).T
        keys = settings.get("keys", {}).values()
        named = [[float(key[name]) for key in keys if name in key] for name in first.columns]
        ranges = [_range(np.append(column, more)) for column, more in zip(values, named, strict=True)]
        actions = Table(first.where, first.columns, first.rows, settings).meaning(ranges)
        for table in self.tables:
            actions.check(table.rows, table.where)
        return actions, settings.get("resample") or [_rule(column) for column in values]

    def rows(self, rules: Sequence[str]) -> Float[np.ndarray, "n k"]:
        """A row for each kept frame of all clips: NaN where there is no action, as after the last frame of a clip."""
        empty = np.full((1, len(rules)), np.nan)
        parts = [
            resample(table.rows, kept, rules) if table else empty.repeat(len(kept), 0) for table, kept in self.clips
        ]
        return np.concatenate(parts).astype(np.float32)


def resample(rows: Float[np.ndarray, "n k"], kept: Kept, rules: Sequence[str]) -> Float[np.ndarray, "frames k"]:
    """The actions from each kept frame to the next kept one. After the last there is none, so its row is NaN.

    Args:
        rows: the action after each frame of the source; the last frame needs none.
        kept: indices of the kept frames in the source, in order. One that comes twice keeps its action, if it has one.
        rules: for each column, "hold" for the action after the kept frame, or "mean" for the mean until the next one.
    """
    first = np.minimum(np.array(kept[:-1], int), len(rows) - 1)
    end = np.minimum(np.maximum(np.array(kept[1:], int), first + 1), len(rows))
    sums = np.concatenate([np.zeros((1, rows.shape[1])), rows.cumsum(0)])
    means = (sums[end] - sums[first]) / (end - first)[:, None]
    between = np.where(np.array(rules) == "mean", means, rows[first])
    between[np.array(kept[:-1], int) >= len(rows)] = np.nan
    return np.concatenate([between, np.full((1, rows.shape[1]), np.nan)])


def _range(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """The range of a column for which no file gives one."""
    low, high = float(values.min()), float(values.max())
    if low >= -1 and high <= 1:
        return (0.0 if low >= 0 else -1.0), 1.0
    if low < 0 < high:
        return -max(-low, high), max(-low, high)
    return (low, high) if low < high else (min(low, 0.0), max(high, 0.0))


def _rule(values: Float[np.ndarray, " n"]) -> str:
    """Hold for buttons and for counts, whose mean would be something that nobody did."""
    return "hold" if len(np.unique(values)) <= 3 or (values == np.round(values)).all() else "mean"
