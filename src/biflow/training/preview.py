"""Previews while training: a contact sheet of short streams, under the actions of the clips that they start from."""

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from biflow.config import Solver
from biflow.data.starts import held_out
from biflow.data.windows import Windows
from biflow.errors import UserError
from biflow.model import Model
from biflow.rollout import drain, stream
from biflow.video import contact_sheet, to_float


def preview(model: Model, data: Path, path: Path, *, samples: int = 4, frames: int = 64, shown: int = 9) -> None:
    """A contact sheet of short streams from first frames of the test split; no sheet if they cannot be solved."""
    test = held_out(data, say=False)  # the run has said it
    picks = np.linspace(0, len(test.clips) - 1, min(samples, len(test.clips))).round().astype(int).tolist()
    first = torch.stack([test.clip(i)[0] for i in picks])
    columns = np.linspace(0, frames - 1, shown - 1).round().astype(int).tolist()
    actions = _actions(model, test, picks, frames)
    stream_ = stream(
        model, to_float(first).to(model.device), actions=actions, solver=Solver(method="midpoint", steps=2)
    )
    try:
        video = [frame.pixels for frame in islice(drain(stream_), frames)]
    except UserError as error:
        tqdm.write(f"No preview: {error}")
        return
    rows = [[start, *(video[column][i] for column in columns)] for i, start in enumerate(first)]
    numbers = ", ".join(str(column + 1) for column in columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows, path, caption=f"{path.stem}: first frame, then frames {numbers}")


def _actions(model: Model, test: Windows, clips: list[int], frames: int) -> list[np.ndarray] | None:
    """The actions of these clips from their first frames on; neutral after their end, and where none is known."""
    if model.actions is None:
        return None
    rows = np.full((frames, len(clips), len(model.actions.columns)), np.nan, np.float32)
    for i, clip in enumerate(clips):
        known = test.action_rows(clip)[:frames]
        rows[: len(known), i] = known
    return list(model.actions.clamped(rows))
