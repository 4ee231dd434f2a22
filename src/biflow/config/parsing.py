"""From a dictionary, read from YAML or JSON, to a dataclass of settings, strictly."""

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from biflow.errors import UserError

T = TypeVar("T")
PRESETS = Path(__file__).parent / "presets"
TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "path": "a path"}
TYPES |= {"array": "a list", "object": "a group of settings", "null": "null"}
MOST = 64 << 10  # bytes of a file of settings
SHORT = reprlib.Repr()  # of values in messages
SHORT.maxstring = SHORT.maxlong = SHORT.maxother = 80
SHORT.maxlist = SHORT.maxdict = 8


def parse(cls: type[T], content: object, where: str = "") -> T:
    """An instance of the dataclass `cls` from `content`, a dictionary. Numbers and booleans may be written as text.

    `where` names the source of the settings, such as a file, for messages.

    Raises:
        UserError: an unknown key (names the nearest known one), a value of another type, or what `cls` itself refuses.
            Its `setting` is the name of the setting, with dots where it is nested; it is None where `where` is given.
    """
    import msgspec  # here, since it takes longer than all that `biflow --help` needs

    known = kinds(cls)
    try:
        _check_keys(content, known)
        return msgspec.convert(content, cls, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        cause = error.__cause__
        refused = cause if isinstance(cause, UserError) else _refused(known, content, str(error))
    except UserError as error:
        refused = error
    raise UserError(f"{where}: {refused}" if where else str(refused), setting=None if where else refused.setting)


def read_yaml(path: Path) -> dict[Any, Any]:
    """The settings in a YAML file, which may be empty. Raises UserError if they are not valid YAML, or no settings."""
    import yaml

    try:
        with path.open("rb") as file:
            text = file.read(MOST + 1)
        if len(text) > MOST:
            raise UserError(f"{path} has more than {MOST >> 10} KiB, which no file of settings has.")
        content = yaml.load(text, _strict_loader()) or {}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {' '.join(problem.split()).rstrip('.')}.") from error
    except UserError:
        raise
    except (ValueError, RecursionError) as error:  # a number or a date that Python does not take
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]
        raise UserError(f"{path}: not valid YAML: {reason.rstrip('.')}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold settings, but {_written(content)}.")
    return content


def preset(name: str) -> dict[str, Any]:
    """The training settings of a preset of the package. Raises UserError for an unknown one."""
    known = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if name not in known:
        what = f"There is no preset {name!r}. The nearest is {nearest(name, known)!r}"
        raise UserError(f"{what}; the presets are {', '.join(known)}.", setting="preset")
    return read_yaml(PRESETS / f"{name}.yaml")


