"""Frames that previews and the finished model start from: of clips that are not trained on, where there are some."""

import csv
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from biflow.actions import Actions
from biflow.data.starts import AFTER
from biflow.data.windows import Windows
from biflow.files import replacing

FIRST = 8  # that a model keeps
LONGEST = 256  # actions after each, at most


def places(windows: Windows, count: int, *, before: int = 0, after: int = 0) -> Int[np.ndarray, "n 2"]:
    """At most `count` frames, spread evenly over a split: the number of the clip, and the frame's place in it.

    Each has `before` frames before it and `after` frames after it in its clip, or as many as the clips allow: first one
    frame after it, then the frames before it.
    """
    clips = [clip["frames"] for clip in windows.clips]
    found = np.concatenate([np.stack([np.full(n, clip), np.arange(n)], axis=1) for clip, n in enumerate(clips)])
    past, future = found[:, 1], np.repeat(clips, clips) - 1 - found[:, 1]
    fits = future >= min(after, 1, future.max())
    fits &= past >= min(before, past[fits].max())
    fits &= future >= min(after, future[fits].max())
    found = found[fits]
    return found[np.linspace(0, len(found) - 1, 2 * min(count, len(found)) + 1)[1::2].round().astype(int)]


def write_first(out: Path, windows: Windows, context: int, actions: Actions | None = None) -> None:
    """Write at most FIRST frames of a split to the folder `out`, where `sample` and `serve` find them in a model.

    These are images; for a model with context, folders of images, each with a frame and those before it. Beside them
    lie the actions that followed in the clip, up to LONGEST of them, where the set has those of the model, `actions`.
    """
    if actions and not (windows.actions and windows.actions.columns == actions.columns):
        actions = None
    after = int(min(LONGEST, np.median([clip["frames"] for clip in windows.clips])) / 2) if actions else 0
    with replacing(out) as folder:
        folder.mkdir()
        for i, (clip, newest) in enumerate(places(windows, FIRST, before=context, after=after).tolist()):
            for index in range(max(0, newest - context), newest + 1):
                path = folder / f"{i:03d}" / f"{index:06d}.png" if context else folder / f"{i:03d}.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(windows.frame(clip, index).permute(1, 2, 0).numpy()).save(path)
            if actions:
                rows = folder / f"{i:03d}" / AFTER if context else folder / f"{i:03d}.{AFTER}"
                _write_rows(rows, actions, windows.action_rows(clip)[newest : newest + LONGEST])


def _write_rows(path: Path, actions: Actions, rows: Float[np.ndarray, "n k"]) -> None:
    """Write the rows before the first that is not known, if there are any."""
    unknown = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    rows = rows[: unknown[0]] if len(unknown) else rows
    if len(rows):
        with path.open("w", encoding="utf-8", newline="") as file:
            lines = [[f"{value:.6g}" for value in row] for row in actions.clamped(rows)]
            csv.writer(file).writerows([actions.columns, *lines])
