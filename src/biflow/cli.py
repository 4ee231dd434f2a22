"""The command line: from words to the settings of a command, and from what went wrong to one sentence."""

import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from inspect import BoundArguments, cleandoc
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import cyclopts
from cyclopts.help import DefaultFormatter

from biflow import __version__, config
from biflow.config.parsing import TYPES, nearest
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
GROUPS = {"data": "Datasets: fetch.", "weights": "Weights of networks: fetch.", "import": "Models: reference."}
# The extras that bring the packages which are not part of the core.
EXTRAS = {"accelerate": "train", "tensorboard": "train", "matplotlib": "plot", "markdown_it": "plot"}
EXTRAS |= {"openvino": "openvino", "fastapi": "serve", "starlette": "serve", "uvicorn": "serve"}
FLAT = cyclopts.Parameter(name="*")  # the fields of the settings are the arguments of the command
REPEATED = cyclopts.Parameter(name="*", consume_multiple=False)  # so that an option may stand before MODEL
DEMO = config.Demo()


def _prepare(settings: Annotated[config.Prepare, FLAT]) -> None:
    from biflow.data.prepare import prepare

    index = prepare(settings)
    clips, size = index["clips"], settings.size
    frames, test = sum(clip["frames"] for clip in clips), sum(clip["split"] == "test" for clip in clips)
    counts = f"{frames} frames of {size}x{size} in {len(clips)} clips, {test} of them for testing"
    actions = f", with actions {', '.join(index['actions']['columns'])}" if "actions" in index else ""
    print(f"{settings.dst}: {counts}; {len(index['skipped'])} skipped{actions}.")


def _train(settings: Annotated[config.Train, FLAT]) -> None:
    from biflow import methods

    methods.get(settings.method)  # an unknown one is refused
    if settings.dry_run:
        import yaml

        return print(yaml.safe_dump(asdict(settings.settings), sort_keys=False).rstrip())
    from biflow.data.prepare import prepare
    from biflow.data.windows import Windows, is_prepared
    from biflow.training.loop import train

    data, out, size = settings.data, settings.out, settings.size
    if not is_prepared(data):
        raw, data = data, out / "data"
        if not is_prepared(data):
            print(f"{raw} is not prepared; preparing it at {size}x{size} in {data}.")
            prepare(config.Prepare(raw, data, size=size))
    train(settings.settings, data, out)
    steered = " --actions data" if Windows(data).actions else ""
    command = f"biflow sample {out} --first {data} --out {out / 'samples'}{steered}"
    print(f"Trained {settings.steps} steps: {out}. Stream from it with: {command}")


def _sample(settings: Annotated[config.Sample, FLAT]) -> None:
    from biflow.outputs import sample

    sample(settings)


def _demo(settings: Annotated[config.Demo, FLAT] = DEMO) -> None:
    if settings.live:
        from biflow.model import shipped_model
        from biflow.serve.server import serve

        return serve(config.Serve(shipped_model(), port=settings.port, origin=settings.origin), open_page=True)
    from biflow.outputs import demo

    demo(settings)
    print(*(settings.out / name for name in ("demo.mp4", "demo.png", "demo.json")), sep="\n")


def _serve(settings: Annotated[config.Serve, REPEATED]) -> None:
    from biflow.serve.server import serve

    serve(settings)


def _evaluate(settings: Annotated[config.Evaluate, FLAT]) -> None:
    from biflow.engines import with_engine
    from biflow.evaluation.evaluate import evaluate, summary
    from biflow.evaluation.protocol import changed, load_protocol
    from biflow.machine import device
    from biflow.model import load_model

    protocol = load_protocol(settings.protocol)
    changes = {name: getattr(settings, name) for name in ("eps", "direction", "samples", "frames", "actions")}
    if settings.solver or settings.steps:
        usual = protocol.solver
        name = settings.solver or usual.method
        changes["solver"] = config.Solver.named(name, steps=settings.steps, rtol=usual.rtol, atol=usual.atol)
    protocol = changed(protocol, **changes)
    model = with_engine(load_model(settings.model, device=device()), settings.engine, rtol=protocol.solver.rtol)
    batch, windows = settings.batch, settings.feature_batch
    result = evaluate(model, settings.data, settings.out, protocol, batch=batch, feature_batch=windows)
    if result:  # only one of several processes has it
        print(f"{summary(result)}\n{settings.out / 'metrics.json'}")


