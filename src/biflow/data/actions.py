"""Read the actions that lie beside clips, in JSON and CSV files.

Row i is what was done after frame i of the clip was seen and before frame i + 1. So a clip of n frames has n - 1 rows;
it may also have n, of which the last is not used. `docs/own-videos.md` shows the forms of these files.
"""

import difflib
import logging
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float

from biflow.actions import Actions, ActionsError, from_json
from biflow.config.checks import RATES
from biflow.data.action_csv import read_csv
from biflow.data.archives import ARCHIVE_SUFFIXES
from biflow.data.moving import MOVING
from biflow.data.readers import READERS
from biflow.data.sources import File
from biflow.documents import parsed_json
from biflow.errors import UserError

log = logging.getLogger("biflow")
NAME = "actions"  # of a file with the actions of several clips, or of the one whose folder it is in
SHARED = ("ranges", "keys", "resample")  # what a JSON file may say of all clips of the set
OTHERS = ("columns", "fps", "note")  # what else it may hold beside "actions"
RULES = ("hold", "mean")
LARGEST = 1e30  # of numbers in these files
ANY = (-LARGEST, LARGEST)  # the range of a column before its values are known
ENDING = re.compile(f"({'|'.join(map(re.escape, (*READERS, *MOVING, *ARCHIVE_SUFFIXES)))})$", re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """The actions of one clip, as its source holds them.

    Attributes:
        where: the file, and the clip if the file holds several. For messages.
        columns: names of the columns.
        rows: an action per frame, or per pair of frames.
        settings: what the file says beside the rows.
    """

    where: str
    columns: tuple[str, ...]
    rows: Float[np.ndarray, "n k"]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def fps(self) -> float | None:
        """The frame rate of the clip, if the file states it."""
        return float(self.settings["fps"]) if "fps" in self.settings else None

    def meaning(self, ranges: Sequence[tuple[float, float]] | None = None) -> Actions:
        """The columns with the ranges and keys that the file gives. `ranges` are for a file that gives none."""
        content = {"ranges": ranges or [ANY] * len(self.columns), "keys": {}, **self.settings}
        return from_json({**content, "columns": self.columns}, self.where)


def table(where: str, rows: Any, settings: dict[str, Any] | None = None) -> Table:
    """The actions of one clip from rows of numbers. Without "columns" in `settings`, they are action_0, action_1, …

    Raises UserError for whatever is wrong in itself. The last row may be anything, since it may not be used.
    """
    settings = {key: value for key, value in (settings or {}).items() if value is not None}
    columns = settings.pop("columns", None)
    try:
        array = np.array(rows, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ActionsError(f"{where}: {_fault(rows, columns)}.") from error
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or not array.size:
        raise ActionsError(f"{where} holds no rows of actions. Write a row of numbers for each frame.")
    k = array.shape[1]
    columns = [f"action_{i}" for i in range(k)] if columns is None else columns
    if not isinstance(columns, list) or len(columns) != k or "" in columns:
        raise ActionsError(f"{where} has rows of {k} numbers, but its columns are named {columns}.")
    rules, fps = settings.get("resample", ["hold"] * k), settings.get("fps", 1)
    if not isinstance(rules, list) or len(rules) != k or not all(rule in RULES for rule in rules):
        raise ActionsError(f"{where}: resample is {rules}. Write hold or mean for each of its {k} columns.")
    if not isinstance(fps, int | float) or not RATES[0] <= fps <= RATES[1]:
        raise ActionsError(f"{where}: fps is {repr(fps)[:40]}, not a number from {RATES[0]:g} to {RATES[1]:g}.")
    found = Table(where, tuple(map(str, columns)), array, settings)
    found.meaning().check(array[:-1], where)
    return found


def _fault(rows: Any, columns: Any) -> str:
    """Why rows from a file are not an array of numbers."""
    rows = rows if isinstance(rows, list) else []
    parts = [row if isinstance(row, list) else [row] for row in rows]
    for number, row in enumerate(parts):
        if rows[number] is None:
            return f"row {number} is null, which is not a row of numbers"
        for i, cell in enumerate(row):
            name = columns[i] if isinstance(columns, list) and i < len(columns) else f"column {i}"
            if isinstance(cell, str | list | dict):
                return f"row {number} has {repr(cell)[:40]} for {name}, which is not a number"
            if isinstance(cell, int) and not -LARGEST <= cell <= LARGEST:
                return f"row {number} has an integer for {name} that is too large"
        if len(row) != len(parts[0]):
            return f"row {number} has {len(row)} numbers, but the first row has {len(parts[0])}"
    return "actions must be a list of rows of numbers"


def agree(tables: Iterable[Table]) -> None:
    """Raises UserError for tables of one set that have other columns, or give other ranges, keys or resampling."""
    first: dict[str, tuple[str, Any]] = {}
    for table in tables:
        for name, value in {"columns": list(table.columns), **table.settings}.items():
            where, other = first.setdefault(name, (table.where, value))
            if name in ("columns", *SHARED) and value != other:
                raise ActionsError(f"The {name} of {table.where} are {value}, but those of {where} are {other}.")


def find_tables(
    files: Iterable[File], clips: Iterable[PurePosixPath], unread: dict[PurePosixPath, UserError]
) -> dict[PurePosixPath, Table]:
    """The tables of those clips that have one, from the files of a source. Clips and keys are paths inside the source.

    Why files could not be read is added to `unread`.

    Raises UserError for a file that must hold actions, as its name says, and does not.
    """
    names = _Names(clips)
    tables: dict[PurePosixPath, Table] = {}
    for file in files:
        for clip, found in _tables(file, names, unread):
            if clip in tables:
                raise ActionsError(f"{tables[clip].where} and {found.where} are actions of the same clip. Remove one.")
            tables[clip] = found
    agree(tables.values())
    if found := names.misnamed:
        which = f"{found[0]} and {len(found) - 1} more" if found[1:] else found[0]
        log.warning("Not read as actions: %s. Such a file is called actions, or as its clip.", which)
    return tables


def _tables(
    file: File, names: "_Names", unread: dict[PurePosixPath, UserError]
) -> Iterator[tuple[PurePosixPath, Table]]:
    """The tables in a file and their clips. A file that has neither the name actions nor that of a clip is skipped."""
    path, suffix = file.path, file.path.suffix.lower()
    if suffix not in (".csv", ".json"):
        return
    if not (path.stem == NAME or path.with_suffix("") in names.paths):
        return names.note_misnamed(path)
    if (content := file.text(unread)) is None:
        return
    tables = list((read_csv if suffix == ".csv" else _read_json)(content, file.name))
    given = {name for name, _, _ in tables}
    for name, rows, settings in tables:
        if name is None:
            yield names.owner(path, file.name), table(file.name, rows, settings)
        elif path.stem == NAME:
            yield names.named(name, path.parent, file.name, given), table(f"{file.name}[{name}]", rows, settings)
        else:
            what = f"{file.name} has the name of a clip, but does not hold a list of its actions"
            raise ActionsError(f"{what}. Rename it if it has another purpose.")


def _read_json(text: bytes, where: str) -> Iterator[tuple[str | None, Any, dict]]:
    """Name of the clip (None for the one that the file lies beside), rows and settings."""
    content = parsed_json(text, where)
    described = isinstance(content, dict) and "actions" in content
    rows = content["actions"] if described else content
    settings = {key: value for key, value in content.items() if key != "actions"} if described else {}
    if "recording" in settings:
        what = f"{where} belongs to a recording of biflow serve, whose rows come before the frames, not after them"
        raise ActionsError(f"{what}. Play it back with biflow sample, or remove it from here.")
    for key in settings.keys() - {*SHARED, *OTHERS}:
        near = difflib.get_close_matches(key, (*SHARED, *OTHERS), n=1)
        hint = f"Did you mean {near[0]}?" if near else f"The keys are actions, {', '.join((*OTHERS, *SHARED))}."
        raise ActionsError(f"{where} has an unknown key {key!r}. {hint}")
    for name, part in rows.items() if isinstance(rows, dict) else [(None, rows)]:
        yield name, part, settings


class _Names:
    """The clips of a source by path, name and folder. Names are with and without the endings of files."""

    def __init__(self, clips: Iterable[PurePosixPath]):
        self.clips = set(clips)
        self.paths: dict[PurePosixPath, list[PurePosixPath]] = {}
        self.names: dict[str, list[PurePosixPath]] = {}
        self.folders: dict[PurePosixPath, list[PurePosixPath]] = {}
        self.misnamed: list[PurePosixPath] = []
        for clip in self.clips:
            self.folders.setdefault(clip.parent, []).append(clip)
            for name in {clip.name, ENDING.sub("", clip.name)}:
                self.paths.setdefault(clip.parent / name, []).append(clip)
                self.names.setdefault(name, []).append(clip)
        self.lower = set(map(str.lower, self.names))

    def named(self, name: str, folder: PurePosixPath, where: str, given: Container[str | None]) -> PurePosixPath:
        """The clip that a file in `folder` calls `name`: one in that folder, further down, or the folder itself.

        `given` are all the names in that file.
        """
        below = [clip for clip in self.names.get(name, []) if folder in (clip, *clip.parents)]
        found = self.paths.get(folder / name) or below
        if not found:
            near = difflib.get_close_matches(name, [known for known in self.names if known not in given], n=1)
            hint = f"Did you mean {near[0]}?" if near else "Remove them, or add the clip."
            raise ActionsError(f"{where} has actions of a clip {name}, which does not exist. {hint}")
        return _only(found, f"{where} has actions of {name}")

    def note_misnamed(self, path: PurePosixPath) -> None:
        """Note a file beside clips that has nearly the name of actions, or that of a clip."""
        stem = path.stem.lower()
        if path.parent in self.folders and (stem in self.lower or re.search(r"(?<![a-z])actions?(?![a-z])", stem)):
            self.misnamed.append(path)

    def owner(self, path: PurePosixPath, where: str) -> PurePosixPath:
        """The clip of a file that names none: the one of its own name, else its folder, else the only one in that."""
        folder = path.parent
        found = self.paths.get(path.with_suffix("")) or [folder]
        if found == [folder] and folder not in self.clips:
            found = self.folders.get(folder, [])
        if not found:
            raise ActionsError(f"{where} does not name the clips that its actions belong to. Name them in it.")
        return _only(found, f"{where} does not name the clip that its actions belong to")


def _only(clips: list[PurePosixPath], what: str) -> PurePosixPath:
    if len(clips) > 1:
        raise ActionsError(f"{what}; it may be {' or '.join(sorted(map(str, clips))[:3])}.")
    return clips[0]
