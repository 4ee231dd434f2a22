"""Previews while training: a sheet and a short video, with real clips above what the model makes from their start."""

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from biflow.config import Solver
from biflow.data.starts import held_out
from biflow.data.windows import Windows
from biflow.methods import Method
from biflow.model import Model
from biflow.rollout import drain
from biflow.sequences import follow
from biflow.training.first import places
from biflow.video import VideoWriter, contact_sheet, to_float

START = 50  # steps before the first preview
SAMPLES, FRAMES = 3, 48  # at most
SECONDS = 8.0  # after which a preview ends with the frames that it has, of which there are FEWEST at least
FEWEST = 8
COLUMNS = 9  # of the sheet, the given frame included
LABELS = ("real", "model")


def is_due(step: int, every: int) -> bool:
    """Whether a preview is drawn after this step: 50, 100, 200, 400, … below `every`, then each `every` steps."""
    doubled, rest = divmod(step, START)
    early = rest == 0 and doubled > 0 and doubled & (doubled - 1) == 0 and step < every
    return every > 0 and (early or step % every == 0)


def first_due(step: int, every: int) -> int:
    """The step after which the next preview is drawn, after `step`."""
    return next(later for later in range(step + 1, step + every + 1) if is_due(later, every))


def preview(model: Model, data: Path, path: Path, show: Callable[[str], None], stopped: Callable[[], bool]) -> bool:
    """Stream from a few frames of clips that are not trained on, and write `path` (PNG) and the same name as mp4.

    Their past and their actions are the clips' own. Nothing is written if `stopped` returns True meanwhile.

    Args:
        model: with the weights to draw with.
        data: the prepared set.
        path: of the sheet.
        show: takes a few words on what is being drawn.
        stopped: asked before every frame.

    Returns whether the files were written.

    Raises UserError if a frame cannot be solved or a file cannot be written.
    """
    windows = held_out(data, say=False)  # the run has said it
    starts = places(windows, SAMPLES, before=model.context, after=FRAMES)
    length = min(FRAMES, *(windows.clips[clip]["frames"] - 1 - frame for clip, frame in starts.tolist()))
    past = min(model.context, *starts[:, 1].tolist())
    clips = torch.stack(
        [
            torch.stack([windows.frame(clip, index) for index in range(frame - past, frame + length + 1)])
            for clip, frame in starts.tolist()
        ]
    )
    first = to_float(clips[:, : past + 1]).to(model.device)
    actions = _actions(model, windows, starts, length)
    frames = drain(follow(model, first, actions=actions, solver=_solver(model.method)))
    video, begun = [clips[:, past]], time.monotonic()
    while len(video) <= length and (len(video) <= FEWEST or time.monotonic() - begun < SECONDS):
        if stopped():
            return False
        show(f"drawing a preview, frame {len(video)} of {length}")
        video += [frame.pixels for frame in islice(frames, 1)]
    made = torch.stack(video, dim=1)
    real = clips[:, past : past + made.shape[1]]
    _write_sheet(real, made, path)
    _write_video(real, made, path.with_suffix(".mp4"), model.fps or 25.0)
    return True


def _solver(method: Method) -> Solver:
    """The usual one if its steps are fixed, else one of few steps from a frame, and of more from noise."""
    return method.solver if method.solver.steps else Solver("midpoint", steps=1 if method.motion_unit else 4)


def _actions(model: Model, windows: Windows, starts: np.ndarray, length: int) -> list[np.ndarray] | None:
    """The clips' own actions after these frames; NaN, which is an unknown action, where the set knows none."""
    if model.actions is None:
        return None
    rows = np.stack([windows.action_rows(clip)[frame : frame + length] for clip, frame in starts.tolist()], axis=1)
    known = np.isfinite(rows).all(axis=2, keepdims=True)
    return list(np.where(known, model.actions.clamped(rows), np.float32(np.nan)))


def _write_sheet(real: UInt8[Tensor, "b n 3 h w"], made: UInt8[Tensor, "b n 3 h w"], path: Path) -> None:
    shown = sorted(set(np.linspace(0, made.shape[1] - 1, COLUMNS).round().astype(int).tolist()))
    rows = [list(clip[shown]) for pair in zip(real, made, strict=True) for clip in pair]
    numbers = ", ".join(map(str, shown[1:]))
    contact_sheet(rows, path, f"{path.stem}: first frame, then frames {numbers}", LABELS * len(made))


def _write_video(real: UInt8[Tensor, "b n 3 h w"], made: UInt8[Tensor, "b n 3 h w"], path: Path, fps: float) -> None:
    """The clips side by side, the real ones above those of the model, with labels at the left."""
    height = real.shape[-2]
    scale = max(1, 128 // height)
    large = torch.stack([real, made]).repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    rows, b, n, colours, h, w = large.shape
    grid = large.permute(2, 3, 0, 4, 1, 5).reshape(n, colours, rows * h, b * w)
    label = _labels(h).expand(n, -1, -1, -1)
    with VideoWriter(path, fps, (rows * h, label.shape[-1] + b * w)) as video:
        for frame in torch.cat([label, grid], dim=-1):
            video.write(frame)


def _labels(height: int) -> UInt8[Tensor, "3 h w"]:
    """A white strip with a label for each row of frames of this height."""
    font = ImageFont.load_default(14)
    width = max(round(font.getlength(label)) for label in LABELS) + 8
    strip = Image.new("RGB", (width, height * len(LABELS)), "white")
    for row, label in enumerate(LABELS):
        ImageDraw.Draw(strip).text((4, row * height + height // 2), label, fill="black", font=font, anchor="lm")
    return torch.from_numpy(np.array(strip)).permute(2, 0, 1)
