"""The models that a server offers: found, loaded, and warmed up before the first client comes."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Event

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from biflow.data.starts import starts
from biflow.drift import LEAST, drift, real_drift
from biflow.engines import with_engine
from biflow.errors import UserError
from biflow.hub import is_id, model_folder
from biflow.machine import device
from biflow.model import Model, load_model
from biflow.moments import Moments, read_moments
from biflow.rollout import check_streams, drain, sample_generators, stream
from biflow.serve.batching import Batcher
from biflow.serve.images import data_url, encode, preview
from biflow.video import to_float

log = logging.getLogger("biflow")
# The most samples of several sessions in one call. On two cores a sample in a call of two costs 16 % less than one
# alone, in a call of eight 22 %, and more gain nothing (benchmarks/live.py). The others are guesses.
BATCH = {"cpu": 8, "cuda": 16, "mps": 4}
NO_FIRST = "a stream starts once a viewer has sent an image. Set first to a prepared set, an image or a folder of them."
FPS = 25.0  # of models that do not know the frame rate of their videos


@dataclass(frozen=True)
class Served:
    """A model that a server offers.

    Attributes:
        name: what clients choose it by: the name of its folder, without the path.
        model: with an engine's network that any thread may ask, a `Batcher`.
        first: the n frames to start from, each after j - 1 frames before it; none if the model comes without.
        moments: what steers while nobody does; None if no action is to be known then.
    """

    name: str
    model: Model
    first: UInt8[Tensor, "n j 3 h w"]
    moments: Moments | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of its frames."""
        return self.model.size

    @property
    def eps(self) -> float:
        """The noise level that it streams best with; 0 for methods that take none."""
        return float(self.model.eps)

    @property
    def fps(self) -> float:
        """The frame rate of its training videos, or FPS."""
        return float(self.model.fps or FPS)

    @property
    def title(self) -> str:
        """Its name, method and size, for people."""
        return f"{self.name} · {self.model.method.title} {self.size[0]}x{self.size[1]}"

    @cached_property
    def pictures(self) -> list[str]:
        """The frames to start from, as addresses of images for pages."""
        return [data_url(frames[-1]) for frames in self.first]

    @cached_property
    def preview(self) -> bytes:
        """The picture that represents the page where it is shared."""
        return preview(self.first[:, -1])

    @cached_property
    def _first_drift(self) -> Float[Tensor, "1"] | None:
        """The mean drift of its first frames; None if it has none or learns no noise."""
        found = drift(self.model, self.first[:, -1]) if len(self.first) else None
        return None if found is None else found.mean(0, keepdim=True).clamp(min=LEAST)

    def drift(self, picture: UInt8[Tensor, "3 h w"]) -> float | None:
        """How many times the drift of its first frames a frame has; None if that is not known."""
        if (real := self._first_drift) is None or (found := drift(self.model, picture[None])) is None:
            return None
        return (found / real).item()

    def real_drift(self, frame: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1"]:
        """The mean drift of its first frames, or that of `frame` if it has none.

        Raises UserError for a model that learns no noise.
        """
        return real_drift(self.model, frame) if self._first_drift is None else self._first_drift

    def first_frame(self, index: int) -> UInt8[Tensor, "j 3 h w"]:
        """One of the frames to start from, after those before it. Raises UserError if there is no such frame."""
        if not len(self.first):
            raise UserError(f"The model {self.name} comes without first frames: start from an image of yours.")
        if not 0 <= index < len(self.first):
            raise UserError(f"There is no first frame {index + 1}; this model has {len(self.first)}.")
        return self.first[index]


def find(folder: Path) -> dict[str, Path]:
    """The model folders at or directly under `folder`, or that of a Hub id, by name. Raises UserError for none."""
    if is_id(folder):
        return {folder.name: model_folder(folder)}
    if (folder / "config.json").is_file():
        return {folder.resolve().name: folder}
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    found = {path.name: path for path in inside if (path / "config.json").is_file()}
    if not found:
        raise UserError(f"No model in {folder}: give a run, a model folder, or a folder of these.", setting="model")
    return found


def load(folders: Mapping[str, Path], first: Path | None = None, closing: Event | None = None) -> dict[str, Served]:
    """Load every model and its engine. Of several, one that cannot be loaded is left out, and the logger says why.

    `first` is where first frames come from: an image, a film, a folder of images or a prepared set; None for each
    model's own. The logger says which models have none. Once the server is `closing`, the rest is not loaded.

    Raises:
        UserError: none of them can be loaded, or `first` has no frames for them.
    """
    served: dict[str, Served] = {}
    for name, folder in folders.items():
        if closing and closing.is_set():
            return served
        try:
            model = load_model(folder, device=device())
            check_streams(model)
            begun = with_first(name, model, first or folder / "first", given=first is not None)
        except UserError as error:
            if len(folders) == 1 or first:
                raise
            log.warning("%s is left out: %s", name, error)
            continue
        if not len(begun.first):
            log.warning("%s has no first frames (%s): %s", name, folder / "first", NO_FIRST)
        model = with_engine(model)
        batcher = Batcher(model.network, limit=BATCH.get(model.device.type, 1))
        served[name] = replace(begun, model=replace(model, network=batcher))
    if not served:
        raise UserError(f"None of {', '.join(folders)} can be loaded.", setting="model")
    return served


def with_first(name: str, model: Model, source: Path, *, given: bool) -> Served:
    """A model with what steers it, and frames to start from, if there is a folder `source`.

    Raises UserError for frames or moments that the model cannot take, and where nothing is there although `given`.
    """
    moments = read_moments(model.folder, model.actions)
    if not given and not source.is_dir():
        return Served(name, model, torch.empty((0, 1, 3, *model.size), dtype=torch.uint8), moments)
    return Served(name, model, starts(source, model.size, past=model.context).frames, moments)


def warm_up(served: Served, closing: Event) -> None:
    """Solve and encode a frame as sessions do, once for every number of samples that a call may have.

    It stops early once `closing` is set.

    Raises UserError, or whatever an engine raises, if the model cannot stream.
    """
    model, samples = served.model, 1
    while samples <= (model.network.limit if isinstance(model.network, Batcher) else 1) and not closing.is_set():
        grey = torch.full((1, 1, 3, *model.size), 128, dtype=torch.uint8)
        first = to_float((served.first if len(served.first) else grey)[:1].repeat(samples, 1, 1, 1, 1)).to(model.device)
        shown = next(drain(stream(model, first, generators=sample_generators(0, range(samples)))))
        encode(shown.pixels[0], "jpeg")
        samples *= 2
    served.drift(torch.full((3, *served.size), 128, dtype=torch.uint8))
