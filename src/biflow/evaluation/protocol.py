"""What the numbers of an evaluation depend on: its settings, and what they met (model, data, networks, versions)."""

import difflib
import hashlib
import json
import platform
from argparse import ArgumentError
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from biflow import __version__
from biflow.data.pairs import FramePairs
from biflow.errors import UserError
from biflow.files import commit, hardware
from biflow.networks import VideoUNet, weights_file
from biflow.rollout import Direction
from biflow.solvers import Solver

Network = Literal["i3d", "inception", "efficientnet", "lpips"]


@dataclass(frozen=True)
class Protocol:
    """The settings of an evaluation; together with a model and a prepared set they fix its numbers.

    Attributes:
        name: what to call it.
        samples: videos to generate, from as many frames of the test split, whose windows the real ones are.
        frames: frames a video; the given one is not among them.
        window, stride: frames a window, and from window to window, in generated and real videos alike.
        real_windows: at most that many real windows, evenly spread over all; None for all.
        networks: what compares windows (i3d: FVD, KVD) and frames (inception: FID, KID; efficientnet: a quick stand-in
            for it; lpips: each to the frame before it).
        frame_stride: every so manieth frame goes to the networks that compare frames; `stride` is a multiple of it.
        eps: noise level (BI-FLOW); None for the model's own.
        direction: in time.
        solver: as everywhere.
        seed: of the noise, the first frames and the bootstrap.
        resamples: of the bootstrap.
        nearest: so many videos' last frames are held against all training frames; 0 for none.
    """

    name: str = "quick"
    samples: int = 16
    frames: int = 64
    window: int = 16
    stride: int = 8
    real_windows: int | None = 128
    networks: tuple[Network, ...] = ("i3d",)
    frame_stride: int = 8
    eps: float | None = None
    direction: Direction = "forward"
    solver: Solver = field(default_factory=Solver)
    seed: int = 0
    resamples: int = 200
    nearest: int = 8

    def __post_init__(self) -> None:
        for key, low in (("samples", 2), ("window", 1), ("stride", 1), ("frame_stride", 1), ("resamples", 2)):
            if getattr(self, key) < low:
                raise UserError(f"{key} is {getattr(self, key)}, but must be at least {low}.")
        if self.frames < self.window:
            raise UserError(f"{self.frames} frames hold no window of {self.window}; give more frames.")
        if self.real_windows is not None and self.real_windows < 2:
            raise UserError(f"real_windows is {self.real_windows}, but must be at least 2, or null for all.")
        if self.stride % self.frame_stride:
            raise UserError(f"stride is {self.stride}, but must be a multiple of frame_stride, {self.frame_stride}.")
        if self.nearest < 0:
            raise UserError(f"nearest is {self.nearest}, but must be 0 or more.")

    @property
    def starts(self) -> range:
        """The first frame of each window of a generated video."""
        return range(0, self.frames - self.window + 1, self.stride)


PROTOCOLS = {
    # Sized for two CPU cores: minutes, and a number only to compare with others of this very protocol.
    "quick": Protocol(),
    # Sec. 3.1 of the paper. Its solver is Heun at 1e-2, in the implementation of its code.
    "paper": Protocol(
        name="paper",
        samples=128,
        frames=512,
        window=32,
        stride=16,
        real_windows=None,
        networks=("i3d", "inception", "lpips"),
        solver=Solver("heun", reference=True),
    ),
}


def load_protocol(name: str) -> Protocol:
    """A built-in protocol, or that of a JSON file: settings alone, or the metrics.json of an evaluation.

    Raises UserError for a file that is none, or was measured by a network with other weights.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    path = Path(name)
    if not path.is_file():
        raise UserError(f"There is no protocol {name!r}; give {', '.join(PROTOCOLS)} or a JSON file.")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}).") from error
    content = content.get("protocol", content) if isinstance(content, dict) else content
    settings = content.get("settings", content) if isinstance(content, dict) else content
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds no protocol; write its settings as a JSON object.")
    known = {f.name for f in fields(Protocol)}
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
            raise UserError(f"{path}: a protocol has no setting {key!r}; the nearest is {near!r}.")
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Protocol)
    try:
        return Protocol(**vars(parser.instantiate(parser.parse_object({"name": path.stem, **settings}))))
    except (TypeError, ValueError, ArgumentError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error


def changed(protocol: Protocol, **settings: Any) -> Protocol:
    """The protocol with those of `settings` that are not None; its name says so where counts are no longer its own."""
    new = {key: value for key, value in settings.items() if value is not None and value != getattr(protocol, key)}
    counts = [key for key in ("samples", "frames") if key in new]
    name = f"{protocol.name}, other {' and '.join(counts)}" if counts else protocol.name
    return replace(protocol, name=name, **new)


def record(protocol: Protocol, model: VideoUNet, folder: Path, data: FramePairs, networks: dict[str, dict]) -> dict:
    """The protocol as it goes into metrics.json: `settings`, and what they met."""
    weights = weights_file(folder)
    return {
        "settings": asdict(protocol),
        "model": {
            "name": folder.resolve().name,
            "method": model.method,
            "size": list(model.config["size"]),
            "weights": weights.name,
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        },
        "data": {
            "name": data.root.resolve().name,
            "sha256": data_sha256(data),
            "split": data.split,
            "clips": len(data.clips),
            "frames": sum(clip["frames"] for clip in data.clips),
            "stride": data.index["stride"],
            "fps": data.fps,
        },
        "networks": networks,
        **made_by(),
    }


def made_by() -> dict:
    """The code and the machine that a number comes from."""
    return {
        "commit": commit(),
        "versions": {
            "biflow": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "numpy", "av", "pillow")},
        },
        "hardware": hardware(),
    }


def data_sha256(data: FramePairs) -> str:
    """Of the clips of this split and all of their pixels."""
    digest = hashlib.sha256(json.dumps([[clip["name"], clip["frames"]] for clip in data.clips]).encode())
    for number in range(len(data.clips)):
        digest.update(data.clip(number).numpy().tobytes())
    return digest.hexdigest()


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """The keys, joined by dots, in which two records differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted({*a, *b})
        return [d for key in keys for d in differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)]
    return [] if a == b else [path]
