"""Checkpoints: whole or absent, safetensors and JSON only, and enough of them to go on exactly.

A run's folder holds the model as diffusers keeps it (`config.json`, `diffusion_pytorch_model.safetensors` and its
`.ema` variant) and `checkpoints/step_00001000/` with everything that the next step depends on.
"""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor

from biflow.config import TrainConfig
from biflow.errors import UserError
from biflow.files import commit, write_json, write_tensors
from biflow.networks import VideoUNet, load_weights, read_safetensors

KEEP = 2  # checkpoints; the older one is for the case that a disk eats the newer one
# What may differ between a run and its continuation. A cosine follows the new number of steps from there on; a model
# whose colours drift is mended by going on with coarse noise.
FREE_TO_CHANGE = {"steps", "log_every", "save_every", "preview_every", "compile", "eps", "coarse_noise"}


def save_model(folder: Path, model: VideoUNet, ema: dict[str, Tensor] | None, metadata: dict[str, str]) -> None:
    """Write the model as diffusers keeps it, its averaged weights beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", json.loads(model.to_json_string()))
    write_tensors(folder / "diffusion_pytorch_model.safetensors", model.state_dict(), metadata)
    if ema is not None:
        write_tensors(folder / "diffusion_pytorch_model.ema.safetensors", ema, metadata)


def save(
    out: Path,
    step: int,
    model: VideoUNet,
    optimizer: torch.optim.Optimizer,
    ema: EMAModel | None,
    config: TrainConfig,
    history: dict,
) -> None:
    """Write the checkpoint of `step` and publish its weights as the run's model."""
    names = [name for name, _ in model.named_parameters()]
    averaged = dict(zip(names, ema.shadow_params, strict=True)) if ema else None
    target = out / "checkpoints" / f"step_{step:08d}"
    partial = target.with_name(target.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write_tensors(partial / "model.safetensors", model.state_dict())
        if averaged:
            write_tensors(partial / "ema.safetensors", averaged)
        moments = optimizer.state_dict()["state"]
        flat = {f"{names[i]}/{key}": value for i, state in moments.items() for key, value in state.items()}
        write_tensors(partial / "optimizer.safetensors", flat)
        state = {"step": step, "commit": commit(), "config": asdict(config), **history}
        write_json(partial / "state.json", state)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    save_model(out, model, averaged, {"step": str(step), "commit": state["commit"]})
    for old in sorted((out / "checkpoints").glob("step_*[0-9]"))[:-KEEP]:
        shutil.rmtree(old)


def latest(out: Path) -> Path | None:
    """The newest checkpoint of the run in `out`, None if there is none."""
    found = sorted(path for path in (out / "checkpoints").glob("step_*[0-9]") if (path / "state.json").exists())
    return found[-1] if found else None


def load(
    checkpoint: Path, model: VideoUNet, optimizer: torch.optim.Optimizer, ema: EMAModel | None, config: TrainConfig
) -> dict:
    """Put everything back as `save` found it, and return the checkpoint's state.json.

    Raises UserError if the run was started with other settings.
    """
    state = json.loads((checkpoint / "state.json").read_text())
    # Through JSON, so that tuples compare as the lists that the file holds. A setting that is younger than the run had
    # its default in it.
    wanted, defaults = json.loads(json.dumps([asdict(config), asdict(TrainConfig())]))
    found = {**defaults, **state["config"]}
    for key in sorted(wanted.keys() | found.keys()):
        if key not in FREE_TO_CHANGE and wanted.get(key) != found.get(key):
            raise UserError(
                f"The run in {checkpoint.parents[1]} was started with {key} {found.get(key)}, not {wanted.get(key)}: "
                "give the same setting to go on, or another --out to start anew."
            )
    load_weights(model, checkpoint / "model.safetensors")
    names = [name for name, _ in model.named_parameters()]
    if ema:
        averaged = read_safetensors(checkpoint / "ema.safetensors")
        for shadow, name in zip(ema.shadow_params, names, strict=True):
            shadow.copy_(averaged[name])
        ema.optimization_step = state["step"]
    moments: dict[int, dict[str, Tensor]] = {i: {} for i in range(len(names))}
    for name, value in read_safetensors(checkpoint / "optimizer.safetensors").items():
        parameter, key = name.rsplit("/", 1)
        moments[names.index(parameter)][key] = value.clone()
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return state
