"""Streams in a notebook: the picture moves while it is solved, and then stays in the cell as a moving picture."""

import base64
import tempfile
import time
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from biflow.animation import AnimationWriter
from biflow.errors import UserError
from biflow.rollout import Frame, Shown, drain
from biflow.video import enlarged

Stream = Iterator[Frame] | Iterator[Shown]
SIDE = 256  # pixels, that frames are enlarged to in whole steps


def show(frames: Stream, *, count: int = 200, fps: float | int | None = 25, scale: int | None = None) -> None:
    """Show a stream in the output of a notebook's cell, as it is solved, but no faster than `fps`.

    Interrupting the cell ends the stream. The cell then holds the first video as an animated WebP, which is saved with
    the notebook.

    Args:
        frames: of `biflow.stream` or `BiFlowPipeline.stream`; of several videos, the first is shown.
        count: at most this many frames.
        fps: frames per second, such as `model.fps`; 25 where that is None.
        scale: side of the block that each pixel becomes; by default as much as makes 256 pixels.

    Raises:
        UserError: outside a notebook, where IPython is missing, or a frame that cannot be solved.
    """
    try:
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise UserError("A stream is shown in a notebook, which needs IPython: pip install jupyterlab") from error

    fps = _rate(fps)
    shown: list[Tensor] = []
    cell, due = display(HTML("…"), display_id=True), time.monotonic()
    if cell is None:
        raise UserError("A stream is shown in a notebook, and this is none. Use biflow.outputs.sample for files.")
    try:
        for frame in islice(_drained(frames), count):
            shown.append(frame.pixels[0])
            scale = scale or max(1, SIDE // max(shown[0].shape[1:]))
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due, time.monotonic() - 1 / fps) + 1 / fps
            cell.update(HTML(_picture(shown[-1], scale)))
    except KeyboardInterrupt:
        pass  # the stop button
    if shown:
        cell.update(HTML(_animation(shown, fps, scale or 1)))


def _rate(fps: float | int | None) -> float | int:
    if fps is not None and fps <= 0:
        raise UserError(f"fps is {fps}, but must be above 0.", setting="fps")
    return fps or 25


def _drained(frames: Iterator[Any]) -> Iterator[Shown]:
    """Frames of either kind as pixels."""
    for first in frames:
        whole = chain([first], frames)
        return whole if isinstance(first, Shown) else drain(whole)
    return iter(())


def _picture(pixels: Tensor, scale: int) -> str:
    with tempfile.SpooledTemporaryFile() as file:
        Image.fromarray(enlarged(pixels, scale)).save(file, "PNG", compress_level=1)
        file.seek(0)
        return _image(file.read(), "png")


def _animation(frames: list[Tensor], fps: float | int, scale: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path, (height, width) = Path(folder) / "stream.webp", frames[0].shape[1:]
        with AnimationWriter(path, fps, (height, width), scale=scale) as animation:
            for frame in frames:
                animation.write(frame)
        return _image(path.read_bytes(), "webp")


def _image(data: bytes, kind: str) -> str:
    return f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}" alt="A stream">'
