"""Actions that lie beside clips: read their files, and bring them to the frames that a prepared set keeps.

Row i of a clip is what was done after its frame i was seen and before frame i + 1. A clip of n frames has n - 1 rows,
or n of which the last is not used. `docs/own-videos.md` shows the forms of files.
"""

import csv
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float

from biflow.actions import Actions, from_json
from biflow.data.readers import ARCHIVE_SUFFIXES, READERS, File
from biflow.errors import UserError

FILE = (
    "actions"  # actions.json and actions.csv hold the actions of several clips, or of the clip whose folder they are in
)
SETTINGS = ("columns", "ranges", "keys", "resample", "fps", "note")  # of a JSON file, beside "actions"
SHARED = ("ranges", "keys", "resample")  # those that hold for the whole set
RULES = ("hold", "mean")
ENDING = re.compile("|".join(map(re.escape, (*READERS, *ARCHIVE_SUFFIXES))) + "$", re.IGNORECASE)


class ActionsError(UserError):
    """Actions that cannot be used. Unlike a damaged clip, they are never skipped."""


@dataclass(frozen=True)
class Table:
    """The actions of one clip, as its source holds them.

    Attributes:
        where: the file, for messages.
        rows: one per frame or per pair of frames.
        columns: their names.
        settings: what the file says beside rows: ranges, keys, resample, fps.
    """

    where: str
    rows: Float[np.ndarray, "n k"]
    columns: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)


def find_tables(files: Iterable[File], clips: Iterable[PurePosixPath]) -> dict[PurePosixPath, Table]:
    """The actions of clips, by the paths of these inside the source. Raises UserError for files it cannot read."""
    names = _Names(clips)
    tables: dict[PurePosixPath, Table] = {}
    for file in files:
        for clip, table in _tables(file, names):
            if clip in tables:
                places = f"{tables[clip].where} and {table.where}"
                raise ActionsError(f"The clip {clip} has actions in {places}. Remove one of them.")
            tables[clip] = table
    return tables


class _Names:
    """Clips by path and by name, with and without the endings of their files."""

    def __init__(self, clips: Iterable[PurePosixPath]):
        self.clips = set(clips)
        self.paths: dict[PurePosixPath, list[PurePosixPath]] = {}
        self.names: dict[str, list[PurePosixPath]] = {}
        for clip in self.clips:
            for name in {clip.name, ENDING.sub("", clip.name)}:
                self.paths.setdefault(clip.parent / name, []).append(clip)
                self.names.setdefault(name, []).append(clip)

    def named(self, name: str, folder: PurePosixPath, where: str) -> PurePosixPath:
        """The clip that a file in `folder` means by a name."""
        below = [clip for clip in self.names.get(name, []) if folder in clip.parents]
        found = self.paths.get(folder / name, []) or below
        if not found:
            near = difflib.get_close_matches(name, self.names, n=1)
            hint = f" Did it mean {near[0]}?" if near else ""
            raise ActionsError(f"{where} has actions of the clip {name}, but there is no such clip.{hint}")
        return _only(found, f"{where} has actions of the clip {name}")

    def owner(self, file: PurePosixPath, where: str) -> PurePosixPath:
        """The clip of a file that names none: the clip of its own name, the folder it is in, or the only one there."""
        folder = file.parent
        inside = [clip for clip in self.clips if clip.parent == folder and clip != folder]
        found = self.paths.get(file.with_suffix("")) or ([folder] if folder in self.clips else inside)
        if not found:
            raise ActionsError(f"{where} does not say of which clips it holds actions. Name them in it.")
        return _only(found, f"{where} does not say of which clip it holds actions")


def _only(clips: list[PurePosixPath], what: str) -> PurePosixPath:
    if len(clips) > 1:
        raise ActionsError(f"{what}, which may be {' or '.join(sorted(map(str, clips))[:3])}.")
    return clips[0]


def _tables(file: File, names: _Names) -> Iterator[tuple[PurePosixPath, Table]]:
    """The tables in a file and their clips; nothing if the file has another purpose."""
    path, suffix = file.path, file.path.suffix.lower()
    if suffix not in (".csv", ".json") or not (path.stem == FILE or path.with_suffix("") in names.paths):
        return
    for name, table in (_read_csv if suffix == ".csv" else _read_json)(file):
        if name is not None and path.stem != FILE:
            raise ActionsError(f"{file.name} names the clip {name}; only {FILE}{suffix} may hold several clips.")
        clip = names.owner(path, file.name) if name is None else names.named(name, path.parent, file.name)
        yield clip, table


