"""What is done when nobody steers: what was done in the clips where it looked most like now.

A model that takes actions comes with moments of its training clips: how a frame looks from afar, and what was done
after it. So a stream turns where the clips turn, and stays with what the model has seen. This is imitation by nearest
neighbours (Pari et al. 2021, arXiv 2112.01511), with pixels for features.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from biflow.actions import Actions
from biflow.errors import UserError
from biflow.model import Model
from biflow.rollout import Policy
from biflow.tensors import entries, read_tensors
from biflow.video import to_uint8

FILE = "moments.safetensors"  # in the folder of first frames
SIDE = 8  # of their pictures
RECENT = 4  # moments that a stream does not follow again
MOST, LONGEST = 2**14, 2**10  # moments of a file, and actions of each


class Plan(NamedTuple):
    """What is done next: the rest of what was done at a moment, and the numbers of the moments that were followed."""

    of: "Moments | None" = None
    rows: Sequence[Float[np.ndarray, " k"]] = ()
    followed: tuple[int, ...] = ()


NO_PLAN = Plan()


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of clips.

    Attributes:
        pictures: how the frames look, in grey levels.
        rows: what was done after each and after the frames that followed, in the units of the set.
    """

    pictures: Float[Tensor, "n 3 8 8"]
    rows: Float[np.ndarray, "n m k"]

    def nearest(self, frame: UInt8[Tensor, "3 h w"], recent: Sequence[int] = ()) -> int:
        """The number of the moment that looks most like a frame, but for the `recent` ones.

        Where nothing changes, as before a wall, it thus does something else than before.
        """
        distances = (self.pictures - look(frame[None])).square().flatten(1).sum(1)
        if len(set(recent)) < len(distances):
            distances[list(recent)] = torch.inf
        return int(distances.argmin())

    def after(self, frame: UInt8[Tensor, "3 h w"], plan: Plan) -> tuple[Float[np.ndarray, " k"], Plan]:
        """What to do after a frame: what is planned, or what was done at the moment nearest to it; and the new plan."""
        if plan.of is not self:
            plan = Plan(self)
        if not plan.rows:
            moment = self.nearest(frame, plan.followed)
            plan = Plan(self, list(self.rows[moment]), (*plan.followed, moment)[-RECENT:])
        return plan.rows[0], plan._replace(rows=plan.rows[1:])

    def policy(self) -> Policy:
        """What to do after each frame of one stream of any number of samples."""
        plans: list[Plan] = []

        def act(frames: Tensor) -> Float[np.ndarray, "b k"]:
            pixels = to_uint8(frames).cpu()
            found = [self.after(*pair) for pair in zip(pixels, plans or [NO_PLAN] * len(pixels), strict=True)]
            plans[:] = [plan for _, plan in found]
            return np.stack([row for row, _ in found])

        return act


def look(frames: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 8 8"]:
    """How frames look from afar: the means of 8x8 parts."""
    return F.adaptive_avg_pool2d(frames.float(), SIDE)


def read_moments(folder: Path | None, actions: Actions | None) -> Moments | None:
    """The moments of the model in `folder`; None if it has none, or takes no actions.

    Raises:
        UserError: a damaged file, or one of other actions.
    """
    path = folder and folder / "first" / FILE
    if path is None or actions is None or not path.is_file():
        return None
    header = entries(path)
    shape = header["rows"].shape if "rows" in header else ()
    if len(shape) != 3 or not (0 < shape[0] <= MOST and 0 < shape[1] <= LONGEST and shape[2] == len(actions.columns)):
        what = f"{path} does not hold moments of the actions {', '.join(actions.columns)}"
        raise UserError(f"{what}. Get or write the folder of the model again.")
    pictures = torch.empty(shape[0], 3, SIDE, SIDE, dtype=torch.uint8)
    found = read_tensors(path, {"pictures": pictures, "rows": torch.empty(shape)}, what="a file of moments")
    rows = actions.check(found["rows"].float().flatten(0, 1).numpy(), str(path))
    return Moments(found["pictures"].float(), rows.reshape(shape))


def autopilot(model: Model) -> Policy | Iterable[Any] | None:
    """The actions of one stream when nobody steers: `stream(model, first, actions=autopilot(model))`.

    It does what was done in the clips where it looked most like the frame. For a model without moments no action is
    known, and it continues by itself; for a model without actions this is None. Raises what `read_moments` raises.
    """
    if model.actions is None:
        return None
    moments = read_moments(model.folder, model.actions)
    return moments.policy() if moments else repeat(None)
