"""Checkpoints: whole or absent, safetensors and JSON only, with everything that an exact resume needs.

A run's folder is a model folder (`config.json`, `diffusion_pytorch_model.safetensors` and its `.ema` variant). It also
holds `checkpoints/step_00001000/`, with everything that the next step depends on, and the SHA-256 of each of its files.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from biflow.card import write_card
from biflow.config import TrainConfig
from biflow.documents import read_document
from biflow.errors import UserError
from biflow.files import replacing, sha256, write_json, write_tensors
from biflow.machine import commit
from biflow.model import Model, load_weights, read_description, save_model
from biflow.schemas import State
from biflow.tensors import entries, read_tensors
from biflow.training.average import Average
from biflow.training.muon import Muon, is_matrix

log = logging.getLogger("biflow")


class Resumed(NamedTuple):
    """A checkpoint that a run resumes from: its folder, and what its state.json holds."""

    folder: Path
    state: State

    @property
    def v_scale(self) -> float:
        """The unit of f^v in which its weights were trained."""
        # Checkpoints of older versions do not hold it.
        holder = self.state if "v_scale" in self.state else read_description(self.folder.parents[1] / "config.json")
        if "v_scale" not in holder:
            raise UserError(f"Neither {self.folder} nor its run records v_scale. Start anew in another folder.")
        return holder["v_scale"]


KEEP = 2  # checkpoints; the older one is for the case that the newer one is damaged
STATE = "state.json"
NAME = re.compile(r"step_[0-9]{1,15}")
# What may differ between a run and its continuation. A cosine follows the new number of steps from there on; a model
# whose colours drift is corrected by continuing with coarse noise.
FREE_TO_CHANGE = {"steps", "log_every", "logger", "save_every", "preview_every", "compile", "eps", "coarse_noise"}
FREE_TO_CHANGE |= {"context_noise", "context_eps", "own_frames", "spin", "accumulate"}
OF_STEPS = {"lr", "warmup", "clip"}  # free too, but nobody should change them unawares
FREE_TO_CHANGE |= OF_STEPS


def save(
    out: Path, step: int, model: Model, optimizer: Optimizer, ema: Average | None, config: TrainConfig, history: dict
) -> None:
    """Write the checkpoint of `step` and publish its weights as the run's model."""
    names = [name for name, _ in model.weights.named_parameters()]
    moments = optimizer.state_dict()["state"]
    flat = {f"{names[i]}/{key}": value for i, state in moments.items() for key, value in state.items()}
    state = {"step": step, "commit": commit(), "config": asdict(config), **history}
    with replacing(out / "checkpoints" / f"step_{step:08d}") as folder:
        folder.mkdir(parents=True)
        write_tensors(folder / "model.safetensors", model.weights.state_dict())
        if ema:
            write_tensors(folder / "ema.safetensors", _averaged(model.weights, ema))
        write_tensors(folder / "optimizer.safetensors", flat)
        sums = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        write_json(folder / STATE, {**state, "sha256": {**sums, STATE: _sha256(state)}})
    publish(out, model, ema, state)
    found = _found(out)
    newer = [path for path in found if _step(path) > step]  # damaged ones: the run resumed from one before them
    for path in {*newer, *found[: -KEEP - len(newer)]}:
        shutil.rmtree(path)


def publish(out: Path, model: Model, ema: Average | None, state: Mapping[str, Any]) -> None:
    """Write the model of a run as its newest checkpoint, of which this is the state, has it."""
    averaged = _averaged(model.weights, ema) if ema else None
    save_model(out, model, averaged, {"step": str(state["step"]), "commit": state["commit"]})
    write_card(out, state)


def _averaged(network: nn.Module, ema: Average) -> dict[str, Tensor]:
    """The state of a network with averaged parameters; buffers are as they are."""
    shadow = dict(zip(map(id, network.parameters()), ema.shadow, strict=True))
    names = network.named_parameters(remove_duplicate=False)  # of tied weights, all of their names
    return {**network.state_dict(), **{name: shadow[id(parameter)] for name, parameter in names}}


def latest(out: Path) -> Path | None:
    """The newest checkpoint of the run in `out`, None if there is none."""
    found = [path for path in _found(out) if (path / STATE).exists()]
    return found[-1] if found else None


def steps_done(out: Path) -> int:
    """The steps of the newest checkpoint of the run in `out`, 0 if there is none."""
    newest = latest(out)
    return _step(newest) if newest else 0


