"""Actions from CSV files, as recorders and spreadsheets write them."""

import csv
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from biflow.actions import ActionsError

log = logging.getLogger("biflow")
COUNTERS = {"frame", "frame_id", "frame_index", "frame_number", "index", "time", "timestamp", "seconds", "ms", "t"}
COUNTERS |= {"", "unnamed: 0"}  # as pandas writes its index


def read_csv(content: bytes, where: str, keep: Sequence[str] = ()) -> Iterator[tuple[str | None, Any, dict]]:
    """The rows of each clip in a CSV file, with its name (None for a single one) and their `columns` (None if unnamed).

    Its first line may name the columns; a first column "clip" names clips. Columns that only count frames are left out,
    unless they are among `keep`. Raises ActionsError.
    """
    lines, header = _lines(content, where), None
    if lines and None in map(_number, lines[0]):
        header = [cell.strip() for cell in lines.pop(0)]
    elif _counts_columns(lines):
        numbers = ", ".join(lines.pop(0))
        log.warning("%s begins with %s, which are taken for the numbers of its columns.", where, numbers)
    named = header is not None and header[0] == "clip"
    columns = header and header[named:]
    groups: dict[str | None, list[list[float]]] = {} if named else {None: []}
    for cells in lines:
        rows = groups.setdefault(cells.pop(0).strip() if named else None, [])
        for i, cell in enumerate(cells):
            if _number(cell) is None:
                title = columns[i] if columns and i < len(columns) else f"column {i}"
                hint = " Write a decimal point." if re.fullmatch(r"\s*-?\d+,\d+\s*", cell) else ""
                what = f"{where} has {cell!r} for {title} in row {len(rows)}"
                raise ActionsError(f"{what}, which is not a number.{hint}")
        rows.append([value for value in map(_number, cells) if value is not None])
    counters = [name for name in _counters(columns, groups) if name not in keep] if columns else []
    if counters and columns:
        said = ", ".join(name or "one without a name" for name in counters)
        log.warning("%s has columns that only count frames, which are left out: %s.", where, said)
        kept = [i for i, column in enumerate(columns) if column not in counters]
        columns = [columns[i] for i in kept]
        groups = {name: [[row[i] for i in kept] for row in rows] for name, rows in groups.items()}
    for name, rows in groups.items():
        yield name, rows, {"columns": columns}


def _counts_columns(lines: list[list[str]]) -> bool:
    """Whether the first line is 0,1,… over rows of fractions: what pandas writes for columns without names."""
    first, *others = lines or [[]]
    numbers = [cell.strip() for cell in first] == list(map(str, range(len(first))))
    return numbers and len(first) > 1 and bool(others) and all("." in cell for row in others for cell in row)


def _lines(content: bytes, where: str) -> list[list[str]]:
    try:
        text = content.decode("utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        return [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(map(str.strip, row))]
    except UnicodeDecodeError as error:
        raise ActionsError(f"{where} is not UTF-8 text ({error}).") from error
    except csv.Error as error:
        raise ActionsError(f"{where} is not a table of numbers ({error}).") from error


def _counters(columns: list[str], groups: Mapping[str | None, list[list[float]]]) -> list[str]:
    """The columns with the name of a number of frames or a time that rise, as recorders write them."""
    if any(len(row) != len(columns) for rows in groups.values() for row in rows):
        return []  # `table` says what is wrong

    def rises(i: int) -> bool:
        parts = [[row[i] for row in rows] for rows in groups.values()]
        if not parts or not all(parts):  # no rows
            return False
        return all(a <= b for part in parts for a, b in pairwise(part)) and all(part[-1] > part[0] for part in parts)

    found = [column for i, column in enumerate(columns) if column.lower() in COUNTERS and rises(i)]
    return found if len(found) < len(columns) else []


def _number(cell: str) -> float | None:
    word = cell.strip().lower()
    if word in ("true", "false"):
        return float(word == "true")
    try:
        return float(word)
    except ValueError:
        return None
