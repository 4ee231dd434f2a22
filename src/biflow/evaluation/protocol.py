"""What the numbers of an evaluation depend on: its settings, the model, data and networks, and versions."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from biflow import __version__
from biflow.config import Direction, Eps, Network, Solver, parse
from biflow.config.checks import check, check_eps, check_seed
from biflow.data.windows import Windows
from biflow.documents import read_document, read_json
from biflow.errors import UserError
from biflow.evaluation.networks.features import Features
from biflow.evaluation.networks.weights import tensors_sha256
from biflow.evaluation.schemas import Checksums
from biflow.files import cache_folder, sha256, write_json
from biflow.hub import repository
from biflow.machine import commit, hardware, versions
from biflow.model import Model, weights_file

MOST = 1_000_000  # of frames, videos or windows
WITHOUT = {"context": 0, "context_eps": 0.0, "spin": 0}  # a model without past frames, whose patches stay in place


@dataclass(frozen=True)
class Protocol:
    """The settings of an evaluation. Together with a model and a prepared set they determine its numbers.

    Attributes:
        name: a title.
        samples: videos to generate, each from a frame of the test split, with which they are compared.
        frames: frames per video, not counting the first frame that is given.
        window, stride: frames per window, and from one window to the next, of generated and real videos alike.
        real_windows: maximum number of real windows, spread evenly over all of them; None uses all.
        networks: what compares windows (i3d: FVD, KVD) and frames (inception: FID, KID; lpips: each
            frame with the previous one).
        frame_stride: networks that compare frames see every n-th one. `stride` must be a multiple of it.
        eps: noise level, for methods that take one, or "auto"; None uses the model's own.
        direction: direction in time.
        solver: ODE solver; None for the usual one of the model's method.
        seed: seed of the noise, of the choice of first frames, and of the bootstrap.
        resamples: number of bootstrap resamples.
        nearest: number of videos whose last frame is compared with all training frames.
        actions: what is done in the videos: a script such as "forward*40 left*12" or "still", or the path of a CSV or
            JSON file with a row per frame, both repeated to the length; "data" for what was done in the test clip
            after the first frame, and then in the next clips; "none" for a model with actions that is not told any.
            None is "data" for a model and a set with the same actions, and else "none". Models without actions take
            None only.
        short_videos: number of short videos for `truth` and for `turn`; 0 leaves both out.
        truth: frames, counted from 1, at which videos under a clip's own actions are compared with that clip.
        turn: a script that turns away and back. None uses the actions "left" and "right", if there are any and a test
            clip turns away and back by them.

    Raises:
        UserError: a setting that is out of range.
    """

    name: str = "quick"
    samples: int = 16
    frames: int = 64
    window: int = 16
    stride: int = 8
    real_windows: int | None = 128
    networks: tuple[Network, ...] = ("i3d",)
    frame_stride: int = 8
    eps: Eps | None = None
    direction: Direction = "forward"
    solver: Solver | None = None
    seed: int = 0
    resamples: int = 200
    nearest: int = 8
    actions: str | None = None
    short_videos: int = 8
    truth: tuple[int, ...] = (1, 4, 8, 16, 32)
    turn: str | None = None

    def __post_init__(self) -> None:
        check(self, "not be negative", lambda n: n >= 0, "nearest", "short_videos", most=MOST)
        what = f"be numbers of frames, counted from 1, up to {MOST}"
        check(self, what, lambda frames: len(frames) <= 1000 and all(1 <= n <= MOST for n in frames), "truth")
        check(self, "be at least 1", lambda n: n >= 1, "frames", "window", "stride", "frame_stride", most=MOST)
        check(self, "be at least 2", lambda n: n >= 2, "samples", "real_windows", "resamples", most=MOST)
        check_eps(self)
        check_seed(self)
        if self.frames < self.window:
            message = f"frames is {self.frames}, but must be at least the window of {self.window}."
            raise UserError(message, setting="frames")
        if self.stride % self.frame_stride:
            raise UserError(f"stride is {self.stride}, but must be a multiple of frame_stride, {self.frame_stride}.")

    def starts(self, frames: int) -> range:
        """The first frame of each window of a video of so many frames."""
        return range(0, frames - self.window + 1, self.stride)


PROTOCOLS = {
    # Takes minutes on two CPU cores. Its numbers can be compared only with others of the same protocol.
    "quick": Protocol(),
    # Sec. 3.1 of the paper. Its solver is Heun at 1e-2, as implemented in its code.
    "paper": parse(Protocol, read_json(Path(__file__).with_name("paper.json")), where="paper.json"),
}


def load_protocol(name: str) -> Protocol:
    """A built-in protocol, or one from a JSON file: its settings, or the metrics.json of an evaluation.

    Raises UserError if there is no such protocol, or if the file does not describe one.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    path = Path(name)
    if not path.is_file():
        known = f"{', '.join(PROTOCOLS)} or a JSON file"
        raise UserError(f"There is no protocol {name!r}; use {known}.", setting="protocol")
    content = read_json(path)
    for key in ("protocol", "settings"):
        content = content.get(key, content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise UserError(f"{path} does not contain a protocol; write its settings as a JSON object.")
    return parse(Protocol, {"name": path.stem, **content}, where=str(path))


def changed(protocol: Protocol, **settings: Any) -> Protocol:
    """The protocol with those of `settings` that are not None. Its name says so if the counts differ."""
    new = {key: value for key, value in settings.items() if value is not None and value != getattr(protocol, key)}
    counts = [key for key in ("samples", "frames") if key in new]
    name = f"{protocol.name}, other {' and '.join(counts)}" if counts else protocol.name
    return replace(protocol, name=name, **new)


def full_record(protocol: Protocol, model: Model, data: Windows, networks: Mapping[str, Features]) -> dict:
    """The protocol as metrics.json stores it: its `settings`, and everything else that the numbers depend on."""
    return {
        "settings": asdict(protocol),
        "model": _model_record(model, data.size),
        "data": data_record(data),
        "networks": {name: network.record() for name, network in networks.items()},
        **environment(),
    }


def environment() -> dict:
    """The code and the hardware that compute a number."""
    found = versions("torch", "diffusers", "openvino", "numpy", "av", "pillow")
    return {"commit": commit(), "versions": {"biflow": __version__, **found}, "hardware": hardware()}


def _model_record(model: Model, size: tuple[int, int]) -> dict:
    if model.folder is None:
        name, weights = model.method.name, "in memory"
        digest = tensors_sha256(model.network.state_dict()) if isinstance(model.network, nn.Module) else None
    else:
        file = weights_file(model.folder, ema=model.ema)
        name = repository(model.folder) or model.folder.resolve().name
        weights, digest = file.name, sha256(file)
    context_eps = model.context_eps if model.context else 0.0
    streaming = {"context": model.context, "context_eps": context_eps, "spin": model.spin}
    size_and_weights = {"size": list(size), "weights": weights, "sha256": digest}
    return {"name": name, "method": model.method.name, **size_and_weights, **streaming}


def data_record(data: Windows) -> dict:
    """What a split of a prepared set is called and holds, with the checksum of its frames and of its actions."""
    names = {"name": data.root.resolve().name, "split": data.split, **_checksums(data)}
    counts = {"clips": len(data.clips), "frames": sum(clip["frames"] for clip in data.clips)}
    return {**names, **counts, "stride": data.index.get("stride", 1), "fps": data.fps}


def _checksums(data: Windows) -> dict[str, Any]:
    """Those of `data_record`. They are kept in the user's cache for as long as the files look the same."""
    files = ["frames.npy", "actions.npy"] if data.actions else ["frames.npy"]
    looks = [
        (str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in map(data.root.resolve().joinpath, files)
    ]
    key = hashlib.sha256(json.dumps([looks, data.clips]).encode()).hexdigest()[:32]
    path = cache_folder() / "evaluation" / "checksums" / f"{key}.json"
    if path.exists():
        return dict(read_document(path, Checksums, "does not hold checksums", "Remove it."))
    digest = hashlib.sha256(json.dumps([[clip["name"], clip["frames"]] for clip in data.clips]).encode())
    for number in range(len(data.clips)):
        for part in data.parts(number, 256):
            digest.update(part.numpy().data)
    found = {"sha256": digest.hexdigest()}
    if data.actions:
        rows = [data.action_rows(number).tobytes() for number in range(len(data.clips))]
        found["actions_sha256"] = hashlib.sha256(b"".join(rows)).hexdigest()
    write_json(path, found)
    return found


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """The keys, joined by dots, in which two records differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted({*a, *b})
        return [d for key in keys for d in differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)]
    return [] if a == b else [path]
