"""What a session shows, as an mp4."""

import secrets
from pathlib import Path

import torch
from torch import Tensor

from biflow.video import VideoWriter, resize

MAX_FRAMES = 6000


class Recording:
    """Frames of one session written to an mp4 in `folder` as they come, two-up side by side."""

    def __init__(self, folder: Path, fps: float):
        self.path = folder / f"{secrets.token_urlsafe(16)}.mp4"
        self.fps = fps
        self._writer: VideoWriter | None = None

    @property
    def frames(self) -> int:
        return self._writer.frames if self._writer else 0

    def write(self, pictures: list[Tensor]) -> bool:
        """Append uint8 (3, h, w) pictures side by side; False, and nothing is written, if they no longer fit."""
        first, *others = pictures
        others = [resize(other[None], (first.shape[1], first.shape[2]))[0] for other in others]
        frame = torch.cat([first, *others], dim=2)
        size = (frame.shape[1], frame.shape[2])
        if self._writer is None:
            self._writer = VideoWriter(self.path, self.fps, size, scale=max(1, 512 // max(first.shape))).__enter__()
        if self._writer.size != size or self.frames >= MAX_FRAMES:
            return False
        self._writer.write(frame)
        return True

    def finish(self) -> Path | None:
        """The whole mp4, None if there was no frame."""
        if self._writer is None:
            return None
        self._writer.__exit__(None, None, None)
        return self.path

    def abandon(self) -> None:
        """Throw the file away."""
        if self._writer is not None:
            error = InterruptedError()
            self._writer.__exit__(type(error), error, None)
