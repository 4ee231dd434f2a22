"""Frames of the model's own to train on: streams that run on from step to step, each beside the clip it began in.

A model is trained on what it will meet: frames that it has made from its own frames, up to LONGEST of them. The target
then leads from where the stream is to where the clip is, under the actions of the clip. Solving one frame a step costs
less than rolling a few frames out anew, and reaches much further.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from biflow.config import TrainConfig
from biflow.data.windows import Past, Windows
from biflow.model import Model
from biflow.rollout import stream
from biflow.solvers import SolverError
from biflow.video import to_float

LONGEST = 24  # frames of a stream, after which too little of the clip is left in it (PSNR of the shipped model: 18 dB)
POOL = 4  # streams for each sample of a step that begins with own frames, so that those of a step are not alike
# Near the solver of streams: trained on frames of two Euler steps, which are blurred, a network learns to sharpen its
# frames, and streamed by a better solver it does so again and again (docs/lab-notes.md).
STEPS = 4


class OwnFrames:
    """The streams of one process, of which each step takes the next few a frame further.

    Attributes:
        clips: (n,) for each stream, the window of the set whose first frame is where the clip is; -1 before it begins.
        ends: (n,) the window at which it ends.
        frames: (n, m + 1, *shape), the newest frames of the stream, the last one last.
        turn: the stream whose turn is next.
    """

    def __init__(self, windows: Windows, config: TrainConfig, samples: int, device: torch.device) -> None:
        self.windows, self.share, self.context = windows, config.own_frames, config.context
        n = POOL * max(1, round(config.own_frames * samples))
        self.clips, self.ends = np.full(n, -1), np.full(n, -1)
        self.frames = torch.zeros((n, config.context + 1, 3, *windows.size), device=device)
        self.turn = 0
        lengths = np.array([clip["frames"] for clip in windows.clips])
        places = windows.places
        left = lengths[places[:, 0]] - windows.frames - places[:, 1]  # steps until the clip ends
        self._begins = np.flatnonzero((places[:, 1] >= self.context) & (left > 0))
        self._left = left

    @property
    def state(self) -> dict[str, Tensor]:
        """What a run resumes with."""
        places = torch.from_numpy(np.stack([self.clips, self.ends, np.full_like(self.clips, self.turn)]))
        return {"places": places, "frames": self.frames}

    @state.setter
    def state(self, found: Mapping[str, Tensor]) -> None:
        self.clips, self.ends, turn = (row.copy() for row in found["places"].numpy())
        self.frames, self.turn = found["frames"].to(self.frames.device), int(turn[0])

    def put(self, frames: Tensor, batch: Past, model: Model, generator: torch.Generator) -> None:
        """Take a few streams a frame further, and put them in the place of the first samples of a batch.

        `frames` are those of the batch in [-1, 1]. Its actions, and how much past is known, change with them.
        """
        chance = torch.rand(1, generator=generator, device=generator.device).item()
        count = min(int(self.share * len(frames) + chance), len(self.clips))
        if not count or not len(self._begins):
            return
        picks = (self.turn + np.arange(count)) % len(self.clips)
        self.turn = int(picks[-1] + 1)
        draws = torch.rand((count, 2), generator=generator, device=generator.device).tolist()
        for pick, (begin, length) in zip(picks, draws, strict=True):
            if self.clips[pick] >= self.ends[pick]:
                self._begin(pick, self._begins[int(begin * len(self._begins))], 1 + int(length * LONGEST))
        past = self.windows.with_past(self.clips[picks] + 1, self.context + 1)
        now = self.context + 1  # the place in `past` of the frame to be made
        actions = None
        if model.actions and past.actions is not None:
            actions = [model.actions.clamped(past.actions[:, now - 1].numpy())]
        how = {"generators": [generator] * count, "solver": model.method.solver.fixed(STEPS)}
        try:
            own = next(stream(model, self.frames[picks], actions=actions, **how)).x
        except SolverError:  # weights that are not finite: the loss will say so
            return
        self.frames[picks] = torch.cat([self.frames[picks][:, 1:], own[:, None]], dim=1)
        self.clips[picks] += 1
        window = to_float(past.frames[:, now:].to(frames.device))
        window[:, 0] = own
        place = frames.shape[1] - window.shape[1]
        frames[:count, place:] = window
        frames[:count, place - self.context : place] = self.frames[picks][:, :-1]
        batch.known[:count] = self.context
        if batch.actions is not None and past.actions is not None:
            batch.actions[:count, place:] = past.actions[:, now:]

    def _begin(self, pick: int, window: int, length: int) -> None:
        """Begin a stream at the first frame of a window, for at most so many frames."""
        self.clips[pick], self.ends[pick] = window, window + min(length, self._left[window])
        real = self.windows.with_past([window], self.context).frames[:, : self.context + 1]
        self.frames[pick] = to_float(real.to(self.frames.device))[0]
