"""What every benchmark's result carries: date, machine, versions, commit."""

import json
import os
import platform
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from biflow.documents import read_json
from biflow.errors import UserError
from biflow.files import write_json
from biflow.machine import commit, hardware, versions

COMMIT = commit()  # of the code that runs, not of what the working tree has become when it ends
PACKAGES = ("torch", "diffusers", "openvino", "torchode", "numpy", "pillow")


def provenance() -> dict:
    """Date, commit, machine and versions of this run."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": COMMIT,
        "machine": {
            "system": platform.platform(),
            "hardware": hardware(),
            "threads": torch.get_num_threads(),
            "load": round(os.getloadavg()[0], 2),
        },
        "versions": versions(*PACKAGES),
    }


def table(rows: Iterable[Mapping[str, Any]], names: Mapping[str, str], columns: Mapping[str, str]) -> str:
    """Rows in Markdown: first what they are called, then their numbers, "-" where there is none.

    `names` and `columns` are keys of the rows with the titles of their columns.
    """
    titles = [*names.values(), *columns.values()]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        numbers = ["-" if row.get(key) is None else f"{row[key]:.3g}" for key in columns]
        lines.append(f"| {' | '.join([*(str(row[key]) for key in names), *numbers])} |")
    return "\n".join(lines)


def figures(result: Mapping[str, Any]) -> dict[str, Any]:
    """Means and intervals of an evaluation, as rows of results have them, and the slope of KVD per frame."""
    more = {name: result["past_and_actions"][name] for name in ("motion", "grid")}
    found = {name: result[name]["mean"] for name in ("nfe", "kvd", "fvd")} | {"slope": result["kvd"]["slope"]}
    found |= {name: value["over_real"] for name, value in more.items()}
    intervals = {name: result[name]["interval"] for name in ("nfe", "kvd", "fvd")}
    intervals |= {"slope": result["kvd"]["slope_interval"]}
    intervals |= {name: value["interval"] for name, value in more.items()}
    return found | {"intervals": intervals, "commit": result["protocol"]["commit"]}


def with_others(rows: list[dict], path: Path | None, keys: tuple[str, ...]) -> list[dict]:
    """`rows` after those of the file at `path`, if it is there, that differ from them in one of the `keys`.

    What the file says at its top holds for its own rows only, so these take it along.
    """
    if not (path and path.exists()):
        return rows

    def kind(row: dict) -> tuple:
        return tuple(row.get(key) for key in keys)

    content, mine = read_json(path), set(map(kind, rows))
    if not (isinstance(content, dict) and isinstance(content.get("rows"), list)):
        raise UserError(f"{path} does not hold results of a benchmark: name another file.")
    top = {key: value for key, value in content.items() if key not in ("question", "rows")}
    before = [{**top, **row} for row in content["rows"]]
    return [row for row in before if kind(row) not in mine] + rows


def write(path: Path | None, result: dict) -> None:
    """Write `result` with its provenance to `path`, if there is one."""
    if path:
        write_json(path, {**result, **provenance()})
        print(json.dumps({"written": str(path)}))
