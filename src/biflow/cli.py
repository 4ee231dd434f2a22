"""The command line: from words to the settings of a command, and from what went wrong to one sentence."""

import logging
import os
import re
import sys
from dataclasses import asdict
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import cyclopts

from biflow import __version__, config
from biflow.errors import UserError

ABOUT = """Stream new video, frame by frame, from a model of your own clips.

Run `biflow COMMAND --help` for the settings of a command, with examples."""
EXAMPLES = """
Examples:
    biflow demo
    biflow prepare my_clips datasets/mine
    biflow train --data datasets/mine --out runs/mine
    biflow sample runs/mine --first datasets/mine

To complete commands and options with the Tab key, add a line to ~/.bashrc (or the same with zsh to ~/.zshrc):
    eval "$(biflow completion bash)"
"""
GROUPS = {"data": "Get datasets.", "weights": "Get the weights of networks.", "import": "Import models."}
# The extras that bring the packages which are not part of the core.
EXTRAS = {
    "accelerate": "train",
    "tensorboard": "train",
    "matplotlib": "plot",
    "markdown_it": "plot",
    "openvino": "openvino",
}
EXTRAS |= {"fastapi": "serve", "starlette": "serve", "uvicorn": "serve"}
FLAT = cyclopts.Parameter(name="*")  # the fields of the settings are the arguments of the command
DEMO = config.Demo()


def _prepare(settings: Annotated[config.Prepare, FLAT]) -> None:
    from biflow.data.prepare import prepare

    index = prepare(settings)
    clips = index["clips"]
    test = sum(clip["split"] == "test" for clip in clips)
    print(
        f"{settings.dst}: {sum(clip['frames'] for clip in clips)} frames of {settings.size}x{settings.size} "
        f"in {len(clips)} clips, {test} of them for testing; {len(index['skipped'])} skipped."
    )


def _train(settings: Annotated[config.Train, FLAT]) -> None:
    from biflow import methods

    methods.get(settings.method)  # an unknown one is refused
    if settings.dry_run:
        import yaml

        print(yaml.safe_dump(asdict(settings.settings), sort_keys=False).rstrip())
        return
    from biflow.data.prepare import prepare
    from biflow.data.windows import is_prepared
    from biflow.training.loop import train

    data, out, size = settings.data, settings.out, settings.size
    if not is_prepared(data):
        raw, data = data, out / "data"
        if not is_prepared(data):
            print(f"{raw} is not prepared; preparing it at {size}x{size} in {data}.")
            prepare(config.Prepare(raw, data, size=size))
    train(settings.settings, data, out)
    print(
        f"Trained {settings.steps} steps: {out}. "
        f"Stream from it with: biflow sample {out} --first {data} --out {out / 'samples'}"
    )


def _sample(settings: Annotated[config.Sample, FLAT]) -> None:
    from biflow.outputs import sample

    sample(settings)


def _demo(settings: Annotated[config.Demo, FLAT] = DEMO) -> None:
    from biflow.model import shipped_model

    if settings.live:
        from biflow.serve.server import serve

        return serve(config.Serve(shipped_model(), port=settings.port), open_page=True)
    from biflow.outputs import demo

    demo(settings)
    for name in ("demo.mp4", "demo.png", "demo.json"):
        print(settings.out / name)


def _serve(settings: Annotated[config.Serve, FLAT]) -> None:
    from biflow.serve.server import serve

    serve(settings)


def _evaluate(settings: Annotated[config.Evaluate, FLAT]) -> None:
    from biflow import machine
    from biflow.engines import with_engine
    from biflow.evaluation.evaluate import evaluate, summary
    from biflow.evaluation.protocol import changed, load_protocol
    from biflow.model import load_model

    protocol = load_protocol(settings.protocol)
    solver = None
    if settings.solver is not None or settings.steps is not None:
        base = protocol.solver
        name = settings.solver or base.method
        solver = config.Solver.named(name, steps=settings.steps, rtol=base.rtol, atol=base.atol)
    changes = {name: getattr(settings, name) for name in ("eps", "direction", "samples", "frames")}
    protocol = changed(protocol, solver=solver, **changes)
    model = load_model(settings.model, device=machine.device())
    model = with_engine(model, settings.engine, rtol=protocol.solver.rtol)
    result = evaluate(
        model, settings.data, settings.out, protocol, batch=settings.batch, feature_batch=settings.feature_batch
    )
    if result:  # only one of several processes has it
        print(f"{summary(result)}\n{settings.out / 'metrics.json'}")


def _fvd(settings: Annotated[config.Fvd, FLAT]) -> None:
    from biflow import files, machine
    from biflow.evaluation.fvd import compare, summary
    from biflow.evaluation.networks.features import i3d_features, torchscript_features

    if settings.json.is_dir():
        raise UserError(f"{settings.json} is a folder; name a file in it.", setting="json")
    settings.json.parent.mkdir(parents=True, exist_ok=True)  # now, not after the work
    device = machine.device()
    i3d = settings.features == "i3d"
    result = compare(settings, i3d_features(device) if i3d else torchscript_features(Path(settings.features), device))
    files.write_json(settings.json, result)
    print(f"{summary(result)}\n{settings.json}")


def _report(settings: Annotated[config.Report, FLAT]) -> None:
    from biflow.evaluation.report import report

    print(report(list(settings.runs), settings.out))


