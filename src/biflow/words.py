"""Texts of the command line: the help of the program, and sentences about words that are not accepted.

These are the same as for a YAML file, without the terms of programmers that cyclopts uses.
"""

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import cyclopts

from biflow.config.parsing import TYPES, close, nearest
from biflow.errors import UserError

ABOUT = """Stream new video, frame by frame, from a model of your own clips.

Run `biflow COMMAND --help` for the settings of a command, with examples."""
EXAMPLES = """
Examples:
    biflow demo
    biflow prepare my_clips datasets/mine
    biflow train --data datasets/mine --out runs/mine
    biflow sample runs/mine --first datasets/mine

To complete commands and options with the Tab key, add to ~/.bashrc or ~/.zshrc:
    eval "$(biflow completion bash)"  # or zsh
"""
SWITCH = ("yes", "y", "1", "true", "t", "no", "n", "0", "false", "f")  # what cyclopts takes for true or false


def check_words(_app: cyclopts.App, _names: tuple[str, ...], arguments: cyclopts.ArgumentCollection) -> None:
    """Raise UserError for the first word that is no value of its option. cyclopts calls it before it converts them."""
    for argument in arguments:
        for token in argument.tokens:
            if token.source != "cli" or token.implicit_value is not cyclopts.UNSET:  # a file's, or a switch alone
                continue
            name = token.keyword or _positional(argument)
            if argument.children:
                first = argument.children[0].name
                raise UserError(f"{name} is {TYPES['object']}; set one of them, such as {first}.")
            if must := _must_be(argument.hint, token.value):
                raise UserError(f"{name} {must}")


def _positional(argument: cyclopts.Argument) -> str:
    return argument.name.lstrip("-").upper()


def _must_be(kind: Any, word: str) -> str:
    """How a sentence goes on that refuses this word as a value of that type; "" if it is one."""
    options = [option for option in get_args(kind) if option is not NoneType]
    if len(options) < len(get_args(kind)):  # it may be left out
        refused = [_must_be(option, word) for option in options]
        if not all(refused) or word.lower() in ("none", "null"):
            return ""
        end = f", not {word!r}."
        first, *others = refused
        return " or ".join([first.removesuffix(end if others else ""), *(text[len("must be ") :] for text in others)])
    if kind is Path and not word:
        return "is empty, but must be a path."
    if get_origin(kind) is tuple:
        return _list_must_be(options[0], word)
    if get_origin(kind) is Literal and word not in options:
        near = difflib.get_close_matches(word.lower(), options, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"must be {'one of ' * (len(options) > 1)}{', '.join(options)}, not {word!r}.{hint}"
    if kind in (int, float, bool) and not _is_value(kind, word):
        return f"must be {TYPES[kind.__name__]}, not {word!r}."
    return ""


def _list_must_be(kind: Any, word: str) -> str:
    """The same for one of the words of a list, or for a whole list in brackets."""
    if kind is Path or word[:1] not in ("[", "{"):
        parts = ", ".join(part.strip() for part in word.split(","))
        return f'must be a list such as "[{parts}]", not {word!r}.' if "," in word else _must_be(kind, word)
    try:
        values = json.loads(word)
    except ValueError:
        values = None
    if not isinstance(values, list):
        return f'must be a list such as "[64, 64, 128]", not {word!r}.'
    words = (value if isinstance(value, str) else json.dumps(value) for value in values)
    return next(filter(None, (_must_be(kind, word) for word in words)), "")


def _is_value(kind: type, word: str) -> bool:
    if kind is bool:
        return word.lower() in SWITCH
    prefixed = word.lstrip("+-")[:2].lower() in ("0x", "0o", "0b")
    try:
        number = float(word) if kind is float or "." in word else int(word, 0 if prefixed else 10)
        return kind is float or number == int(number)
    except (ValueError, OverflowError):
        return False


def refusal(error: cyclopts.CycloptsError, commands: Iterable[str]) -> str:
    """Why cyclopts does not accept the words, in a sentence."""
    command, argument, unused = " ".join(error.command_chain or ()), error.argument, error.unused_tokens or [""]
    text, see = " ".join(str(error).split()), f"See `biflow {command} --help`."
    if isinstance(error, cyclopts.UnknownCommandError):
        word = f"{command} {unused[0]}".strip()
        return f"There is no command {word!r}. The nearest is {nearest(word, commands)!r}; `biflow --help` lists all."
    if isinstance(error, cyclopts.UnusedCliTokensError):
        several = " Put several files in a folder, and name that." if command == "prepare" else ""
        return f"{unused[0]!r} is one argument too many.{several} {see}"
    if isinstance(error, cyclopts.UnknownOptionError):
        option = (error.token.keyword or error.token.value).partition("=")[0]
        known = [name for one in error.argument_collection if one.parse and not one.children for name in one.names]
        options = [name for name in known if name.startswith("--")]
        short = [name for name in options if len(option) == 2 and name[2] == option[1]]  # -f is short for one of these
        names = {name.strip("-"): name for name in short or options}
        found = close(option.strip("-").replace("_", "-"), names, least=0.0 if short else 0.55)
        meant = "".join(f" The nearest is {names[name]}." for name in found)
        return f"There is no option {option}.{meant} {see}"
    if isinstance(error, cyclopts.CoercionError) and error.token and error.token.keyword:  # of a switch: --png=maybe
        return f"{error.token.keyword} must be {TYPES['bool']}, not {error.token.value!r}."
    if isinstance(error, cyclopts.RepeatArgumentError):
        return f"{error.token.keyword} is given twice. Give it once."
    if isinstance(error, cyclopts.MissingArgumentError) and argument:
        name = argument.name if argument.index is None else _positional(argument)
        return f"{error.keyword or name} needs a value. {text.partition('requires an argument. ')[2] or see}"
    return f"{text} {see}"
