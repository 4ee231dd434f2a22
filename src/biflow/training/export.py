"""A finished run as a small folder to share: bf16 weights, their evidence, and a few first frames."""

import shutil
from typing import Any

import torch

from biflow.config import Export
from biflow.data.starts import held_out
from biflow.errors import UserError
from biflow.files import together, write_json, write_tensors
from biflow.machine import hardware
from biflow.model import WEIGHTS, load_model, load_weights
from biflow.training.checkpoint import newest_whole
from biflow.training.first import write_first


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
    model = load_model(settings.run)
    averaged = checkpoint.folder / "ema.safetensors"
    load_weights(model.weights, averaged if averaged.exists() else checkpoint.folder / "model.safetensors")
    weights = {name: value.to(torch.bfloat16) for name, value in model.weights.state_dict().items()}
    evidence: dict[str, Any] = {key: value for key, value in checkpoint.state.items() if key != "sha256"}
    evidence["hours"] = round(evidence.pop("seconds") / 3600, 3)
    evidence["hardware"] = hardware()
    with together(out) as new:
        write_json(new / "config.json", model.config)
        write_tensors(new / WEIGHTS, weights, {"step": str(evidence["step"])})
        write_json(new / "evidence.json", evidence)
        if windows is not None:
            write_first(new / "first", windows, model.context)
        elif (settings.run / "first").is_dir():
            shutil.copytree(settings.run / "first", new / "first")
        if (out / "first").exists():
            shutil.rmtree(out / "first")  # of another model
