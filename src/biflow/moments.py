"""What is done when nobody steers: what was done in the clips where it looked most like now.

A model that takes actions comes with moments of its training clips: how a frame looks from afar, and what was done
after it. So a stream turns where the clips turn, and stays with what the model has seen. This is imitation by nearest
neighbours (Pari et al. 2021, arXiv 2112.01511), with pixels for features.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from biflow.actions import Actions
from biflow.errors import UserError
from biflow.model import Model
from biflow.rollout import Policy
from biflow.tensors import entries, read_tensors
from biflow.video import to_uint8

FILE = "moments.safetensors"  # in the folder of first frames
SIDE = 8  # of their pictures
MOST, LONGEST = 2**14, 2**10  # moments of a file, and actions of each


@dataclass(frozen=True)
class Moments:
    """Moments of clips.

    Attributes:
        pictures: how the frames look, in grey levels.
        rows: what was done after each and after the frames that followed, in the units of the set.
    """

    pictures: Float[Tensor, "n 3 8 8"]
    rows: Float[np.ndarray, "n m k"]

    def nearest(self, frames: UInt8[Tensor, "b 3 h w"]) -> Int[np.ndarray, " b"]:
        """The numbers of the moments that look most like these frames."""
        seen, known = look(frames).flatten(1), self.pictures.flatten(1)
        return torch.cdist(seen, known, compute_mode="donot_use_mm_for_euclid_dist").argmin(1).numpy()

    def policy(self) -> Policy:
        """What to do after each frame of one stream: it looks, does what was done then, and looks again."""
        coming: list[Float[np.ndarray, "b k"]] = []

        def act(frames: Tensor) -> Float[np.ndarray, "b k"]:
            if not coming:
                coming.extend(self.rows[self.nearest(to_uint8(frames).cpu())].swapaxes(0, 1))
            return coming.pop(0)

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