def _text(file: File) -> str:
    with file.open() as opened:
        try:
            return opened.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ActionsError(f"{file.name} is not UTF-8 text ({error}).") from error


def _read_json(file: File) -> Iterator[tuple[str | None, Table]]:
    """The tables of a JSON file and the names of their clips; None for the clip that the file lies beside."""
    try:
        content = json.loads(_text(file))
    except ValueError as error:
        raise ActionsError(f"{file.name} is not valid JSON ({error}).") from error
    settings, actions = {}, content
    if isinstance(content, dict) and "actions" in content:
        settings, actions = {**content}, content["actions"]
        del settings["actions"]
    for name in settings.keys() - set(SETTINGS):
        near = difflib.get_close_matches(name, SETTINGS, n=1)
        hint = f" Did you mean {near[0]}?" if near else f" There are actions, {', '.join(SETTINGS)}."
        raise ActionsError(f"{file.name} has an unknown key {name!r}.{hint}")
    for name, rows in actions.items() if isinstance(actions, dict) else [(None, actions)]:
        where = f"{file.name}, clip {name}" if name else file.name
        yield name, table(rows, where, settings.get("columns"), {**settings})


def _read_csv(file: File) -> Iterator[tuple[str | None, Table]]:
    """The tables of a CSV file and the names of their clips; None for the clip that the file lies beside."""
    text = _text(file)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    lines = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(map(str.strip, row))]
    if not lines:
        raise ActionsError(f"{file.name} is empty. Write a row of numbers for each frame.")
    header = None if all(_number(cell) is not None for cell in lines[0]) else [cell.strip() for cell in lines.pop(0)]
    named = header is not None and header[0] == "clip"
    groups: dict[str | None, list[list[float]]] = {}
    for number, cells in enumerate(lines):
        name = cells.pop(0).strip() if named else None
        values = [_number(cell) for cell in cells]
        if None in values:
            column = values.index(None)
            title = header[named:][column] if header and column < len(header) - named else f"column {column}"
            raise ActionsError(f"{file.name} has {cells[column]!r} in row {number} of {title}, which is not a number.")
        groups.setdefault(name, []).append([value for value in values if value is not None])
    for name, rows in groups.items() or [(None, [])]:
        yield name, table(rows, f"{file.name}, clip {name}" if name else file.name, header and header[named:])


def _number(cell: str) -> float | None:
    try:
        return {"true": 1.0, "false": 0.0}.get(cell.strip().lower()) or float(cell)
    except ValueError:
        return 0.0 if cell.strip().lower() == "false" else None


def table(rows: Any, where: str, columns: Sequence[str] | None = None, settings: dict | None = None) -> Table:
    """The actions of one clip, checked as far as that needs no other. Raises ActionsError."""
    try:
        array = np.array(rows, np.float64)
    except (TypeError, ValueError) as error:
        raise ActionsError(f"{where}: actions are rows of numbers, each with the same number of columns.") from error
    array = array[:, None] if array.ndim == 1 and array.size else array
    if array.ndim != 2 or not array.size:
        raise ActionsError(f"{where}: actions are rows of numbers, not an array of shape {array.shape}.")
    names = tuple(map(str, columns)) if columns is not None else tuple(f"action_{i}" for i in range(array.shape[1]))
    if len(names) != array.shape[1] or not all(names):
        raise ActionsError(f"{where} has {array.shape[1]} columns, named {', '.join(map(repr, names))}.")
    found = Table(where, array, names, {k: v for k, v in (settings or {}).items() if v is not None})
    rules = found.settings.get("resample", ["hold"] * len(names))
    if len(rules) != len(names) or not set(rules) <= set(RULES):
        raise ActionsError(f"{where}: resample needs hold or mean for each of {', '.join(names)}.")
    try:
        _actions(found, [(-1.0, 1.0)] * len(names), {} if "ranges" not in found.settings else None)
    except UserError as error:
        raise ActionsError(str(error)) from error
    return found


def _actions(table: Table, ranges: Sequence, keys: dict | None = None) -> Actions:
    """The columns of a table, with its own ranges and keys where it has some."""
    content = {"ranges": ranges, "keys": {}} | {k: v for k, v in table.settings.items() if k in ("ranges", "keys")}
    content |= {"columns": table.columns} | ({"keys": keys} if keys is not None else {})
    return from_json(content, table.where)


