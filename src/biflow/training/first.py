"""What previews and the finished model start from, and what steers it when nobody does."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image

from biflow.actions import Actions
from biflow.data.starts import held_out
from biflow.data.windows import Windows
from biflow.files import replacing, write_tensors
from biflow.moments import FILE, look

FIRST = 8  # frames that a model keeps
MOMENTS, ACTIONS = 1024, 8  # moments, and actions after each


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


def write_first(out: Path, data: Path, context: int, actions: Actions | None = None) -> None:
    """Write at most FIRST frames of a set to the folder `out`, where `sample` and `serve` find them in a model.

    These are images, of the test split if there is one; for a model with context, folders of images, each with a frame
    and those before it. For a model that takes the actions of the set, moments of its training clips lie beside them.
    """
    test, clips = held_out(data, say=False), Windows(data)
    with replacing(out) as folder:
        folder.mkdir()
        for i, (clip, newest) in enumerate(places(test, FIRST, before=context).tolist()):
            for index in range(max(0, newest - context), newest + 1):
                path = folder / f"{i:03d}" / f"{index:06d}.png" if context else folder / f"{i:03d}.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(test.frame(clip, index).permute(1, 2, 0).numpy()).save(path)
        if actions and clips.actions and clips.actions.columns == actions.columns:
            _write_moments(folder / FILE, clips, actions)


def _write_moments(path: Path, clips: Windows, actions: Actions) -> None:
    """Write moments of these clips, if they have actions in a row."""
    length = min(ACTIONS, max(clip["frames"] for clip in clips.clips) - 1)
    pictures, rows = [], []
    for clip, frame in places(clips, MOMENTS, after=length).tolist():
        done = clips.action_rows(clip)[frame : frame + length]
        if len(done) == length and np.isfinite(done).all():
            pictures.append(look(clips.frame(clip, frame)[None])[0].round().to(torch.uint8))
            rows.append(torch.from_numpy(actions.clamped(done)).float())
    if rows:
        write_tensors(path, {"pictures": torch.stack(pictures), "rows": torch.stack(rows)})
