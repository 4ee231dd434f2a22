"""The moving picture on a model's card: streams from its first frames, side by side."""

import logging
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from biflow.animation import AnimationWriter
from biflow.data.starts import starts
from biflow.errors import UserError
from biflow.model import Model
from biflow.moments import autopilot
from biflow.rollout import drain
from biflow.sequences import follow
from biflow.video import to_float

log = logging.getLogger("biflow")
STREAMS, SECONDS, FRAMES = 4, 3.0, 64  # at most
SIDE = 128  # pixels, that frames are enlarged to in whole steps


def draw(model: Model, path: Path) -> None:
    """Write the picture of a model with first frames; without them, or if it cannot stream, the logger says why not.

    Where the model takes actions, moments of its clips steer, as in `biflow sample` without actions.
    """
    path.unlink(missing_ok=True)  # of another model
    first = (model.folder or path.parent) / "first"
    if not first.is_dir():
        log.warning("The card has no moving picture, for the model has no first frames.")
        return
    (height, width), fps = model.size, model.fps or 25.0
    try:
        found = starts(first, model.size, past=model.context)
        begin = to_float(found.frames[:STREAMS]).to(model.device)
        total = min(FRAMES, max(2, round(SECONDS * fps)))
        side_by_side = (height, len(begin) * (width + 1) - 1)  # a white line between two
        with AnimationWriter(path, fps, side_by_side, scale=max(1, SIDE // max(model.size))) as picture:
            frames = islice(drain(follow(model, begin, actions=autopilot(model))), total)
            for frame in tqdm(frames, "moving picture", total, unit="frame"):
                picture.write(torch.cat(list(F.pad(frame.pixels, (0, 1), value=255)), dim=2)[:, :, :-1])
    except UserError as error:
        log.warning("The card has no moving picture: %s", error)
