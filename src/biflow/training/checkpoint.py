"""Checkpoints: whole or absent, safetensors and JSON only, with everything that an exact resume needs.

A run's folder is a model folder (`config.json`, `diffusion_pytorch_model.safetensors` and its `.ema` variant). It also
holds `checkpoints/step_00001000/`, with everything that the next step depends on, and the SHA-256 of each of its files.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.optim import Optimizer

from biflow.card import write_card
from biflow.config import TrainConfig
from biflow.errors import UserError
from biflow.files import os_error, read_json, read_tensors, replacing, sha256, write_json, write_tensors
from biflow.machine import commit
from biflow.model import Model, load_weights, save_model
from biflow.training.average import Average

log = logging.getLogger("biflow")


class Resumed(NamedTuple):
    """A checkpoint that a run resumes from: its folder, and what its state.json holds."""

    folder: Path
    state: dict

    @property
    def v_scale(self) -> float:
        """The unit of f^v in which its weights were trained."""
        if "v_scale" in self.state:
            return self.state["v_scale"]
        # Checkpoints of older versions do not hold it.
        return read_json(self.folder.parents[1] / "config.json")["v_scale"]


KEEP = 2  # checkpoints; the older one is for the case that the newer one is damaged
STATE, LOCK = "state.json", ".lock"
# What may differ between a run and its continuation. A cosine follows the new number of steps from there on; a model
# whose colours drift is corrected by continuing with coarse noise.
FREE_TO_CHANGE = {"steps", "log_every", "logger", "save_every", "preview_every", "compile", "eps", "coarse_noise"}
FREE_TO_CHANGE |= {"context_noise", "context_eps", "own_frames"}


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the folder of a run, so that no other process trains in it. The system lets go of it if this one dies.

    Raises UserError if another process holds it, or if it cannot be written.
    """
    lock = FileLock(out / LOCK)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"Another run is training in {out}. Wait until it has ended, or give another folder.") from None
    except NotImplementedError:
        log.warning("The file system of %s has no locks: start one run in it at a time.", out)
    except OSError as error:
        raise os_error(error, out) from error
    try:
        yield
    finally:
        if [path.name for path in out.iterdir()] == [LOCK]:  # a run that was refused leaves nothing behind
            (out / LOCK).unlink()
        lock.release()
        with suppress(OSError):
            out.rmdir()


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
            write_tensors(folder / "ema.safetensors", dict(zip(names, ema.shadow, strict=True)))
        write_tensors(folder / "optimizer.safetensors", flat)
        sums = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        write_json(folder / STATE, {**state, "sha256": {**sums, STATE: _sha256(state)}})
    publish(out, model, ema, state)
    found = _found(out)
    newer = [path for path in found if _step(path) > step]  # damaged ones: the run resumed from one before them
    for path in {*newer, *found[: -KEEP - len(newer)]}:
        shutil.rmtree(path)


def publish(out: Path, model: Model, ema: Average | None, state: dict) -> None:
    """Write the model of a run as its newest checkpoint, of which this is the state, has it."""
    names = [name for name, _ in model.weights.named_parameters()]
    averaged = dict(zip(names, ema.shadow, strict=True)) if ema else None
    save_model(out, model, averaged, {"step": str(state["step"]), "commit": state["commit"]})
    write_card(out, state)


def latest(out: Path) -> Path | None:
    """The newest checkpoint of the run in `out`, None if there is none."""
    found = [path for path in _found(out) if (path / STATE).exists()]
    return found[-1] if found else None


def newest_whole(out: Path, *, say: bool = True) -> Resumed | None:
    """The newest checkpoint of the run in `out` whose files are as they were saved, None if there is none at all.

    With `say`, the logger reports newer ones that are damaged. Raises UserError if all are.
    """
    damaged = []
    for checkpoint in reversed(_found(out)):
        if not (file := _damaged(checkpoint)):
            for found in damaged if say else ():
                log.warning("%s is damaged. The newest checkpoint that is whole, %s, is used.", found, checkpoint)
            return Resumed(checkpoint, read_json(checkpoint / STATE))
        damaged.append(file)
    if damaged:
        files = ", ".join(map(str, damaged))
        raise UserError(f"No checkpoint of the run in {out} is whole; damaged: {files}. Start anew in another folder.")
    return None


def _found(out: Path) -> list[Path]:
    """All checkpoints of a run, the oldest first."""
    return sorted((out / "checkpoints").glob("step_*[0-9]"), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("_")[2])


def _damaged(checkpoint: Path) -> Path | None:
    """A file of the checkpoint that is missing or not as it was saved, None if there is none."""
    file = checkpoint / STATE
    try:
        state = read_json(file)
        sums: dict | None = state.pop("sha256", None)
        if state["step"] != _step(checkpoint) or (sums and sums.pop(STATE) != _sha256(state)):
            return file
        if sums is None:  # an older version kept none
            names = ("model", "ema", "optimizer") if state["config"]["ema"] else ("model", "optimizer")
            sums = {f"{name}.safetensors": "" for name in names}
        for name, expected in sums.items():
            file = checkpoint / name
            if expected and sha256(file) != expected:
                return file
            if not expected:
                read_tensors(file)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # whatever was read there
        return file
    return None


def _sha256(state: dict) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def check_settings(resumed: Resumed, config: TrainConfig) -> None:
    """Raise UserError if the run of this checkpoint was started with other settings."""
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


def load(checkpoint: Path, network: nn.Module, optimizer: Optimizer, ema: Average | None) -> None:
    """Put everything back as `save` found it."""
    load_weights(network, checkpoint / "model.safetensors")
    names = [name for name, _ in network.named_parameters()]
    if ema:
        averaged = read_tensors(checkpoint / "ema.safetensors")
        for shadow, name in zip(ema.shadow, names, strict=True):
            shadow.copy_(averaged[name])
        ema.steps = _step(checkpoint)
    moments: dict[int, dict[str, Tensor]] = {i: {} for i in range(len(names))}
    for name, value in read_tensors(checkpoint / "optimizer.safetensors").items():
        parameter, key = name.rsplit("/", 1)
        moments[names.index(parameter)][key] = value.clone()
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
