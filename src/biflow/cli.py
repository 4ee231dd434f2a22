"""The command line: from words to the settings of a command, and from what went wrong to one sentence."""

import contextlib
import io
import logging
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from inspect import BoundArguments, cleandoc
from pathlib import Path
from typing import Annotated, Literal, get_args, get_type_hints

import cyclopts

from biflow import __version__, config
from biflow.config.checks import check_no_run, check_places, check_run_folder, check_writable
from biflow.errors import UserError, memory_error, os_error, out_of_memory
from biflow.interrupts import end_as_after_ctrl_c, repeat_interrupt
from biflow.options import Formatter, TrainFormatter, below_options, flag, shown
from biflow.words import ABOUT, EXAMPLES, check_words, refusal

GROUPS = {"data": "Download the paper's datasets: fetch.", "weights": "Download networks for evaluation: fetch."}
GROUPS |= {"import": "Import checkpoints of the paper's code: reference."}
# The extras that bring the packages which are not part of the core.
EXTRAS = {"accelerate": "train", "psutil": "train", "tensorboard": "train", "matplotlib": "plot", "markdown_it": "plot"}
EXTRAS |= dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "onnx")
EXTRAS |= {"openvino": "openvino", "fastapi": "serve", "starlette": "serve", "uvicorn": "serve"}
FLAT = cyclopts.Parameter(name="*")  # the fields of the settings are the arguments of the command
REPEATED = cyclopts.Parameter(name="*", consume_multiple=False)  # so that an option may stand before MODEL
DEMO = config.Demo()


def _prepare(settings: Annotated[config.Prepare, FLAT]) -> None:
    check_places(settings)
    from biflow.data.overview import summary
    from biflow.data.prepare import prepare

    index = prepare(settings)
    print(*summary(index, settings), sep="\n")


def _train(settings: Annotated[config.Train, FLAT]) -> None:
    from biflow import methods

    methods.get(settings.method)  # an unknown one is refused
    if settings.dry_run:
        import yaml

        return print(yaml.safe_dump(asdict(settings.settings), sort_keys=False).rstrip())
    check_writable(settings.out)
    check_run_folder(settings.out)
    if not (settings.out / "data").exists():  # which `train` names where the clips are gone
        check_places(settings)
    from biflow.training.checkpoint import steps_done
    from biflow.training.launch import train_on_cores

    before = steps_done(settings.out)
    first = os.environ.get("RANK", "0") == "0"  # of the processes that a launcher has started
    if first:
        print(f"Settings: preset {settings.preset}{f', with {settings.config} over it' if settings.config else ''}.")
    more = {"new_data": settings.new_data, "size": settings.size}
    train_on_cores(settings.settings, settings.data, settings.out, settings.processes, **more)
    if first:
        command = shlex.join(["biflow", "sample", str(settings.out)])
        steps = steps_done(settings.out)
        if steps == before:
            print(f"{settings.out} has {steps} steps already, so nothing was trained. For more, give --steps.")
        else:
            print(f"Trained {steps} step{'s' * (steps > 1)}: {settings.out}. Stream from it with: {command}")


def _sample(settings: Annotated[config.Sample, FLAT]) -> None:
    check_places(settings)
    from biflow.outputs import sample
    from biflow.summaries import summary

    print(summary(settings.out, sample(settings)))


def _demo(settings: Annotated[config.Demo, FLAT] = DEMO) -> None:
    if settings.live:
        from biflow.model import shipped_model
        from biflow.serve.server import serve

        model = shipped_model(settings.name)
        return serve(config.Serve(model, port=settings.port, origin=settings.origin), open_page=True)
    check_places(settings)
    from biflow.outputs import demo
    from biflow.summaries import demo_summary

    print(demo_summary(settings.out, demo(settings)))


def _serve(settings: Annotated[config.Serve, REPEATED]) -> None:
    check_places(settings)
    from biflow.serve.server import serve

    serve(settings)


