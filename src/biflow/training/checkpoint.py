"""Checkpoints: whole or absent, safetensors and JSON only, with everything that an exact resume needs.

A run's folder is a model folder (`config.json`, `diffusion_pytorch_model.safetensors` and its `.ema` variant). It also
holds `checkpoints/step_00001000/`, with everything that the next step depends on.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.optim import Optimizer

from biflow.config import TrainConfig
from biflow.errors import UserError
from biflow.files import read_tensors, replacing, write_json, write_tensors
from biflow.machine import commit
from biflow.model import Model, load_weights, save_model

KEEP = 2  # checkpoints; the older one is for the case that the newer one is damaged
# What may differ between a run and its continuation. A cosine follows the new number of steps from there on; a model
# whose colours drift is corrected by continuing with coarse noise.
FREE_TO_CHANGE = {"steps", "log_every", "save_every", "preview_every", "compile", "eps", "coarse_noise"}
FREE_TO_CHANGE |= {"context_noise", "context_eps", "own_frames"}


def save(
    out: Path, step: int, model: Model, optimizer: Optimizer, ema: EMAModel | None, config: TrainConfig, history: dict
) -> None:
    """Write the checkpoint of `step` and publish its weights as the run's model."""
    names = [name for name, _ in model.weights.named_parameters()]
    averaged = dict(zip(names, ema.shadow_params, strict=True)) if ema else None
    moments = optimizer.state_dict()["state"]
    flat = {f"{names[i]}/{key}": value for i, state in moments.items() for key, value in state.items()}
    state = {"step": step, "commit": commit(), "config": asdict(config), **history}
    with replacing(out / "checkpoints" / f"step_{step:08d}") as folder:
        folder.mkdir(parents=True)
        write_tensors(folder / "model.safetensors", model.weights.state_dict())
        if averaged:
            write_tensors(folder / "ema.safetensors", averaged)
        write_tensors(folder / "optimizer.safetensors", flat)
        write_json(folder / "state.json", state)
    save_model(out, model, averaged, {"step": str(step), "commit": state["commit"]})
    for old in sorted((out / "checkpoints").glob("step_*[0-9]"))[:-KEEP]:
        shutil.rmtree(old)


def latest(out: Path) -> Path | None:
    """The newest checkpoint of the run in `out`, None if there is none."""
    found = sorted(path for path in (out / "checkpoints").glob("step_*[0-9]") if (path / "state.json").exists())
    return found[-1] if found else None


def load(checkpoint: Path, network: nn.Module, optimizer: Optimizer, ema: EMAModel | None, config: TrainConfig) -> dict:
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
                "give the same setting to resume it, or another folder to start anew."
            )
    load_weights(network, checkpoint / "model.safetensors")
    names = [name for name, _ in network.named_parameters()]
    if ema:
        averaged = read_tensors(checkpoint / "ema.safetensors")
        for shadow, name in zip(ema.shadow_params, names, strict=True):
            shadow.copy_(averaged[name])
        ema.optimization_step = state["step"]
    moments: dict[int, dict[str, Tensor]] = {i: {} for i in range(len(names))}
    for name, value in read_tensors(checkpoint / "optimizer.safetensors").items():
        parameter, key = name.rsplit("/", 1)
        moments[names.index(parameter)][key] = value.clone()
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return state