def _fvd(settings: Annotated[config.Fvd, FLAT]) -> None:
    from biflow.evaluation.fvd import compare, summary
    from biflow.evaluation.networks.features import i3d_features, torchscript_features
    from biflow.files import write_json
    from biflow.machine import device

    if settings.json.is_dir():
        raise UserError(f"{settings.json} is a folder; name a file in it.", setting="json")
    settings.json.parent.mkdir(parents=True, exist_ok=True)  # now, not after the work
    path = None if settings.features == "i3d" else Path(settings.features)
    result = compare(settings, torchscript_features(path, device()) if path else i3d_features(device()))
    write_json(settings.json, result)
    print(f"{summary(result)}\n{settings.json}")


def _report(settings: Annotated[config.Report, FLAT]) -> None:
    from biflow.evaluation.report import report

    print(report(list(settings.runs), settings.out))


def _export(settings: Annotated[config.Export, FLAT]) -> None:
    from biflow.training.export import export

    export(settings)


def _import_reference(settings: Annotated[config.ImportReference, FLAT]) -> None:
    from biflow.model import save_model
    from biflow.reference import import_reference

    weights, size, method = settings.weights, settings.size, settings.method
    model = import_reference(weights, method=method, width=settings.width, size=size, shape=settings.shape)
    save_model(settings.out, model, metadata={"source": weights.name})
    print(f"Imported {weights} as {settings.out}.")


def _data_fetch(settings: Annotated[config.FetchData, FLAT]) -> None:
    from biflow.data.fetch import fetch

    fetch(settings.name, settings.out)


def _weights_fetch(settings: Annotated[config.FetchWeights, FLAT]) -> None:
    from biflow.evaluation.networks.weights import fetch

    fetch(settings.name, settings.archive)


def _completion(shell: Literal["bash", "zsh"]) -> None:
    """Print a script that adds completion by the Tab key to a shell.

    Args:
        shell: The shell that the script is for.

    Examples:
        eval "$(biflow completion bash)"
    """
    print(application().generate_completion(shell=shell))


RUNNERS = (_demo, _prepare, _train, _sample, _serve, _evaluate, _report, _fvd, _export, _completion)
RUNNERS += (_data_fetch, _weights_fetch, _import_reference)
COMMANDS: dict[str, Callable] = {run.__name__[1:].replace("_", " "): run for run in RUNNERS}


class _Formatter(DefaultFormatter):
    def __call__(self, console: Any, options: Any, panel: Any) -> None:
        panel.entries.sort(key=lambda entry: not entry.required)
        for text in (entry.description.primary_renderable for entry in panel.entries):
            text.plain = " ".join(text.plain.split())  # without the line breaks that it has in the docstring
        super().__call__(console, options, panel)


def application() -> cyclopts.App:
    """The whole command line. The docstrings of the settings are its help texts."""
    usual = cyclopts.Parameter(negative=(), show_default=_shown, consume_multiple=True)
    app = cyclopts.App("biflow", help=ABOUT, help_epilogue=EXAMPLES, default_parameter=usual, help_format="plaintext")
    app.help_formatter, app.version, app.version_flags = _Formatter(), f"biflow {__version__}", ("--version", "-V")
    for name, about in GROUPS.items():
        app.command(cyclopts.App(name, help=about, help_epilogue="", version_flags=[], sort_key=len(COMMANDS)))
    for order, (name, run) in enumerate(COMMANDS.items()):
        settings = get_args(get_type_hints(run, include_extras=True).get("settings"))
        doc = cleandoc((settings[0] if settings else run).__doc__ or "")
        about, *_, examples = re.split(r"\n\n(?:Attributes|Args|Examples):", doc)
        *group, last = name.split()
        parent = app[group[0]] if group else app
        parent.command(run, name=last, help=about, help_epilogue=f"\nExamples:{examples}", sort_key=order)
    app["train"].config = _below_options
    return app


