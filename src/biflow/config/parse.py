"""From a dictionary (YAML, JSON or command-line words) to a dataclass of settings, strictly."""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from biflow.errors import UserError

T = TypeVar("T")
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "array": "a list",
    "object": "a group of settings",
    "null": "null",
}


def parse(cls: type[T], content: Mapping[str, Any], where: str = "") -> T:
    """An instance of the dataclass `cls` from `content`; numbers and booleans may be written as text.

    `where` names the source of the settings, for messages.

    Raises:
        UserError: an unknown key (names the nearest known one), a value of another type, or what `cls` itself refuses.
    """
    prefix = f"{where}: " if where else ""
    known = list(keys(cls))
    for key in _flat(content):
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
            raise UserError(f"{prefix}There is no setting {key}. The nearest known one is {near}.")
    try:
        return msgspec.convert(content, cls, strict=False, dec_hook=lambda kind, value: kind(value))
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, UserError):
            raise UserError(f"{prefix}{error.__cause__}", setting=error.__cause__.setting) from error
        raise UserError(prefix + _sentence(cls, content, str(error))) from error


def keys(cls: type) -> Iterator[str]:
    """The settings of a dataclass by name, those of a nested one with a dot: "network", "network.channels", ..."""
    hints = get_type_hints(cls)
    for field in fields(cls):
        yield field.name
        if is_dataclass(hints[field.name]):
            yield from (f"{field.name}.{key}" for key in keys(hints[field.name]))


def _flat(content: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in content.items():
        yield f"{path}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")


def _sentence(cls: type, content: Any, message: str) -> str:
    """What msgspec says, in words for people: "steps must be a whole number, not 'many'."."""
    what, _, path = message.partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    if missing := re.search(r"missing required field `(\w+)`", what):
        return f"{f'{path}.' if path else ''}{missing[1]} is missing."
    value, kind = content, cls
    for key in re.findall(r"\w+", path):
        kind = get_type_hints(kind)[key] if is_dataclass(kind) else Any
        value = value[int(key) if isinstance(value, list | tuple) else key]
    if what.startswith("Invalid enum value"):
        options = [option for part in (kind, *get_args(kind)) for option in get_args(part) if isinstance(option, str)]
        expected = f"one of {', '.join(options or map(str, get_args(kind)))}"
    elif found := re.match(r"Expected `(.+?)`", what):
        expected = " or ".join(TYPES.get(part, part) for part in found[1].split(" | "))
    else:
        return f"{path}: {what}."
    return f"{path or 'The content'} must be {expected}, not {value!r}."