class Gathered:
    """The actions of the clips of a set, which are described once all are known."""

    def __init__(self) -> None:
        self.clips: list[tuple[Table | None, Sequence[int]]] = []

    def add(self, name: str, table: Table | None, frames: int, kept: Sequence[int]) -> None:
        """The actions of the next clip, which has this many frames and keeps these. Raises ActionsError."""
        if table is not None:
            if len(table.rows) not in (frames, frames - 1):
                counts = f"{len(table.rows)} rows of actions, but {frames} frames"
                raise ActionsError(f"{name} has {counts}; it needs {frames - 1} or {frames} rows ({table.where}).")
            table = Table(table.where, table.rows[: frames - 1], table.columns, table.settings)
            self._check(name, table)
        self.clips.append((table, kept))

    @property
    def tables(self) -> list[Table]:
        return [table for table, _ in self.clips if table]

    def _check(self, name: str, table: Table) -> None:
        for row, column in np.argwhere(~np.isfinite(table.rows))[:1]:
            value = f"{table.columns[column]} {table.rows[row, column]:g}"
            raise ActionsError(f"The action {row} of {name} has {value}, which is not a number ({table.where}).")
        for first in self.tables[:1]:
            if first.columns != table.columns:
                both = f"{', '.join(table.columns)} and {', '.join(first.columns)}"
                raise ActionsError(f"The columns of {table.where} and {first.where} differ: {both}.")
        if "ranges" in table.settings:
            try:
                _actions(table, []).check(table.rows, f"{name} ({table.where})")
            except UserError as error:
                raise ActionsError(str(error)) from error

    def described(self) -> tuple[Actions, list[str]] | None:
        """The actions of the set, and how each column is resampled; None if no clip has any."""
        if not self.tables:
            return None
        tables = self.tables
        settings = {name: self._shared(name) for name in SHARED}
        named = (settings["keys"] or {}).values()
        values = dict(zip(tables[0].columns, np.concatenate([table.rows for table in tables]).T, strict=True))
        ranges = [_range([*column, *(key[name] for key in named if name in key)]) for name, column in values.items()]
        whole = Table(tables[0].where, tables[0].rows, tables[0].columns, {k: v for k, v in settings.items() if v})
        return _actions(whole, ranges), list(settings["resample"] or map(_rule, values.values()))

    def rows(self, rules: Sequence[str]) -> Float[np.ndarray, "n k"]:
        """A row per kept frame of each clip that was added: NaN where there is no action."""
        parts = []
        for table, kept in self.clips:
            parts.append(resample(table.rows, kept, rules) if table else np.full((len(kept), len(rules)), np.nan))
        return np.concatenate(parts).astype(np.float32)

    def _shared(self, name: str) -> Any:
        """What the files say of the set. Raises ActionsError if they say different things."""
        stating = [table for table in self.tables if name in table.settings]
        for other in stating[1:]:
            if other.settings[name] != stating[0].settings[name]:
                raise ActionsError(f"{stating[0].where} and {other.where} have different {name}.")
        return stating[0].settings[name] if stating else None


def _range(values: np.ndarray) -> tuple[float, float]:
    """Lowest and highest value of a column that says nothing of it."""
    low, high = float(min(values)), float(max(values))
    if low >= -1 and high <= 1:
        return (0.0 if low >= 0 else -1.0), 1.0
    if low < 0 < high:
        return -max(-low, high), max(-low, high)
    return (low, high) if low < high else (min(low, 0.0), max(high, 0.0))


def _rule(values: Float[np.ndarray, " n"]) -> str:
    """Hold for switches and counts, whose mean would be something in between."""
    return "hold" if len(np.unique(values)) <= 3 or (values == np.round(values)).all() else "mean"


def resample(
    rows: Float[np.ndarray, "n k"], kept: Sequence[int], rules: Sequence[str]
) -> Float[np.ndarray, "frames k"]:
    """The actions between kept frames, whose indices in the source these are, in order. The last is NaN.

    A column's rule says what becomes of the actions from a kept frame to the next: "hold" takes the first, "mean" their
    mean.
    """
    first = np.minimum(np.asarray(kept[:-1], int), len(rows) - 1)
    end = np.minimum(np.maximum(np.asarray(kept[1:], int), first + 1), len(rows))  # a frame may come twice
    sums = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0, dtype=np.float64)])
    means = (sums[end] - sums[first]) / (end - first)[:, None]
    return np.append(np.where(np.array(rules) == "mean", means, rows[first]), np.full((1, rows.shape[1]), np.nan), 0)