def _shown(default: object) -> str | None:
    """A default as the help shows it: a list as it is typed, and nothing for a switch that is off."""
    text = str(list(default)) if isinstance(default, tuple) else str(default)
    return None if text in ("None", "False", "", "[]") else text


def _below_options(app: cyclopts.App, names: tuple[str, ...], arguments: cyclopts.ArgumentCollection) -> None:
    """Take what the options leave out from the YAML file that --config names."""
    for token in arguments["--config"].tokens:
        content = config.read_yaml(Path(token.value))
        config.parse(config.Train, {"data": "", "out": "", **content}, token.value)  # its messages name the file
        cyclopts.config.Dict({"train": content})(app, names, arguments)


def parsed(argv: list[str]) -> tuple[Callable, BoundArguments]:
    """The function that these words call, and its arguments. Raises UserError or CycloptsError."""
    if argv[:2] == ["data", "render"]:
        raise UserError("biflow data render is now a program of its own: python datasets/maze.py --help")
    if argv[:1] in (["help"], ["version"]):
        argv = [*argv[1:], f"--{argv[0]}"]
    # "--png true" is "--png=true".
    words = re.sub(r"(?i)(?<![^\0])(--[\w.-]+)\0(true|false)(?![^\0])", r"\1=\2", "\0".join(argv)).split("\0")
    return application().parse_args(words if argv else [], exit_on_error=False, print_error=False)[:2]


def _sentence(error: BaseException, settings: object) -> str:
    """What the user can correct, in one sentence; nothing for any other error."""
    if isinstance(error, UserError):
        name, message = error.setting, str(error)
        if name is None or (settings is not None and not hasattr(settings, name)):
            return message
        flag, rest = f"--{name.replace('_', '-')}", message.removeprefix(name)
        return f"{flag}{rest}" if rest != message and rest[:1] in " :" else f"{flag}: {message}"
    if isinstance(error, cyclopts.CycloptsError):
        return _refusal(error)
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get((error.name or "").split(".")[0])):
        return f'This needs {error.name}, which is not installed: pip install "biflow[{extra}]"'
    if isinstance(error, OSError):
        from biflow.files import os_error

        return str(os_error(error, str(error.filename or "a file")))
    return (str(error) or "Stopped.") if isinstance(error, KeyboardInterrupt) else ""


def _refusal(error: cyclopts.CycloptsError) -> str:
    """Why words are not accepted, without the terms of programmers that cyclopts uses."""
    command, argument, unused = " ".join(error.command_chain or ()), error.argument, error.unused_tokens or [""]
    text, see = " ".join(str(error).split()), f"See `biflow {command} --help`."
    if isinstance(error, cyclopts.UnknownCommandError):
        word = f"{command} {unused[0]}".strip()
        return f"There is no command {word!r}. The nearest is {nearest(word, COMMANDS)!r}; `biflow --help` lists all."
    if isinstance(error, cyclopts.UnusedCliTokensError):
        return f"{unused[0]!r} is one argument too many. {see}"
    if isinstance(error, cyclopts.MissingArgumentError) and argument:
        name = argument.name if argument.index is None else argument.name[2:].upper()
        return f"{error.keyword or name} needs a value. {text.partition('requires an argument. ')[2] or see}"
    return re.sub(r"into (int|float|bool)\.$", lambda kind: f"into {TYPES[kind[1]]}.", text)


def main(argv: list[str] | None = None) -> None:
    """Run `biflow`. Exits with 2 and one sentence on bad input, and with 130 after Ctrl-C."""
    logging.basicConfig(format="biflow: %(message)s")
    settings = None
    try:
        command, bound = parsed(sys.argv[1:] if argv is None else argv)
        settings = bound.arguments.get("settings")
        command(*bound.args, **bound.kwargs)
        sys.stdout.flush()  # here, where it may fail
    except BrokenPipeError:  # nobody reads the output any more, as after `biflow --help | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        sys.exit(1)
    except (Exception, KeyboardInterrupt) as error:
        if not (sentence := _sentence(error, settings)):
            raise
        print(f"biflow: {sentence}", file=sys.stderr)
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else 2)


if __name__ == "__main__":
    main()
