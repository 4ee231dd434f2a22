"""Checks that several dataclasses of settings share. A setting that is None was left out, and passes."""

from math import isfinite

from biflow.errors import UserError


def at_least(low: int, settings: object, *names: str) -> None:
    """Raise UserError if one of these settings is below `low`, or is not a number."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value >= low:
            bound = "not be negative" if low == 0 else f"be at least {low}"
            raise UserError(f"{name} is {value}, but must {bound}.", setting=name)


def positive(settings: object, *names: str, finite: bool = False) -> None:
    """Raise UserError if one of these settings is not above zero or, where they have to be finite, is infinite."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not (value > 0 and (isfinite(value) or not finite)):
            raise UserError(f"{name} is {value}, but must be positive.", setting=name)