def newest_whole(out: Path, *, say: bool = True) -> Resumed | None:
    """The newest checkpoint of the run in `out` whose files are as they were saved, None if there is none at all.

    With `say`, the logger reports newer ones that are damaged. Raises UserError if all are.
    """
    damaged = []
    for checkpoint in reversed(_found(out)):
        if not (file := _damaged(checkpoint)):
            for found in damaged if say else ():
                log.warning("%s is damaged. The newest checkpoint that is whole, %s, is used.", found, checkpoint)
            return Resumed(checkpoint, read_state(checkpoint))
        damaged.append(file)
    if damaged:
        files = ", ".join(map(str, damaged))
        raise UserError(f"No checkpoint of the run in {out} is whole; damaged: {files}. Start anew in another folder.")
    return None


def read_state(checkpoint: Path) -> State:
    """What the state.json of a checkpoint holds. Raises UserError if it is damaged."""
    return read_document(checkpoint / STATE, State, "does not describe a checkpoint", "It is damaged.")


def _found(out: Path) -> list[Path]:
    """All checkpoints of a run, the oldest first."""
    found = (path for path in (out / "checkpoints").glob("step_*") if NAME.fullmatch(path.name) and path.is_dir())
    return sorted(found, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("_")[2])


def _damaged(checkpoint: Path) -> Path | None:
    """A file of the checkpoint that is missing or not as it was saved, None if there is none."""
    file = checkpoint / STATE
    try:
        state = dict(read_state(checkpoint))
        sums: Any = state.pop("sha256", None)
        if state["step"] != _step(checkpoint) or (sums and sums.pop(STATE) != _sha256(state)):
            return file
        if sums is None:  # an older version kept none
            names = ("model", "ema", "optimizer") if read_state(checkpoint)["config"]["ema"] else ("model", "optimizer")
            sums = {f"{name}.safetensors": "" for name in names}
        for name, expected in sums.items():
            file = checkpoint / name
            if expected and sha256(file) != expected:
                return file
            if not expected:
                entries(file)
    except (OSError, ValueError, KeyError):
        return file
    return None


def _sha256(state: dict) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def check_settings(resumed: Resumed, config: TrainConfig, *, say: bool = True) -> None:
    """Raise UserError if the run of this checkpoint was started with other settings.

    The logger names those of the optimiser that have changed, if it is to `say` so.
    """
    # Through JSON, so that tuples compare as the lists that the file holds. A setting that is younger than the run had
    # its default in it.
    out = resumed.folder.parents[1]
    wanted, defaults = json.loads(json.dumps([asdict(config), asdict(TrainConfig())]))
    found = {**defaults, **resumed.state["config"]}
    for key in sorted(wanted.keys() | found.keys()):
        if key not in FREE_TO_CHANGE and wanted.get(key) != found.get(key):
            raise UserError(
                f"The run in {out} was started with {key} {found.get(key)}, not {wanted.get(key)}: "
                "give the same setting to resume it, or another folder to start anew.",
                setting=key,
            )
        if say and key in OF_STEPS and wanted.get(key) != found.get(key):
            log.warning("%s is %s from here on; the run had %s.", key, wanted.get(key), found.get(key))


def load(checkpoint: Path, network: nn.Module, optimizer: Optimizer, ema: Average | None) -> None:
    """Put everything back as `save` found it."""
    load_weights(network, checkpoint / "model.safetensors")
    names = [name for name, _ in network.named_parameters()]
    if ema:
        averaged = read_tensors(checkpoint / "ema.safetensors", _averaged(network, ema))
        for shadow, name in zip(ema.shadow, names, strict=True):
            shadow.copy_(averaged[name])
        ema.steps = _step(checkpoint)
    moments: dict[int, dict[str, Tensor]] = {i: {} for i in range(len(names))}
    for name, value in _read_moments(checkpoint / "optimizer.safetensors", network, optimizer).items():
        parameter, key = name.rsplit("/", 1)
        moments[names.index(parameter)][key] = value.clone()
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _read_moments(path: Path, network: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """What the optimiser keeps of each parameter; of one that was never trained, nothing."""
    there, expected = entries(path), {}
    for name, parameter in network.named_parameters():
        if isinstance(optimizer, Muon) and is_matrix(parameter):
            moments = {"momentum": parameter}
        else:
            moments = {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
        if any(f"{name}/{key}" in there for key in moments):
            expected |= {f"{name}/{key}": value for key, value in moments.items()}
    return read_tensors(path, expected, what="the optimizer's state")
