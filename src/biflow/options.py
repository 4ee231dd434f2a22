"""How options are spelled and shown, and what `biflow train` takes where they are left out."""

from pathlib import Path
from typing import Any

import cyclopts
from cyclopts.help import DefaultFormatter

from biflow import config
from biflow.errors import UserError


class Formatter(DefaultFormatter):
    """Help with what is required first, and texts without the line breaks of their docstring."""

    def __call__(self, console: Any, options: Any, panel: Any) -> None:
        panel.entries.sort(key=lambda entry: not entry.required)
        for text in (entry.description.primary_renderable for entry in panel.entries):
            text.plain = " ".join(text.plain.split())
        super().__call__(console, options, panel)


class TrainFormatter(Formatter):
    """Help of `biflow train`, with the defaults that it has, not those of the dataclass."""

    def __call__(self, console: Any, options: Any, panel: Any) -> None:
        preset = {f"--{flag(name)}": value for name, value in config.preset(config.Train.preset).items()}
        for entry in panel.entries:
            entry.default = next((shown(preset[name]) for name in entry.names if name in preset), entry.default)
        super().__call__(console, options, panel)


def shown(default: object) -> str | None:
    """A default as the help shows it: a list as it is typed, and nothing for a switch that is off."""
    text = str(list(default)) if isinstance(default, tuple) else str(default)
    return None if text in ("None", "False", "", "[]") else text


def below_options(app: cyclopts.App, names: tuple[str, ...], arguments: cyclopts.ArgumentCollection) -> None:
    """Take what the options leave out from the YAML file that --config names, and the rest from a preset."""
    chosen = {"preset": config.Train.preset}
    for token in arguments["--config"].tokens:
        content = config.read_yaml(Path(token.value))
        if "config" in content:
            raise UserError(f"{token.value}: config names this file itself; a file cannot take settings from another.")
        config.parse(config.Train, {"data": "", "out": "", **content}, token.value)  # its messages name the file
        chosen |= content
        _fill_in(content, app, names, arguments)
    for token in arguments["--preset"].tokens:
        chosen["preset"] = token.value
    _fill_in(config.preset(chosen["preset"]), app, names, arguments)


def _fill_in(content: dict, app: cyclopts.App, names: tuple[str, ...], arguments: cyclopts.ArgumentCollection) -> None:
    """Set the arguments of `train` that have no value yet."""
    by_flag = {flag(name): value for name, value in content.items()}
    cyclopts.config.Dict({"train": by_flag})(app, names, arguments)


def flag(name: str) -> str:
    """A setting as the command line spells it, without the hyphens in front."""
    return "from" if name == "init" else cyclopts.default_name_transform(name)  # `from` cannot name a field
