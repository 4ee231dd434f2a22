"""Checks of settings, and of the places that they name, before anything slow is loaded."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from biflow.errors import UserError, os_error

SEEDS = 2**63  # what both torch and NumPy take as a seed is below this


def check(settings: object, must: str, fits: Callable[[Any], bool], *names: str) -> None:
    """Raise UserError for the first of these settings that does not fit. A setting that is None was left out, and fits.

    `must` ends the message "size is 0, but must be at least 1.".
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not fits(value):
            raise UserError(f"{name} is {value}, but must {must}.", setting=name)


def check_seed(settings: object) -> None:
    """Raise UserError for a seed that random generators do not take."""
    check(settings, "be at least 0 and below 2^63", lambda seed: 0 <= seed < SEEDS, "seed")


def check_level(settings: object, *names: str) -> None:
    """Raise UserError for a noise level that is negative, infinite or no number."""
    check(settings, "be 0 or more", lambda level: 0 <= level < float("inf"), *names)


def check_exists(path: Path | None, setting: str, hint: str) -> None:
    """Raise UserError if a file or folder to read is missing; None was left out."""
    if path is not None and not os.path.exists(path):
        raise UserError(f"{path} does not exist. {hint}", setting=setting)


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
