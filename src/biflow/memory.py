"""What a stream tells a network beside the current frame: the frames before it, and what is done."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from biflow.errors import UserError
from biflow.methods.noise import noise_like
from biflow.model import Model
from biflow.paths import Conditions
from biflow.spinning import moved


def check_past(model: Model, level: float | None) -> None:
    """Raise UserError for a level of noise on past frames where the model sees none."""
    if level and not model.context:
        raise UserError("context_eps is the noise on past frames, and this model sees none.", setting="context_eps")


class Memory:
    """The frames before the current one, as a model with context sees them: the newest ones, each with noise.

    Args:
        model: whose `context` they are.
        past: frames (b, *shape) to begin with, the newest last.
        generators: one per sample, for the noise.
        level: of the noise; the model's own by default.

    Raises:
        UserError: a level below 0 or without bounds, or above 0 for a model that sees no past frames.
    """

    def __init__(
        self, model: Model, past: Sequence[Tensor], generators: Sequence[torch.Generator], level: float | None
    ) -> None:
        self._model, self._generators = model, generators
        self._level = model.context_eps if level is None else level
        if not 0 <= self._level < float("inf"):
            raise UserError(f"context_eps is {self._level:g}, but must be 0 or more.", setting="context_eps")
        check_past(model, level)
        self._past: deque[Tensor] = deque(reversed(past[-model.context :] if model.context else []), model.context)

    def add(self, frame: Tensor) -> None:
        """Remember a frame, and forget the oldest."""
        self._past.appendleft(frame)

    def conditions(self, action: Any, where: str, aside: Int[Tensor, "b 2"]) -> Conditions:
        """What the next frame depends on; `action` as `stream` takes it. Raises UserError for one that does not fit.

        `aside` is where that frame is solved, as of `biflow.spinning`.
        """
        model, conditions = self._model, self._model.conditions(len(self._generators))
        if conditions.past is not None and conditions.past_noise is not None and self._past:
            seen = moved(torch.stack(list(self._past), dim=1), aside)
            noisy = seen + self._level * noise_like(seen, self._generators) if self._level else seen
            conditions.past[:, : len(self._past)] = noisy
            conditions.past_noise[:, : len(self._past)] = self._level
        if model.actions and conditions.action is not None and action is not None:
            rows = self._rows(action, where)
            known = np.logical_not(np.isnan(rows).all(axis=1))  # a sample's row of NaN is an action that is not known
            rows[known] = model.actions.scaled(model.actions.check(rows[known], where))
            rows[~known] = 0
            found = np.concatenate([known[:, None], rows], 1, dtype=np.float32)
            conditions.action.copy_(torch.from_numpy(found))
        return conditions

    def _rows(self, action: Any, where: str) -> np.ndarray:
        """A row for each sample, from one for all or one for each."""
        samples, k = len(self._generators), len(self._model.actions.columns) if self._model.actions else 0
        try:
            row = action.detach().float().cpu().numpy() if isinstance(action, Tensor) else np.array(action, np.float32)
        except (TypeError, ValueError):
            row = np.empty(0)
        if row.shape not in ((k,), (samples, k)):
            needed = f"must be {k} numbers, or {k} for each of the {samples} samples"
            raise UserError(f"The action of {where} {needed}.", setting="actions")
        return np.broadcast_to(row, (samples, k)).copy()
