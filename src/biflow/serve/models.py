"""The models that a server offers: found, loaded, and warm before the first client comes."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from biflow import engines
from biflow.errors import UserError
from biflow.files import device
from biflow.networks import VideoUNet, load_model
from biflow.paths import Fields
from biflow.rollout import sample_generators, stream
from biflow.sampling import TITLES, first_frames
from biflow.serve.batching import Batcher
from biflow.serve.images import encode
from biflow.video import to_float, to_uint8

log = logging.getLogger("biflow")
# Samples of several sessions in one call, at most. On two cores a sample of two costs 16 % less than one alone, one of
# eight 22 %, and more gain nothing (benchmarks/live.py). The others are guesses.
BATCH = {"cpu": 8, "cuda": 16, "mps": 4}


@dataclass(frozen=True)
class Served:
    """A model that streams.

    Attributes:
        name: by which clients choose it; nothing of the path above the folder given to `find`.
        model: on its device, in evaluation mode.
        fields: what evaluates it, for any thread.
        first: (n, 3, h, w) uint8, the frames to start from, n at least 1.
    """

    name: str
    model: VideoUNet
    fields: Callable[..., Fields]
    first: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of its frames."""
        height, width = self.model.config["size"]
        return height, width

    @property
    def eps(self) -> float:
        """The noise level that it streams best with; 0 for methods that take none."""
        return float(self.model.config["eps"]) if self.model.method == "biflow" else 0.0

    @property
    def fps(self) -> float:
        """The frame rate of the videos it was trained on, 25 if nobody knows."""
        return float(self.model.config["fps"] or 25.0)

    @property
    def title(self) -> str:
        return f"{self.name} · {TITLES[self.model.method]} {self.size[0]}x{self.size[1]}"


def find(folder: Path) -> dict[str, Path]:
    """The model folders at or directly under `folder`, by name. Raises UserError if there is none."""
    if (folder / "config.json").is_file():
        return {folder.resolve().name: folder}
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    found = {path.name: path for path in inside if (path / "config.json").is_file()}
    if not found:
        raise UserError(f"No model in {folder}: give a run, a model folder, or a folder of these.")
    return found


def load(folders: dict[str, Path], first: Path | None = None) -> dict[str, Served]:
    """Load every model, its engine ready. One that cannot be loaded is left out, and the logger says why.

    `first` is where the first frames come from, as for `biflow sample`; None for each model's own (grey without any).

    Raises:
        UserError: not one of them can be loaded, or `first` does not hold what it should.
    """
    served: dict[str, Served] = {}
    for name, folder in folders.items():
        try:
            model = load_model(folder, device=device())
        except UserError as error:
            if len(folders) == 1:
                raise
            log.warning("%s is left out: %s", name, error)
            continue
        height, width = model.config["size"]
        if first or (folder / "first").is_dir():
            start = first_frames(first or folder / "first", (height, width), None, 0)
        else:
            start = torch.full((1, 3, height, width), 128, dtype=torch.uint8)
        limit = BATCH.get(device().type, 1)
        served[name] = Served(name, model, Batcher(engines.fields(model, "auto")[0], limit=limit), start)
    if not served:
        raise UserError(f"None of {', '.join(folders)} can be loaded.")
    return served


def warm_up(served: Served) -> None:
    """Solve and encode a frame the way that sessions do, once for every number of samples that may go together.

    Raises SolverError, or whatever an engine raises, if this model cannot stream at all.
    """
    batcher = served.fields
    samples = 1
    while samples <= (batcher.limit if isinstance(batcher, Batcher) else 1):
        start = to_float(served.first[:1].expand(samples, -1, -1, -1)).to(device())
        made = stream(served.model, start, generators=sample_generators(0, range(samples)), fields=served.fields)
        encode(to_uint8(next(made).x).cpu()[0], "jpeg")
        samples *= 2
