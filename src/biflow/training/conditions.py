"""What a batch is trained under: past frames with noise, some of them the model's own, and actions."""

import contextlib
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from biflow.config import TrainConfig
from biflow.data.windows import Past
from biflow.model import Model
from biflow.paths import Conditions
from biflow.rollout import stream
from biflow.solvers import SolverError
from biflow.spinning import moved, spread
from biflow.video import to_float

OWN = 3  # frames of a rollout, at most
# Near the solver of streams: trained on frames of two Euler steps, which are blurred, a network learns to sharpen its
# frames, and streamed by a better solver it does so again and again (docs/lab-notes.md).
OWN_STEPS = 4
DROPPED = 0.2  # share of the samples that have less past than they could, and share of those without their action


def frames_before(config: TrainConfig) -> int:
    """How many frames before a window a training step looks at."""
    return config.context + (OWN if config.own_frames else 0)


def conditions(
    model: Model, batch: Past, config: TrainConfig, generator: torch.Generator
) -> tuple[Float[Tensor, "b window *shape"], Conditions]:
    """The clips of a batch in [-1, 1] and what they are seen under, with noise from `generator`, on its device.

    - Each past frame has noise of a level of its own from U(0, context_noise). A share of the samples has less past
      than there is, as at the start of a stream.
    - A share `own_frames` of the samples begins with frames that the model itself has made from up to OWN frames
      before. The clip then leads from where the model is to where the video is.
    - Actions are left out in a share of the samples.
    - Where the model spins, each sample is moved aside as the frames of its streams are.
    """
    frames = to_float(batch.frames.to(generator.device, non_blocking=True))
    now = frames_before(config)  # the place of the current frame
    if config.own_frames:
        _put_own(frames, model, batch, config, generator)
    if model.spin:
        frames = moved(frames, spread(_uniform(len(frames), 2, generator=generator), model.spin))
    seen = model.conditions(len(frames))
    if seen.past is not None and seen.past_noise is not None:
        _put_past(seen.past, seen.past_noise, frames[:, :now], batch.known, config, generator)
    if model.actions and seen.action is not None and batch.actions is not None:
        row = torch.from_numpy(model.actions.scaled(batch.actions[:, now].numpy())).to(generator.device)
        known = row.isfinite().all(1) & (_uniform(len(row), generator=generator) >= DROPPED)
        seen.action[:, 0] = known
        seen.action[:, 1:] = torch.where(known[:, None], row, 0)
    return frames[:, now:], seen


def _put_past(
    past: Tensor, past_noise: Tensor, before: Tensor, known: Tensor, config: TrainConfig, generator: torch.Generator
) -> None:
    """Fill in the past (b, m, *shape) and its noise levels (b, m) from the frames `before` the current one."""
    b, m = past_noise.shape
    known = known.to(past.device).clamp(max=m)
    fewer = (_uniform(b, generator=generator) * m).long()  # 0 to m - 1
    drop = _uniform(b, generator=generator) < DROPPED
    known = torch.where(drop, torch.minimum(known, fewer), known)
    there = torch.arange(m, device=past.device) < known[:, None]
    level = _uniform(b, m, generator=generator) * config.context_noise
    past_noise.copy_(torch.where(there, level, past_noise))
    n = torch.randn(past.shape, generator=generator, device=past.device)
    wide = (b, m, *(1,) * (past.ndim - 2))
    newest_first = before[:, before.shape[1] - m :].flip(1)
    past.copy_(torch.where(there.view(wide), newest_first + level.view(wide) * n, past))


def _put_own(frames: Tensor, model: Model, batch: Past, config: TrainConfig, generator: torch.Generator) -> None:
    """Replace the current frame and up to OWN - 1 before it, in a share of the samples, by what the model makes."""
    now = frames_before(config)
    chance, length = _uniform(2, generator=generator).tolist()
    count, length = int(config.own_frames * len(frames) + chance), 1 + int(length * OWN)
    rows = (batch.known >= config.context + length).nonzero()[:count, 0]
    if not len(rows):
        return
    start = now - length
    actions = None
    if model.actions and batch.actions is not None:
        done = batch.actions[rows, start:now].numpy()
        known = np.isfinite(done).all(axis=-1, keepdims=True)
        actions = list(np.where(known, model.actions.clamped(done), np.nan).swapaxes(0, 1))
    own = stream(
        model,
        frames[rows.to(frames.device), start - config.context : start + 1],
        actions=actions,
        generators=[generator] * len(rows),
        solver=model.method.solver.fixed(OWN_STEPS),
    )
    with contextlib.suppress(SolverError):  # weights that are not finite: the loss will say so
        for place, frame in enumerate(islice(own, length), start=start + 1):
            frames[rows.to(frames.device), place] = frame.x


def _uniform(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)