def _evaluate(settings: Annotated[config.Evaluate, FLAT]) -> None:
    check_places(settings)
    from biflow.data.windows import Windows
    from biflow.engines import with_engine
    from biflow.evaluation.evaluate import evaluate, summary
    from biflow.evaluation.protocol import changed, load_protocol
    from biflow.machine import device
    from biflow.model import load_model

    protocol = load_protocol(settings.protocol)
    changes = {name: getattr(settings, name) for name in ("eps", "direction", "samples", "frames", "actions")}
    Windows(settings.data, split="test")  # what is not a prepared set is refused before the model is loaded
    model = load_model(settings.model, device=device())
    solver = (protocol.solver or model.method.solver).changed(settings.solver, settings.steps)
    protocol = changed(protocol, **changes, solver=solver)
    model = with_engine(model, settings.engine, rtol=solver.rtol)
    batch, windows = settings.batch, settings.feature_batch
    result = evaluate(model, settings.data, settings.out, protocol, batch=batch, feature_batch=windows)
    if result:  # only one of several processes has it
        print(f"{summary(result)}\n{settings.out / 'metrics.json'}")


def _fvd(settings: Annotated[config.Fvd, FLAT]) -> None:
    check_places(settings)
    from biflow.evaluation.fvd import compare, summary
    from biflow.evaluation.networks.features import i3d_features, torchscript_features
    from biflow.files import write_json
    from biflow.machine import device

    path = None if settings.features == "i3d" else Path(settings.features)
    result = compare(settings, torchscript_features(path, device()) if path else i3d_features(device()))
    write_json(settings.json, result)
    print(f"{summary(result)}\n{settings.json}")


def _report(settings: Annotated[config.Report, FLAT]) -> None:
    check_places(settings)
    from biflow.evaluation.report import report

    print(report(list(settings.runs), settings.out))


def _export(settings: Annotated[config.Export, FLAT]) -> None:
    check_places(settings)
    from biflow.training.export import export

    export(settings, say=partial(print, flush=True))


def _info(settings: Annotated[config.Info, FLAT]) -> None:
    check_places(settings)
    from biflow.card import info

    print(info(settings.model))


def _import_reference(settings: Annotated[config.ImportReference, FLAT]) -> None:
    check_places(settings)
    check_no_run(settings.out)
    from biflow.model import save_model
    from biflow.reference import import_reference

    weights, size, method = settings.weights, settings.size, settings.method
    model = import_reference(weights, method=method, width=settings.width, size=size, shape=settings.shape)
    save_model(settings.out, model, metadata={"source": weights.name})
    print(f"Imported {weights} as {settings.out}.")


def _data_fetch(settings: Annotated[config.FetchData, FLAT]) -> None:
    check_places(settings)
    from biflow.data.fetch import fetch

    fetch(settings.name, settings.out)


def _weights_fetch(settings: Annotated[config.FetchWeights, FLAT]) -> None:
    check_places(settings)
    from biflow.evaluation.networks.weights import fetch
    from biflow.files import cache_folder

    check_writable(cache_folder() / "weights", "")
    fetch(settings.name, settings.archive)


def _completion(shell: Literal["bash", "zsh"]) -> None:
    """Print a script that adds completion by the Tab key to a shell.

    Args:
        shell: The shell that the script is for.

    Examples:
        eval "$(biflow completion bash)"
    """
    print(application().generate_completion(shell=shell))


RUNNERS = (_demo, _prepare, _train, _sample, _serve, _evaluate, _report, _fvd, _export, _info, _completion)
RUNNERS += (_data_fetch, _weights_fetch, _import_reference)
COMMANDS: dict[str, Callable] = {run.__name__[1:].replace("_", " "): run for run in RUNNERS}


