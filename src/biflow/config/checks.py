"""The check that dataclasses of settings share."""

from collections.abc import Callable
from typing import Any

from biflow.errors import UserError


def check(settings: object, must: str, fits: Callable[[Any], bool], *names: str) -> None:
    """Raise UserError for the first of these settings that does not fit. A setting that is None was left out, and fits.

    `must` ends the message "size is 0, but must be at least 1.".
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not fits(value):
            raise UserError(f"{name} is {value}, but must {must}.", setting=name)
