"""A recording of what a session shows, as an mp4."""

import logging
import secrets
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from biflow.errors import UserError
from biflow.video import VideoWriter, resize

log = logging.getLogger("biflow")
MAX_FRAMES = 6000


class Recorder:
    """Writes the frames of a session to an mp4, two streams side by side; only the last recording is kept.

    Its methods return the message for the viewers, if there is one: that it started, or under which name it ended.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._writer: VideoWriter | None = None
        self._fps = 0.0
        self.on = False

    def begin(self, fps: float) -> dict:
        """Record from the next frame on; the last recording is deleted."""
        self.close()
        self.on, self._fps = True, fps
        return {"type": "recording", "on": True}

    def write(self, pictures: list[Tensor]) -> dict | None:
        """Append uint8 (3, h, w) pictures side by side. Ends the recording if their size changes or a disk is full."""
        if not self.on:
            return None
        first, *others = pictures
        others = [resize(other[None], (first.shape[1], first.shape[2]))[0] for other in others]
        frame = torch.cat([first, *others], dim=2)
        size = (frame.shape[1], frame.shape[2])
        try:
            if self._writer is None:
                self._folder = Path(tempfile.mkdtemp(prefix="biflow-"))
                path = self._folder / f"{secrets.token_urlsafe(16)}.mp4"
                self._writer = VideoWriter(path, self._fps, size, scale=max(1, 512 // max(first.shape))).__enter__()
            if self._writer.size != size or self._writer.frames >= MAX_FRAMES:
                return self.finish()
            self._writer.write(frame)
        except (UserError, OSError) as error:
            return self._fail(error)
        return None

    def finish(self) -> dict | None:
        """End the recording; its name is None if it has no frames."""
        if not self.on:
            return None
        self.on = False
        writer = self._writer
        if writer is None:
            return _ended(None, 0)
        try:
            writer.__exit__(None, None, None)
        except (UserError, OSError) as error:
            return self._fail(error)
        return _ended(writer.path.name, writer.frames)

    def _fail(self, error: Exception) -> dict:
        log.warning("A recording failed: %s", error)
        self.close()
        return _ended(None, 0)

    def find(self, name: str) -> Path | None:
        """The finished recording of that name, if it is the last one."""
        writer = self._writer
        return writer.path if writer and not self.on and writer.path.name == name else None

    def close(self) -> None:
        """Delete the recording, finished or not."""
        if self._writer is not None and self.on:
            error = InterruptedError()
            self._writer.__exit__(type(error), error, None)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder, self._writer, self.on = None, None, False


def _ended(name: str | None, frames: int) -> dict:
    return {"type": "recording", "on": False, "name": name, "frames": frames}