def application() -> cyclopts.App:
    """The whole command line. The docstrings of the settings are its help texts."""
    usual = cyclopts.Parameter(
        negative=(), show_default=shown, consume_multiple=True, name_transform=flag, json_dict=False
    )
    app = cyclopts.App("biflow", help=ABOUT, help_epilogue=EXAMPLES, default_parameter=usual, help_format="plaintext")
    app.help_formatter, app.version, app.version_flags = Formatter(), f"biflow {__version__}", ("--version", "-V")
    for name, about in GROUPS.items():
        app.command(cyclopts.App(name, help=about, help_epilogue="", version_flags=[], sort_key=len(COMMANDS)))
    app.config = check_words
    for order, (name, run) in enumerate(COMMANDS.items()):
        settings = get_args(get_type_hints(run, include_extras=True).get("settings"))
        doc = cleandoc((settings[0] if settings else run).__doc__ or "")
        about, *_, examples = re.split(r"\n\n(?:Attributes|Args|Examples):", doc)
        *group, last = name.split()
        parent = app[group[0]] if group else app
        parent.command(run, name=last, help=about, help_epilogue=f"\nExamples:{examples}", sort_key=order)
    app["train"].config, app["train"].help_formatter = (check_words, below_options), TrainFormatter()
    return app


def parsed(argv: list[str]) -> tuple[Callable, BoundArguments]:
    """The function that these words call, and its arguments. Raises UserError or CycloptsError."""
    if argv[:2] == ["data", "render"]:
        raise UserError("biflow data render is now a program of its own: python datasets/maze.py --help")
    if argv[:1] in (["help"], ["version"]):
        argv = [*(word for word in argv[1:] if word != argv[0]), f"--{argv[0]}"]
    # "--png true" is "--png=true", and "--range -1,1" is "--range=-1,1".
    words = re.sub(r"(?i)(?<![^\0])(--[\w.-]+)\0(true|false|-1,1)(?![^\0])", r"\1=\2", "\0".join(argv)).split("\0")
    return application().parse_args(words if argv else [], exit_on_error=False, print_error=False)[:2]


def _sentence(error: BaseException, settings: object) -> str:
    """What the user can correct, in one sentence; nothing for any other error."""
    if isinstance(error, UserError):
        name = error.setting
        message = re.sub(r"\b(\w+)=('[\w.]*'|\d+)", partial(_as_words, settings=settings), str(error))
        if name is None or (settings is not None and not hasattr(settings, name)):
            return message
        option, rest = f"--{flag(name)}", message.removeprefix(name)
        return f"{option}{rest}" if rest != message and rest[:1] in " :" else f"{option}: {message}"
    if isinstance(error, cyclopts.CycloptsError):
        return refusal(error, COMMANDS)
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get((error.name or "").split(".")[0])):
        return f'This needs {error.name}, which is not installed: pip install "biflow[{extra}]"'
    if out_of_memory(error):
        return _sentence(memory_error(settings), settings)
    if isinstance(error, PermissionError) and not os.access(path := str(error.filename), os.R_OK):
        return str(UserError(f"{path} cannot be read: you have no permission to."))
    if isinstance(error, OSError):
        return str(os_error(error, str(error.filename or "a file")))
    return (str(error) or "Stopped.") if isinstance(error, KeyboardInterrupt) else ""


def _as_words(assignment: re.Match, settings: object) -> str:
    """A setting with its value, which the library writes as Python does, as words of the command line."""
    name, value = assignment[1], assignment[2].strip("'")
    return f"--{name.replace('_', '-')} {value}" if hasattr(settings, name) else assignment[0]


def main(argv: list[str] | None = None) -> None:
    """Run `biflow`. Exits with 2 and one sentence on bad input, and with 130 after Ctrl-C."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell, as by `biflow >&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that it cannot encode, as stderr does
    logging.basicConfig(format="biflow: %(message)s")
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        end_as_after_ctrl_c()
        sys.unraisablehook = partial(repeat_interrupt, sys.unraisablehook)
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
        if argv is None and isinstance(error, KeyboardInterrupt):  # the process ends: another one would change its code
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        with contextlib.suppress(OSError):  # the exit code tells it too
            print(f"biflow: {sentence}", file=sys.stderr, flush=True)
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else 2)


if __name__ == "__main__":
    main()
