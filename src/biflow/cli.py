"""The command line: from words to a verb of `biflow.verbs`, and from what went wrong to one sentence."""

import difflib
import errno
import inspect
import logging
import re
import sys
from pathlib import Path
from typing import NoReturn

from jsonargparse import ArgumentParser

from biflow import __version__
from biflow.config import TrainConfig
from biflow.errors import UserError
from biflow.verbs import VERBS, train


class _Parser(ArgumentParser):
    """Tells what was wrong by raising UserError, with the nearest known option."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        cause = ex
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause
            cause = cause.__cause__ or cause.__context__
        message = " ".join(message.split())
        message = re.sub(r"Group '([\w.]+)' does not accept option '(\w+)'", r"Option '\1.\2' is not accepted", message)
        unknown = re.search(r"Option '([^']+)' is not accepted|unrecognized arguments: --([\w.\-]+)", message)
        hint = ""
        if unknown:
            key = next(group for group in unknown.groups() if group)
            known = [option.lstrip("-") for action in self._actions for option in action.option_strings]
            if near := difflib.get_close_matches(key.replace("-", "_"), known, n=1, cutoff=0.4):
                hint = f" The nearest known one is {near[0]}."
        raise UserError(f"{message.rstrip('.')}.{hint}")


def _verb(function) -> _Parser:
    parameters = inspect.signature(function).parameters.values()
    required = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty}
    several = {p.name for p in parameters if p.annotation == list[Path]}  # jsonargparse would want them as JSON
    parser = _Parser()
    parser.add_function_arguments(function, as_positional=True, skip={*required, *several})
    for name in several:
        parser.add_argument(name, nargs="+", type=Path)
    for name, parameter in required.items():
        parser.add_argument(f"--{name}", type=parameter.annotation, required=True)
    return parser


def _train_parser() -> _Parser:
    parser = _Parser(description=train.__doc__)
    parser.add_argument("--config", action="config", help="YAML with any of the settings below.")
    parser.add_argument("--data", type=Path, required=True, help="Prepared set, or anything `biflow prepare` takes.")
    parser.add_argument("--out", type=Path, required=True, help="The run's folder; a run found there is gone on with.")
    parser.add_argument("--size", type=int, default=64, help="Side of the frames where --data is not prepared yet.")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="Print the settings and stop.")
    parser.add_class_arguments(TrainConfig)
    return parser


# What these are imported for is not part of the core.
_EXTRAS = {"accelerate": "train", "matplotlib": "plot", "fastapi": "serve", "starlette": "serve", "uvicorn": "serve"}


def _usage() -> str:
    lines = [f"  {verb:18}{(function.__doc__ or '').splitlines()[0]}" for verb, function in VERBS.items()]
    return "\n".join(["usage: biflow VERB [options]; biflow VERB --help tells them", "", *lines])


def _run(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return
    if argv[0] == "--version":
        print(f"biflow {__version__}")
        return
    verb = next((verb for verb in (" ".join(argv[:2]), argv[0]) if verb in VERBS), None)
    if verb is None:
        if parts := [known.split()[1] for known in VERBS if known.startswith(f"{argv[0]} ")]:
            raise UserError(f"biflow {argv[0]} needs a second word: {' or '.join(parts)}.")
        known = [*VERBS, *(verb.split()[0] for verb in VERBS)]
        near = difflib.get_close_matches(" ".join(argv[:2]), known, n=1, cutoff=0)[0]
        raise UserError(f"There is no verb {argv[0]!r}; the nearest is {near!r}, and biflow --help lists all.")
    rest = argv[len(verb.split()) :]
    # An option may be spelled with hyphens, as on most command lines.
    rest = [re.sub(r"^--[a-z][\w-]*", lambda m: "--" + m[0][2:].replace("-", "_"), word) for word in rest]
    # So may a switch do without its "true".
    switches = {f"--{p.name}" for p in inspect.signature(VERBS[verb]).parameters.values() if p.annotation is bool}
    for i, word in enumerate(rest):
        if word in switches and (i + 1 == len(rest) or rest[i + 1].startswith("--")):
            rest[i] = f"{word}=true"
    parser = _train_parser() if verb == "train" else _verb(VERBS[verb])
    parser.prog = f"biflow {verb}"
    arguments = parser.parse_args(rest)
    if verb == "train":
        train(parser, arguments)
    else:
        VERBS[verb](**vars(parser.instantiate(arguments)))


def main(argv: list[str] | None = None) -> None:
    """Run `biflow`. Exits with 2 and one sentence on bad input, with 130 after Ctrl-C."""
    logging.basicConfig(format="biflow: %(message)s")
    try:
        _run(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        sys.exit(_told(str(error)))
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        sys.exit(_told(f'This needs {error.name}, which is not installed: pip install "biflow[{extra}]"'))
    except KeyboardInterrupt as stop:
        _told(str(stop) or "Stopped.")
        sys.exit(130)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            sys.exit(_told(f"No space left on the device while writing {error.filename or 'a file'}; free some."))
        raise


def _told(sentence: str) -> int:
    print(f"biflow: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