def _strict_loader() -> type:
    """A YAML loader like `yaml.SafeLoader` that refuses a key which stands twice in one group, and aliases.

    A few lines of aliases of aliases can stand for more than fits into memory.
    """
    import yaml

    class Strict(yaml.SafeLoader):
        def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                mark = self.peek_event().start_mark
                raise yaml.MarkedYAMLError(problem="aliases are not allowed; write the value", problem_mark=mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            seen = set()
            for key, _ in node.value:
                if isinstance(key.value, str) and key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
                seen |= {key.value} if isinstance(key.value, str) else set()
            return super().construct_mapping(node, deep)

    return Strict


def kinds(cls: type, group: str = "") -> dict[str, Any]:
    """The types of a dataclass's settings by name, those of a nested one with a dot: "network.channels"."""
    found = {}
    for field in fields(cls):  # pyright: ignore[reportArgumentType]
        found[name := f"{group}{field.name}"] = kind = field.type
        for part in get_args(kind) or (kind,):  # of "Solver | None", both
            found |= kinds(part, f"{name}.") if isinstance(part, type) and is_dataclass(part) else {}
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    """The one of the `known` words that looks most like `word`."""
    return close(word, known, least=0.0)[0]


def close(word: str, known: Iterable[str], least: float = 0.55) -> list[str]:
    """The known word that is most like `word`, in a list; [] if none is at least this similar (0 to 1)."""
    return difflib.get_close_matches(word, known, n=1, cutoff=least)


def _check_keys(content: object, known: Mapping[str, Any], group: str = "") -> None:
    if not isinstance(content, Mapping):
        raise UserError(f"The content must be {TYPES['object']}, not {_written(content)}.")
    for key, value in content.items():
        name = f"{group}{key[:80] if isinstance(key, str) else _written(key)}"
        if name in known and "." in str(key):
            group, _, rest = name.partition(".")
            raise UserError(f"{name} is a setting {rest} in the group {group}: write {{{group}: {{{rest}: …}}}}.")
        if name == "from" and "init" in known:
            raise UserError("There is no setting from: in a file, --from is init.")
        if name not in known:
            raise UserError(f"There is no setting {name}. The nearest known one is {nearest(name, known)}.")
        if isinstance(value, Mapping):
            _check_keys(value, known, f"{name}.")


def _path(kind: type, value: Any) -> Any:
    """What msgspec calls for types that it does not know; paths are the only one."""
    if kind is not Path or not isinstance(value, str | Path):
        raise TypeError("Expected `path`")
    return Path(value)


def _refused(known: Mapping[str, Any], content: Any, message: str) -> UserError:
    """What msgspec says, in words for people: "steps must be a whole number, not 'many'."."""
    setting = re.sub(r"\[\d+\]", "", _place(message))
    if missing := re.search(r"missing required field `(\w+)`", message):
        setting = f"{setting}.{missing[1]}".lstrip(".")
    choices = re.search(r"Literal\[(.+?)\]", str(known.get(setting)))
    words = ", ".join(re.findall(r"'(.+?)'", choices[1])) if choices else ""
    number = "float" in str(known.get(setting))  # as a level, which is a number or "auto"
    expected = f"{'a number or' if number else 'one of'} {words}" if words else None
    return UserError(refusal(message, content, expected), setting=setting)


def refusal(message: str, content: Any, expected: str | None = None) -> str:
    """The sentence for a message of msgspec about `content`. `expected` replaces what it says of the right value."""
    what, path = message.rpartition(" - at `$")[0] or message, _place(message)
    if missing := re.search(r"missing required field `(\w+)`", what):
        return f"{f'{path}.{missing[1]}'.lstrip('.')} is missing."
    value: Any = content
    for key in re.findall(r"\[\.\.\.\]|\w+", path):
        if key == "[...]":  # some value of a dictionary
            return f"{path} must be {expected or _expected(what)}."
        value = value[int(key) if isinstance(value, list | tuple) else key]
    return f"{path or 'The content'} must be {expected or _expected(what)}, not {_written(value)}."


def _place(message: str) -> str:
    """Where in the content the value is: "network.channels[0]", "" for the content itself."""
    return message.rpartition(" - at `$")[2].rstrip("`").lstrip(".") if " - at `$" in message else ""


def _expected(what: str) -> str:
    """The value that msgspec expects, in words: "Expected `int` >= 1" is a whole number of at least 1."""
    found = re.match(r"Expected `([^`]+)`(?: (?:(of length) )?(?:(>=|<=) )?([-+.\de]+))?", what)
    if not found:
        return "another value" if "enum" in what or "regex" in what else "a smaller number"
    words = " or ".join(TYPES.get(part, part) for part in found[1].split(" | "))
    if "matching regex" in what:
        return f"{words} of another form"
    bound = {">=": "at least ", "<=": "at most ", None: ""}[found[3]]
    number = (found[4] or "").removesuffix(".0")
    return f"{words}{' of' * bool(number)} {'length ' * bool(found[2])}{bound}{number}".rstrip()


def _written(value: object) -> str:
    """A value as YAML or JSON has it, shortened if it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return SHORT.repr(value) if isinstance(value, str | int | float | list | dict) else str(value)
