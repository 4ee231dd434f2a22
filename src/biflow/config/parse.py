"""From a dictionary (YAML, JSON or command-line words) to a dataclass of settings, strictly."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from biflow.errors import UserError

T = TypeVar("T")
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "path": "a path",
    "array": "a list",
    "object": "a group of settings",
    "null": "null",
}


def parse(cls: type[T], content: object, where: str = "") -> T:
    """An instance of the dataclass `cls` from `content`, a dictionary. Numbers and booleans may be written as text.

    `where` names the source of the settings, such as a file, for messages.

    Raises:
        UserError: an unknown key (names the nearest known one), a value of another type, or what `cls` itself refuses.
            Its `setting` is the name of the setting, with dots where it is nested; it is None where `where` is given.
    """
    import msgspec  # here, since it takes longer than all that `biflow --help` needs

    known = list(keys(cls))
    try:
        if not isinstance(content, Mapping):
            raise UserError(f"The content must be {TYPES['object']}, not {content!r}.")
        for key in _flat(content):
            if key not in known:
                raise UserError(f"There is no setting {key}. The nearest known one is {nearest(key, known)}.")
        return msgspec.convert(content, cls, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        cause = error.__cause__
        refused = cause if isinstance(cause, UserError) else _refused(cls, content, str(error))
    except UserError as error:
        refused = error
    raise UserError(f"{where}: {refused}" if where else str(refused), setting=None if where else refused.setting)


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file, which may be empty. Raises UserError if they are not valid YAML, or no settings."""
    import yaml

    try:
        content = yaml.safe_load(path.read_bytes()) or {}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{path}{line}: not valid YAML: {problem.rstrip('.')}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold settings, but {content!r}.")
    return content


def keys(cls: type) -> Iterator[str]:
    """The settings of a dataclass by name, those of a nested one with a dot: "network", "network.channels", ..."""
    hints = get_type_hints(cls)
    for field in fields(cls):  # pyright: ignore[reportArgumentType]
        yield field.name
        if is_dataclass(hints[field.name]):
            yield from (f"{field.name}.{key}" for key in keys(hints[field.name]))


def nearest(word: str, known: Iterable[str]) -> str:
    """The one of the `known` words that looks most like `word`."""
    return difflib.get_close_matches(word, known, n=1, cutoff=0)[0]


def _flat(content: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in content.items():
        yield f"{path}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")


def _path(kind: type, value: Any) -> Any:
    """What msgspec calls for types that it does not know; paths are the only one."""
    if kind is not Path or not isinstance(value, str | Path):
        raise TypeError("Expected `path`")
    return Path(value)


def _refused(cls: type, content: Any, message: str) -> UserError:
    """What msgspec says, in words for people: "steps must be a whole number, not 'many'."."""
    what, _, path = message.partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    if missing := re.search(r"missing required field `(\w+)`", what):
        path = f"{path}.{missing[1]}".lstrip(".")
        return UserError(f"{path} is missing.", setting=path)
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
        return UserError(f"{path}: {what}.", setting=path)
    shown = "null" if value is None else repr(value)
    return UserError(f"{path or 'The content'} must be {expected}, not {shown}.", setting=re.sub(r"\[\d+\]", "", path))
