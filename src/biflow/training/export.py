"""A model to share: as a small folder with bf16 weights, what is known of them, and a card; as ONNX; as a page."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from biflow.card import EVIDENCE, PICTURE, name_of, read_evidence, results_of, write_card
from biflow.config import Export
from biflow.config.checks import check_no_run
from biflow.data.starts import held_out
from biflow.errors import UserError
from biflow.files import check_not_others, is_earlier, together, write_json, write_tensors
from biflow.hub import model_folder, push
from biflow.model import AVERAGED, WEIGHTS, Model, load_model, load_weights, read_description, weights_file
from biflow.rollout import check_streams
from biflow.training.checkpoint import newest_whole
from biflow.training.first import write_first
from biflow.training.picture import draw

MARKS = {"onnx": "onnx.json", "web": "model/hello.json"}  # the file by which an earlier export is known, and replaced


def export(settings: Export, *, say: Callable[[str], object] = print) -> None:
    """Write what the settings ask for, and `say` what was written. Each folder is written whole, or not at all.

    Raises:
        UserError: no model there, first frames that cannot be had, a folder of other content in the way, a method that
            a page cannot stream, an evaluation of other weights, or a failed upload.
    """
    for name, mark in MARKS.items():
        _check_replaceable(getattr(settings, name), mark, name)
    if settings.out:
        check_no_run(settings.out)
        _check_no_others(settings.out)
    if settings.first:
        held_out(settings.first)  # only a prepared set gives first frames
    source = model_folder(settings.model)
    model, evidence = _load(source)
    given: dict[str, Any] = {"license": settings.license}
    if settings.evaluated:
        given["results"] = results_of(settings.evaluated, weights_file(source))
    evidence |= {key: value for key, value in given.items() if value}
    if settings.web:
        from biflow.web.build import check_method

        check_method(model)
    if settings.onnx:
        check_streams(model)
    if model.span > 1 and (settings.web or settings.onnx):
        raise UserError(f"This model solves {model.span} frames at once, which a page or ONNX file cannot. Serve it.")
    if settings.out:
        _write_folder(source, settings.out, model, evidence, settings.first)
        say(f"Exported {settings.model} as {settings.out}. {settings.out / 'README.md'} says what is known of it.")
    if settings.onnx:
        say(_write_onnx(settings, settings.onnx, model))
    if settings.web:
        say(_write_web(settings, settings.web, source, model))
    if settings.out and settings.push:
        say(f"Uploaded: {push(settings.out, settings.push)}")


def _check_no_others(out: Path) -> None:
    """Raise UserError for a folder with files that are not those of a model, but have their names."""
    if (out / "config.json").exists():
        try:
            read_description(out / "config.json")
        except UserError as error:
            raise UserError(f"{error} It would be lost: name a new folder.", setting="out") from error
    check_not_others(out, (WEIGHTS, AVERAGED, EVIDENCE, PICTURE, "first"), "config.json")


def _check_replaceable(folder: Path | None, mark: str, setting: str) -> None:
    """Raise UserError for a folder that holds anything but an earlier export, which writing would remove."""
    if folder and folder.is_dir() and any(folder.iterdir()) and not is_earlier(folder / mark):
        raise UserError(f"{folder} holds other files, which would be lost. Name a new folder.", setting=setting)


def _load(folder: Path) -> tuple[Model, dict]:
    """The model, and what is on record of its training: steps, samples, hours, losses, settings, hardware, data."""
    checkpoint = newest_whole(folder)
    if checkpoint is None:
        if not (folder / "config.json").exists() or (folder / "checkpoints").exists():
            raise UserError(f"{folder} has no checkpoint to export; give a run of biflow train, or a model folder.")
        return load_model(folder), dict(read_evidence(folder))
    model = load_model(folder)
    averaged = checkpoint.folder / "ema.safetensors"
    load_weights(model.weights, averaged if averaged.exists() else checkpoint.folder / "model.safetensors")
    evidence = {key: value for key, value in checkpoint.state.items() if key not in ("sha256", "seconds")}
    return model, {**evidence, "hours": round(checkpoint.state["seconds"] / 3600, 3)}


def _write_folder(source: Path, out: Path, model: Model, evidence: dict, first: Path | None) -> None:
    weights = {name: value.to(torch.bfloat16) for name, value in model.weights.state_dict().items()}
    with together(out) as new:  # of a folder that is there, other files stay
        write_json(new / "config.json", model.config)
        write_tensors(new / WEIGHTS, weights, {"step": str(evidence["step"])} if "step" in evidence else None)
        if evidence:
            write_json(new / EVIDENCE, evidence)
        if first:
            write_first(new / "first", first, model.context, model.actions)
        elif (source / "first").is_dir():
            shutil.copytree(source / "first", new / "first")
        draw(load_model(new), new / PICTURE)
        if (out / "first").exists():
            shutil.rmtree(out / "first")  # of another model
        for name, written in ((EVIDENCE, bool(evidence)), (PICTURE, (new / PICTURE).exists()), (AVERAGED, False)):
            if not written:
                (out / name).unlink(missing_ok=True)  # of another model
    write_card(out)


def _write_onnx(settings: Export, out: Path, model: Model) -> str:
    from biflow.engines.onnx import write_folder

    network, frame = write_folder(model, out, settings.full_solver(model.method.solver))
    errors = f"network.onnx by at most {network:.1g}, frame.onnx by {frame:.1g}"
    return f"Exported {settings.model} as ONNX: {out}. From PyTorch differ {errors}."


def _write_web(settings: Export, out: Path, source: Path, model: Model) -> str:
    from biflow.serve.models import with_first
    from biflow.web.build import build

    first, given = settings.first or source / "first", settings.first is not None
    built = build(with_first(name_of(source), model, first, given=given), out)
    levels = f"frames differ from PyTorch's by {127.5 * built.error:.2g} grey levels"
    size = f"{built.bytes / 1e6:.1f} MB, {built.served / 1e6:.1f} MB compressed"
    return (
        f"Exported {settings.model} as a page: {out} ({size}; weights in {built.precision}, {levels}).\n"
        f"Look at it: python -m http.server --directory {out}, then open http://localhost:8000"
    )
