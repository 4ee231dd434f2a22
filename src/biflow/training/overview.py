"""What a run says before its first step: what it uses, and what is to be expected."""

import os
from pathlib import Path

import torch

from biflow.config import TrainConfig
from biflow.data.windows import Windows
from biflow.machine import hardware
from biflow.model import Model
from biflow.training.begin import rms_change
from biflow.training.preview import first_due


def overview(config: TrainConfig, model: Model, windows: Windows, out: Path, step: int, *, bf16: bool) -> list[str]:
    """A few lines of text for people, before the steps after `step`."""
    return [
        f"{model.method.title} on {hardware()}: {_shared(model)}, {'bf16' if bf16 else 'fp32'}.",
        f"Data: {_data(windows)}.",
        f"Network: {_network(config, model, step)}.",
        f"Steps: {config.steps} of {_count(config.batch, _sample(windows))}, "
        f"{config.steps * config.batch / len(windows):.3g} passes over the data.",
        *_losses(config, model, windows, step),
        f"Previews: {_previews(config, out, step)}.",
    ]


def _shared(model: Model) -> str:
    processes = _count(int(os.environ.get("WORLD_SIZE", "1")), "process")
    return f"{processes} of {_count(torch.get_num_threads(), 'thread')}" if model.device.type == "cpu" else processes


def _data(windows: Windows) -> str:
    clips, (height, width) = windows.clips, windows.size
    frames, pairs = sum(clip["frames"] for clip in clips), _count(len(windows), _sample(windows))
    tests = _count(len(windows.index["clips"]) - len(clips), "clip")
    inside = f"{_count(frames, 'frame')} ({pairs}) in {_count(len(clips), 'clip')}"
    return f"{windows.root}, {height}x{width}, {inside}; {tests} for testing"


def _sample(windows: Windows) -> str:
    return "pair" if windows.frames == 2 else "window"


def _network(config: TrainConfig, model: Model, step: int) -> str:
    seen = [_count(config.context, "past frame")] if config.context else []
    seen += [f"actions ({', '.join(model.actions.columns)})"] if model.actions else []
    size = sum(weights.numel() for weights in model.weights.parameters()) / 1e6
    begun = f"resuming after step {step}" if step else f"beginning with {config.init or 'random weights'}"
    return f"{size:.1f} million parameters, {begun}" + (f"; it also sees {' and '.join(seen)}" if seen else "")


def _losses(config: TrainConfig, model: Model, windows: Windows, step: int) -> list[str]:
    """What to expect of them. The figures are those of the preset "own" (docs/own-videos.md)."""
    if not model.method.motion_unit:
        return []
    still = rms_change(windows, config.path) ** 2
    lines = [f"Losses: a picture that stands still has v {still:.2g}, where v is the error of the motion."]
    if not step and not config.init:
        expected = "v begins at two to three times that, and falls below it after some hundreds of steps"
        noise = "n, the error of the noise, begins at 1 and is near 0.6 after 150 steps"
        lines += [f"In our runs {expected}; {noise}." if model.method.takes_eps else f"In our runs {expected}."]
    return lines


def _previews(config: TrainConfig, out: Path, step: int) -> str:
    if not config.preview_every:
        return "none"
    which, due = "next" if step else "first", first_due(step, config.preview_every)
    return f"in {out / 'previews'}, the {which} after step {due}" if due <= config.steps else f"none before step {due}"


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