def _export(settings: Annotated[config.Export, FLAT]) -> None:
    from biflow.training.export import export

    export(settings)


def _import_reference(settings: Annotated[config.ImportReference, FLAT]) -> None:
    from biflow import methods
    from biflow.model import save_model
    from biflow.reference import import_reference

    methods.get(settings.method)  # an unknown one is refused
    weights, method, shape = settings.weights, settings.method, settings.shape
    model = import_reference(weights, method=method, width=settings.width, size=settings.size, shape=shape)
    save_model(settings.out, model, metadata={"source": weights.name})
    print(f"Imported {weights} as {settings.out}.")


def _fetch_data(settings: Annotated[config.FetchData, FLAT]) -> None:
    from biflow.data.fetch import fetch

    fetch(settings.name, settings.out)


def _fetch_weights(settings: Annotated[config.FetchWeights, FLAT]) -> None:
    from biflow.evaluation.networks.weights import fetch

    fetch(settings.name, settings.archive)


def _completion(shell: Literal["bash", "zsh"]) -> None:
    """Print a script that adds completion by the Tab key to a shell.

    Examples:
        eval "$(biflow completion bash)"
    """
    from importlib import import_module

    print(import_module(f"cyclopts.completion.{shell}").generate_completion_script(application(), "biflow"))


COMMANDS: dict[str, Any] = {
    "demo": _demo,
    "prepare": _prepare,
    "train": _train,
    "sample": _sample,
    "serve": _serve,
    "evaluate": _evaluate,
    "report": _report,
    "fvd": _fvd,
    "export": _export,
    "import reference": _import_reference,
    "data fetch": _fetch_data,
    "weights fetch": _fetch_weights,
    "completion": _completion,
}


def application() -> cyclopts.App:
    """The whole command line. The docstrings of the settings are its help texts."""
    plain: dict[str, Any] = {"help_format": "plaintext", "result_action": "return_value"}
    app = cyclopts.App(
        "biflow",
        help=ABOUT,
        help_epilogue=EXAMPLES,
        version_flags=["--version", "-V"],
        suppress_keyboard_interrupt=False,
        **plain,
    )
    app.version = f"biflow {__version__}"
    for group, about in GROUPS.items():
        app.command(cyclopts.App(group, help=about, help_epilogue="", version_flags=[], **plain))
    for order, (name, run) in enumerate(COMMANDS.items()):
        settings = get_args(get_type_hints(run, include_extras=True).get("settings"))
        doc = cleandoc((settings[0] if settings else run).__doc__)
        about, examples = re.split(r"\n\n(?:Attributes|Examples):", doc)[0], doc.partition("Examples:")[2]
        *group, last = name.split()
        parent = app[group[0]] if group else app
        parent.command(run, name=last, help=about, help_epilogue=f"\nExamples:{examples}", sort_key=order, **plain)
    return app


def _words(argv: list[str]) -> list[str]:
    """The words as the application takes them: `biflow help X` and `--switch true` are accepted as well."""
    if argv[:1] == ["help"]:
        return [*argv[1:], "--help"]
    if argv == ["version"]:
        return ["--version"]
    if argv[:2] == ["data", "render"]:
        raise UserError("biflow data render is now a program of its own: python datasets/maze.py --help")
    return re.sub(r"(?m)^(--[\w.-]+)\n(true|false)$", r"\1=\2", "\n".join(argv)).split("\n") if argv else []


def _run(argv: list[str]) -> None:
    app, words = application(), _words(argv)
    logging.basicConfig(format="biflow: %(message)s")
    if file := re.search(r"--config[=\n](.*)", "\n".join(words)):
        path = Path(file[1])
        # Checked by itself first: messages then name the file.
        config.parse(config.Train, {"data": "", "out": "", **config.read_yaml(path)}, str(path))
        app["train"].config = cyclopts.config.Yaml(path, must_exist=True, use_commands_as_keys=False)
    app(words, exit_on_error=False, print_error=False)


def _sentence(error: UserError) -> str:
    """The message of an error, which names the setting as the command line does: "--steps is 0, but …"."""
    if not error.setting:
        return str(error)
    name, rest = f"--{error.setting.replace('_', '-')}", str(error).removeprefix(error.setting)
    return f"{name}{rest}" if rest != str(error) and rest[:1] in (" ", ":") else f"{name}: {error}"


def main(argv: list[str] | None = None) -> None:
    """Run `biflow`. Exits with 2 and one sentence on bad input, and with 130 after Ctrl-C."""
    try:
        try:
            _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()  # here, where it may fail
    except UserError as error:
        sys.exit(_refused(_sentence(error)))
    except cyclopts.CycloptsError as error:
        sys.exit(_refused(" ".join(str(error).split())))
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        sys.exit(_refused(f'This needs {error.name}, which is not installed: pip install "biflow[{extra}]"'))
    except KeyboardInterrupt as stop:
        _refused(str(stop) or "Stopped.")
        sys.exit(130)
    except BrokenPipeError:  # nobody reads the output any more, as after `biflow --help | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        sys.exit(1)
    except OSError as error:
        from biflow.files import os_error

        sys.exit(_refused(str(os_error(error, str(error.filename or "a file")))))


def _refused(sentence: str) -> int:
    print(f"biflow: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
