"""A finished run as a small folder to share: bf16 weights, their evidence, a few first frames, and a card."""

import shutil

import torch

from biflow.card import PICTURE, results_of, write_card
from biflow.config import Export
from biflow.data.starts import held_out
from biflow.errors import UserError
from biflow.files import replacing, write_json, write_tensors
from biflow.model import WEIGHTS, load_model, load_weights, weights_file
from biflow.training.checkpoint import newest_whole
from biflow.training.first import write_first
from biflow.training.picture import draw


def export(settings: Export) -> None:
    """Write the run's averaged weights in bf16, with `evidence.json` and first frames: the run's, or those of a set.

    The evidence states what was trained how long on what: step, samples, seconds, losses, config, commit, hardware.

    Raises:
        UserError: the run has no checkpoint yet, or the first frames cannot be had.
    """
    checkpoint, out = newest_whole(settings.run), settings.out
    if checkpoint is None:
        raise UserError(f"{settings.run} has no checkpoint to export; give a run of biflow train.")
    windows = held_out(settings.first) if settings.first else None
    results = results_of(settings.evaluated, weights_file(settings.run)) if settings.evaluated else None
    model = load_model(settings.run)
    averaged = checkpoint.folder / "ema.safetensors"
    load_weights(model.weights, averaged if averaged.exists() else checkpoint.folder / "model.safetensors")
    weights = {name: value.to(torch.bfloat16) for name, value in model.weights.state_dict().items()}
    evidence = {key: value for key, value in checkpoint.state.items() if key != "sha256"}
    evidence["hours"] = round(evidence.pop("seconds") / 3600, 3)
    given = {"license": settings.license, "results": results}
    evidence |= {key: value for key, value in given.items() if value}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", model.config)
    write_tensors(out / WEIGHTS, weights, {"step": str(evidence["step"])})
    write_json(out / "evidence.json", evidence)
    if windows is not None:
        write_first(out / "first", windows, model.context)
    elif (settings.run / "first").is_dir():
        with replacing(out / "first") as folder:
            shutil.copytree(settings.run / "first", folder)
    elif (out / "first").exists():
        shutil.rmtree(out / "first")  # of another model
    draw(load_model(out), out / PICTURE)
    write_card(out)
