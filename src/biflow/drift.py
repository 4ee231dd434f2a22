"""Drift: how much else than the noise that was added a BI-FLOW model sees in a frame.

Noise n of level eps is added to a frame, and f^n(x, 0, eps) is split into the part along n and the rest. Of a frame
such as those of training, little is left. An error of a frame that looks like the noise of training is taken for
noise: errors from pixel to pixel, and, with coarse noise in training, those of brightness and colour. Blur is not.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from biflow.data.starts import first_frames
from biflow.errors import UserError
from biflow.model import Model
from biflow.paths import State
from biflow.solvers.solution import columns
from biflow.video import to_float, to_uint8

EPS = 0.1  # of the noise by which frames are looked at; all presets learn this level
AT_ONCE = 16  # frames
EVERY = 16  # frames from one look to the next: it takes an evaluation, as much as a whole frame of a flow map
LEVELS = (0.05, 0.2)  # the lowest and the highest that `AutoEps` chooses
# Of real frames, one in twenty has more drift than this many times their mean (in the sets of docs/lab-notes.md).
ALLOWED = 1.1
POWER, DOWN, UP = 4, 0.9, 2.0
LEAST = 1e-6  # of real frames, since others are divided by it


@torch.inference_mode()
def drift(model: Model, frames: UInt8[Tensor, "n 3 h w"], eps: float = EPS) -> Float[Tensor, " n"] | None:
    """eps times the rms of f^n(x, 0, eps) without its part along n, for x = frame + eps n: in [-1, 1] units.

    None if the model learns no noise. It is told no past and no action. The noise is always the same, so that the drift
    of a frame depends on the frame alone.
    """
    found = []
    for part in frames.split(AT_ONCE):
        x = to_float(part).to(model.device)
        n = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x).expand_as(x)
        n_hat = model.method.noise(model.network, x + eps * n, eps, conditions=model.conditions(len(x)))
        if n_hat is None:
            return None
        share = (n_hat * n).flatten(1).sum(1) / n.square().flatten(1).sum(1)
        rest = n_hat - columns(share, n) * n
        found.append(eps * rest.square().flatten(1).mean(1).sqrt())
    return torch.cat(found).float().cpu()


class AutoEps:
    """A noise level for each sample of a stream: the least that keeps its frames as free of errors as real ones.

    Every 16th frame is looked at, and its drift over that of real frames compared with 1.1. Where it is less, the
    level is more than enough, and falls slowly: by the fourth power of this ratio, at most by a tenth. Where it is
    more, the level rises by that power, at most to twice itself; but if the drift has not fallen since the last look,
    the last change did not help, and the level goes the other way. For too low a level lets errors grow, and too high
    a level can leave errors of its own, such as a grid. It also makes the model forget more of what it showed, and a
    frame take more evaluations. The level stays between 0.05 and 0.2; from 0.2, it first goes down.

    Args:
        model: with a method that learns noise.
        samples: of the stream.
        real: (1,) or (b,), the drift of real frames: `real_drift`.

    Attributes:
        model: that of the stream.
        level: (b,), that of the next frame. It begins with the model's own, within the bounds.
    """

    def __init__(self, model: Model, samples: int, real: Float[Tensor, " n"]) -> None:
        self.level = torch.full((samples,), min(max(model.eps, LEVELS[0]), LEVELS[1]), device=model.device)
        self.model, self._real = model, real
        self._frames = self._looked = 0  # frames that were solved, and how many they were at the last look
        self._last = torch.full((samples,), torch.inf)  # the drift at that look
        self._way = torch.ones(samples) if model.eps < LEVELS[1] else -torch.ones(samples)  # 1: the level goes up

    def look(self, frame: State) -> int:
        """Choose the level for the frame that is solved from `frame`; the evaluations that it took, 0 or 1."""
        if self._frames % EVERY or self._frames == self._looked:  # the first one, frame 0, is real
            return 0
        self._looked = self._frames
        found = drift(self.model, to_uint8(frame).cpu())
        assert found is not None, "a model that takes a noise level learns noise"
        ratio = found / self._real / ALLOWED
        onward = torch.where(found < self._last, self._way, -self._way)
        self._last, self._way = found, torch.where(ratio > 1, onward, -1)
        change = torch.where(ratio > 1, ratio.pow(POWER).clamp(max=UP).pow(self._way), ratio.pow(POWER).clamp(min=DOWN))
        self.level = (self.level * change.to(self.level)).clamp(*LEVELS)
        return 1

    def passed(self) -> None:
        """Count a frame that was solved; one that was given up does not count."""
        self._frames += 1


def real_drift(model: Model, first: State) -> Float[Tensor, " n"]:
    """(1,), the mean drift of the model's own first frames, or if it has none (b,), that of `first` (b, 3, h, w).

    Raises UserError for a model that learns no noise, or that is not one of frames.
    """
    if model.shape is None:
        raise UserError("eps auto needs a model of frames, whose shape is known.", setting="eps")
    folder = model.folder / "first" if model.folder else None
    own = folder is not None and folder.is_dir()
    found = drift(model, first_frames(folder, model.size) if folder and own else to_uint8(first).cpu())
    if found is None:
        raise UserError(f"eps auto needs a BI-FLOW model; {model.method.title} learns no noise.", setting="eps")
    return (found.mean(0, keepdim=True) if own else found).clamp(min=LEAST)
