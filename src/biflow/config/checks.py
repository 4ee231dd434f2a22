"""Checks of settings, and of the places that they name, before anything slow is loaded."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any, get_args, get_type_hints

from biflow.errors import UserError, os_error
from biflow.hub import is_id

# Settings of commands that name what is read.
READ = ("src", "model", "run", "weights", "first", "data", "runs", "real", "fake", "archive", "evaluated")
MODELS = ("model", "run")  # those that may be models of the Hub
WRITTEN = ("dst", "out", "json", "onnx", "web")
SEEDS = 2**63  # what both torch and NumPy take as a seed is below this

RATES = (0.1, 480.0)  # frames per second that are believed
SIDES = (4, 4096)  # pixels of a frame that is learned
MOST_NOISE = 1000  # in values of [-1, 1]
MOST = 10**9  # of whatever is counted
LARGEST_BATCH = 2**16  # so that a slip is refused before it fills the memory, for which the system may end a process


def check(settings: object, must: str, fits: Callable[[Any], bool], *names: str, most: int = MOST) -> None:
    """Raise UserError for the first of these settings that does not fit. A setting that is None was left out, and fits.

    `must` ends the message "size is 0, but must be at least 1.". Whole numbers above `most` do not fit, nor does
    a value of a type that the setting does not have.
    """
    for name in names:
        value, kinds = getattr(settings, name), _kinds(type(settings)).get(name, ())
        if kinds and value not in kinds and _is_other(value, kinds):
            words = {(int,): "be a whole number", (float,): "be a number"}
            only = words.get(tuple(kind for kind in kinds if kind is not type(None)))
            raise UserError(f"{name} is {repr(value)[:40] if only else value}, but must {only or must}.", setting=name)
        if isinstance(value, int) and value > most:
            raise UserError(f"{name} is {str(value)[:40]}, but must be at most {most}.", setting=name)
        if value is not None and not fits(value):
            raise UserError(f"{name} is {value}, but must {must}.", setting=name)


def _is_other(value: Any, kinds: tuple[Any, ...]) -> bool:
    """Whether a value is text or has a fraction where a setting has neither."""
    if isinstance(value, str):
        return str not in kinds
    return isinstance(value, Real) and float not in kinds and not float(value).is_integer()


@cache
def _kinds(settings: type) -> dict[str, tuple[Any, ...]]:
    """The types that each setting may have, and the words that it may be."""
    hints = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(settings).items()}
    return {name: sum((get_args(kind) or (kind,) for kind in kinds), ()) for name, kinds in hints.items()}


def as_plain(settings: object) -> None:
    """Take values as Python has them: NumPy's numbers, 1e4 for a whole number, places as text or as paths.

    Raises UserError for a word that is none of those which the setting may be.
    """
    for name, kinds in _kinds(type(settings)).items():
        value = getattr(settings, name, None)
        if isinstance(value, Real) and not isinstance(value, int):
            number = float(value)
            whole = int in kinds and float not in kinds and number.is_integer()
            object.__setattr__(settings, name, int(number) if whole else number)  # the settings are frozen
        elif isinstance(value, os.PathLike) and Path not in kinds and str in kinds:
            object.__setattr__(settings, name, os.fspath(value))
        words = [kind for kind in kinds if kind is not type(None)]
        if isinstance(value, str) and words and all(isinstance(word, str) for word in words) and value not in words:
            raise UserError(f"{name} is {value!r}, but must be one of {', '.join(words)}.", setting=name)
    for name in (*READ, *WRITTEN):
        if isinstance(value := getattr(settings, name, None), str) and Path in _kinds(type(settings))[name]:
            object.__setattr__(settings, name, Path(value))


def check_sides(settings: object) -> None:
    """Raise UserError for a size that frames cannot have."""
    low, high = SIDES
    check(settings, f"be at least {low}", lambda side: low <= side, "size", most=high)


def check_seed(settings: object) -> None:
    """Raise UserError for a seed that random generators do not take."""
    check(settings, "be at least 0 and below 2^63", lambda seed: 0 <= seed < SEEDS, "seed", most=2**64)


def check_batch(settings: object) -> None:
    """Raise UserError for a `batch` or `feature_batch` that is below 1 or beyond all sense."""
    names = [name for name in ("batch", "feature_batch") if hasattr(settings, name)]
    check(settings, "be at least 1", lambda n: n >= 1, *names, most=LARGEST_BATCH)


def check_level(settings: object, *names: str) -> None:
    """Raise UserError for a noise level that is negative, beyond all sense or no number."""
    check(settings, f"be from 0 to {MOST_NOISE}", lambda level: 0 <= level <= MOST_NOISE, *names)


def check_eps(settings: object) -> None:
    """Raise UserError for an `eps` that is neither a noise level nor "auto"."""
    if getattr(settings, "eps", None) != "auto":
        check(settings, "be a number or auto", lambda level: not isinstance(level, str), "eps")
        check_level(settings, "eps")


def check_places(settings: object) -> None:
    """Raise UserError for files and folders of a command that do not exist, and for results that cannot be written."""
    for name in READ:
        value = getattr(settings, name, None) or ()
        for path in value if isinstance(value, tuple) else (value,):
            if not os.path.exists(path) and not (name in MODELS and is_id(path)):
                raise UserError(f"{path} does not exist. Check the path.", setting=name)
    for name in WRITTEN:
        if isinstance(path := getattr(settings, name, None), Path):
            check_writable(path, name, file=name == "json")


def check_no_run(out: Path) -> None:
    """Raise UserError if a model would be written over a run, whose averaged weights would be read in its place."""
    if (out / "checkpoints").is_dir():
        raise UserError(f"{out} is a run of `biflow train`. Choose another folder.", setting="out")


# What a run writes into its folder, before its first checkpoint too; a config and its output may lie there beforehand.
OF_A_RUN = ("checkpoints", "data", "first", "previews", "teacher", "tensorboard", "wandb*", "log.jsonl", "README.md")
OF_A_RUN += ("config.json", "*.safetensors", "*.yaml", "*.yml", "*.log", "*.out", "*.txt", ".*")


def check_run_folder(out: Path) -> None:
    """Raise UserError for a folder of something else, such as clips or a prepared set, which is no place for a run."""
    if not out.is_dir() or (out / "checkpoints").is_dir():
        return
    others = sorted(path.name for path in out.iterdir() if not any(map(path.match, OF_A_RUN)))
    if others:
        what = f"{out} holds other files, such as {others[0]}"
        raise UserError(f"{what}. Name a new folder for the run.", setting="out")


def check_writable(path: Path, setting: str = "out", *, file: bool = False) -> None:
    """Raise UserError if a folder, or a single file if `file`, cannot be written at `path`.

    Nothing is created to find that out, except a nameless file for a moment: missing folders stay missing.
    """
    there = None
    try:
        there, mode = _nearest(path)
        if there == path and file:
            if not stat.S_ISREG(mode):
                raise UserError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'no file'}; name a file.")
            there = path.parent
        elif not stat.S_ISDIR(mode):
            raise NotADirectoryError(errno.ENOTDIR, "")
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(str(os_error(error, path, folder=there)), setting=setting) from error
    except UserError as error:
        raise UserError(str(error), setting=setting) from error


def _nearest(path: Path) -> tuple[Path, int]:
    """The nearest of a path and its parents that exists, and its mode. Raises OSError, and UserError for a link."""
    for place in (path, *path.parents):
        try:
            return place, os.stat(place).st_mode
        except FileNotFoundError:
            if os.path.islink(place):
                raise UserError(f"{place} is a link to a place that does not exist.") from None
    raise FileNotFoundError(errno.ENOENT, "the folder you are in was removed")
