"""A finished run as a small folder to share: bf16 weights, their evidence, and a few first frames."""

import json
import shutil

import torch

from biflow.config import Export
from biflow.errors import UserError
from biflow.files import replacing, write_json, write_tensors
from biflow.machine import hardware
from biflow.model import WEIGHTS, load_model
from biflow.training.checkpoint import latest
from biflow.training.held_out import held_out, write_first


def export(settings: Export) -> None:
    """Write the run's averaged weights in bf16, with `evidence.json` and first frames: the run's, or those of a set.

    The evidence states what was trained how long on what: step, samples, seconds, losses, config, commit, hardware.

    Raises:
        UserError: the run has no checkpoint yet, or the first frames cannot be had.
    """
    checkpoint, out = latest(settings.run), settings.out
    if checkpoint is None:
        raise UserError(f"{settings.run} has no checkpoint to export; give a run of biflow train.")
    windows = held_out(settings.first) if settings.first else None
    model = load_model(settings.run)
    weights = {name: value.to(torch.bfloat16) for name, value in model.weights.state_dict().items()}
    evidence = json.loads((checkpoint / "state.json").read_text())
    evidence["hours"] = round(evidence.pop("seconds") / 3600, 3)
    evidence["hardware"] = hardware()
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", model.config)
    write_tensors(out / WEIGHTS, weights, {"step": str(evidence["step"])})
    write_json(out / "evidence.json", evidence)
    if windows is not None:
        write_first(out / "first", windows, model.context)
    elif (settings.run / "first").is_dir():
        with replacing(out / "first") as folder:
            shutil.copytree(settings.run / "first", folder)
