"""The model that a run begins with, and the unit of its motion."""

import logging
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from biflow import methods
from biflow.actions import Actions
from biflow.config import TrainConfig
from biflow.data.windows import Windows, evenly
from biflow.engines import with_engine
from biflow.errors import UserError
from biflow.methods import Method
from biflow.model import Model, empty_conditions, load_model, save_model
from biflow.networks import VideoUNet, check_size
from biflow.paths import PATHS
from biflow.training.checkpoint import Resumed
from biflow.video import to_float
from biflow.warm_start import field_of, start_from

log = logging.getLogger("biflow")


def new_model(
    config: TrainConfig,
    windows: Windows,
    network: nn.Module | None,
    device: torch.device,
    resumed: Resumed | None,
) -> tuple[Model, float]:
    """A model with fresh weights, or with those of `init` in a new run, and the unit of its f^v."""
    method = methods.get(config.method)
    _check_span(config, method)
    actions = windows.actions if config.span == 1 else None  # each acts on one frame
    if windows.actions and not actions:
        log.warning("With a span of more than 1, the model takes no actions: those of the set are not used.")
    if config.init and network is not None:
        raise UserError("A network of your own begins with its own weights.", setting="init")
    first = None if resumed else first_model(config, actions)  # a resumed run no longer needs it
    if resumed:
        v_scale = resumed.v_scale
    elif first:  # its f^v has a unit already
        v_scale = first.config["v_scale"]
        if config.v_scale not in (None, v_scale):
            log.warning("v_scale is that of %s, %g, not %g.", config.init, v_scale, config.v_scale)
    else:
        v_scale = config.v_scale or rms_change(windows, config.path) if method.motion_unit else 1.0
    if network is None:
        check_size(config.network, *windows.size)
        seen = empty_conditions(1, (3, 1, 1), config.context, actions)
        with torch.random.fork_rng([]):  # nothing else sees the seed of the weights
            torch.manual_seed(config.seed)
            network = VideoUNet(method, config.network, v_scale=v_scale, conditions=seen, span=config.span)
        if first:
            start_from(network, method, actions, config.context, first)
            _check_scale(config, windows, first)
    eps, shape = config.eps if method.takes_eps else 0.0, (3, *windows.size)
    memory = (config.context, config.context_eps, actions, config.span, 0 if method.clips else config.spin)
    return Model(network, method, shape, eps, windows.fps, *memory, device=device), v_scale


def first_model(config: TrainConfig, actions: Actions | None) -> Model | None:
    """The model that a new run begins with, if any. Raises UserError for one that cannot be it."""
    if not config.init:
        return None
    method, first = methods.get(config.method), load_model(config.init)
    if first.span != config.span:
        raise UserError(f"{config.init} has a span of {first.span}, not {config.span}.", setting="init")
    if method.teacher and (first.context, first.actions) != (config.context, actions):
        what = f"{method.title} learns from {config.init}, and has to see the same past frames and actions"
        raise UserError(f"{what}: set context to {first.context}, and give a set with its actions.", setting="init")
    return first


def _check_scale(config: TrainConfig, windows: Windows, first: Model) -> None:
    """Warn where wider patches than those of the first model are not for frames as much larger."""
    assert isinstance(first.network, VideoUNet)
    k = config.network.patch // first.network.network.patch
    fitting = tuple(k * side for side in first.size)
    if k > 1 and windows.size != fitting:
        sizes = [f"{h}x{w}" for h, w in (fitting, windows.size)]
        log.warning("With patches %d times as wide, %s fits frames of %s, not %s.", k, config.init, *sizes)


def _check_span(config: TrainConfig, method: Method) -> None:
    """Raise UserError for a span that the method cannot have."""
    if config.span > 1 and not method.spans:
        raise UserError(f"{method.title} solves one frame at a time: set span to 1.", setting="span")
    if config.span < 2 and method.clips:
        what = f"{method.title} makes whole clips: set span to their number of frames, such as 16."
        raise UserError(what, setting="span")


def teacher_of(config: TrainConfig, out: Path, accelerator: Accelerator, *, resumed: bool) -> Model | None:
    """The model that the method's loss learns from, if it does; a run keeps a copy of it."""
    method, copy = methods.get(config.method), out / "teacher"
    if method.teacher is None:
        return None
    if accelerator.is_main_process and not (resumed and copy.exists()):
        what = f"{method.title} begins with a {methods.get(method.teacher).title} model, and learns from it"
        if not config.init:
            raise UserError(f"{what}: name one.", setting="init")
        first = load_model(config.init)
        if first.method.name == method.name:  # begun before
            first = _teacher_in(first, resumed=resumed)
        elif resumed:
            log.warning("The teacher of this run is gone: %s, as it is now, takes its place.", config.init)
        save_model(copy, first)
    accelerator.wait_for_everyone()
    teacher = load_model(copy, device=accelerator.device)
    if not config.compile:
        return with_engine(teacher)
    teacher.weights.compile()
    return teacher


def _teacher_in(first: Model, *, resumed: bool) -> Model:
    """The teacher that the run of a flow map has kept, or for a new run the map's own field."""
    assert first.folder is not None
    kept = first.folder / "teacher"
    if kept.exists():
        return load_model(kept)
    if resumed:
        what = f"The teacher of this run is gone, and {first.folder} has none"
        raise UserError(f"{what}: put it back, or begin a new run in another folder.", setting="out")
    log.warning("%s has no teacher beside it. Its own field is the teacher.", first.folder)
    return field_of(first)


def rms_change(windows: Windows, path: str = "linear", samples: int = 512) -> float:
    """Root mean square of dx_t/dt, x1 - x0 on a straight path, over windows of a set, in [-1, 1] units.

    There are at most `samples` of them, evenly spread.
    """
    picks = evenly(len(windows), samples)
    squares = []
    for number in range(len(picks)):  # one at a time: windows may be large
        t = torch.tensor([number * 0.618 % 1])
        squares.append(PATHS[path](to_float(windows.batch(picks[number : number + 1])), t)[1].square().mean().item())
    return max(float(np.mean(squares)) ** 0.5, 1e-3)  # positive for a still video too
