"""Clips that a training run gets as they are: it prepares them in its own folder, and again when they change."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from biflow.config import Prepare
from biflow.data.names import hidden
from biflow.data.prepare import prepare
from biflow.data.windows import is_prepared
from biflow.documents import read_document
from biflow.errors import UserError
from biflow.files import replacing, write_json
from biflow.schemas import MadeFrom

RECORD = "made_from.json"


def prepare_in(out: Path, source: Path, size: int, admit: Callable[[Path], object]) -> None:
    """Let `out/data` hold what `prepare` makes of `source`; what it holds already is used if it was made of the same.

    Before it replaces anything, `admit` gets the folder of the new set, and may refuse it by an exception.
    """
    target = out / "data"
    if not source.exists() and is_prepared(target):
        raise UserError(f"{source} does not exist. What was prepared from it before is in {target}.", setting="data")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        what = f"{out} lies in the folder of the clips, {source}, where its previews would be read as clips"
        raise UserError(f"{what}. Give a folder outside.", setting="out")
    settings = Prepare(source, target, size=size)
    record = _record(settings)
    if not is_prepared(target):
        if target.exists() and any(target.iterdir()):
            raise UserError(f"{target} exists and is not a prepared set. Choose another folder for the run.")
        tqdm.write(f"{source} is not prepared; preparing it at {size}x{size} in {target}.")
    else:
        before = _read_record(target / RECORD) if (target / RECORD).exists() else {}
        if before == record:
            return
        changes = {"source": "of another source", "settings": "with other settings", "files": "of other files"}
        changed = (text for key, text in changes.items() if before.get(key) != record[key])
        change = next(changed) if before else "by an older version"
        tqdm.write(f"{target} was prepared {change}; preparing {source} at {size}x{size} in its place.")
    with replacing(target) as partial:
        prepare(Prepare(source, partial, size=size), earlier=target)
        write_json(partial / RECORD, record)
        admit(partial)


def _read_record(path: Path) -> MadeFrom:
    return read_document(path, MadeFrom, "does not describe a source", f"Remove {path.parent} to prepare it anew.")


def name_of(data: Path) -> str:
    """What a prepared set is called: its folder, or what it was prepared from if that happened in the run's own."""
    record = _read_record(data / RECORD) if (data / RECORD).exists() else {}
    return Path(record["source"] if "source" in record else data.resolve()).name


def _record(settings: Prepare) -> dict:
    """What a set is prepared from: the source, the settings, and a checksum of names, sizes and times of its files."""
    source, digest = settings.src, hashlib.sha256()
    files = _files(source, set())
    if not source.is_dir():
        files = (str(path) for path in (source, *map(source.with_suffix, (".csv", ".json"))) if path.exists())
    for file in files:
        try:
            status = os.stat(file)
        except OSError:
            continue  # as prepare will say
        name = os.fsencode(os.path.relpath(file, source))  # which need not be UTF-8
        digest.update(name + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    places = ("src", "dst", "force")
    how = {key: value for key, value in asdict(settings).items() if key not in places}
    record = {"source": str(source.resolve()), "settings": how, "files": digest.hexdigest()}
    return json.loads(json.dumps(record, default=str))  # as it will be read again


def _files(folder: Path | str, seen: set[str]) -> Iterator[str]:
    """All files below a folder that `prepare` may read, links followed; but nothing in folders that were `seen`."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if hidden(entry.name):
            continue
        try:
            below, readable = entry.is_dir(), entry.is_file()
        except OSError:  # a link in a circle
            continue
        if below:
            yield from _files(entry.path, seen)
        elif readable:  # not a broken link
            yield entry.path
