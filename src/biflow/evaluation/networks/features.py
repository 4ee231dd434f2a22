"""Networks as functions from uint8 clips to features, which evaluation compares."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from biflow.errors import UserError
from biflow.evaluation.networks import i3d, inception, lpips, weights
from biflow.video import to_float


@dataclass(frozen=True)
class Features:
    """A function from uint8 clips (b, t, 3, h, w) to features (b, dim), and how to cite it beside a number.

    `evaluate(..., networks={"name": features})` takes any instance, so a network of your own needs only this.

    Attributes:
        name: of the network, as a title.
        sha256: of its weights.
        preprocessing: in words.
        dim: features per clip.
        shortest: least t.
        compute: the function; clips and features are on the CPU.
        span: t of the clips that an evaluation passes to it; None for a whole window.
        smallest: least h and w.
    """

    name: str
    sha256: str
    preprocessing: str
    dim: int
    shortest: int
    compute: Callable[[UInt8[Tensor, "b t 3 h w"]], Float[Tensor, "b d"]]
    span: int | None = None
    smallest: int = 1

    def check(self, frames: int, size: tuple[int, int] | None = None) -> None:
        """Raise UserError for clips of so few or so small frames that the network cannot compute features of them."""
        if size and min(size) < self.smallest:
            sides = f"{self.smallest}x{self.smallest} or more, not {size[0]}x{size[1]}"
            raise UserError(f"{self.name} needs frames of {sides}. Remove it from the networks.", setting="networks")
        if frames < self.shortest:
            message = f"{self.name} needs windows of at least {self.shortest} frames, not {frames}."
            raise UserError(message, setting="window")

    def record(self) -> dict:
        """The part that metrics.json stores."""
        return {name: getattr(self, name) for name in ("name", "sha256", "preprocessing", "dim")}


def load_networks(names: Sequence[str], device: torch.device) -> dict[str, Features]:
    """The networks of these names (keys of `LOADERS`). Raises UserError if weights are not in the user's cache."""
    return {name: LOADERS[name](device) for name in names}


def i3d_features(device: torch.device) -> Features:
    """The logits of I3D, by which FVD compares windows. Raises UserError if its weights are not in the user's cache."""
    network = weights.load("i3d", i3d.I3D, device)
    logits = i3d.on_cpu(network) if device.type == "cpu" else network
    return _features("i3d", lambda clips: logits(i3d.preprocess(clips)), device)


# The usual i3d_torchscript.pt: its sha256, which many projects pin, and the sha1 of its git blob in repositories.
TORCHSCRIPT_SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
TORCHSCRIPT_SHA1 = "93daef59c7ae0e9e8f76225521407e60cbafa6aa"


def torchscript_features(path: Path, device: torch.device) -> Features:
    """The logits of the I3D in your copy of `i3d_torchscript.pt`, the file that most FVD implementations use.

    Frames are resized as for `i3d_features`, not by the file. Raises UserError if it is another file.
    """
    if not path.is_file():
        message = f"There are no features {path}; give i3d, or the path of an i3d_torchscript.pt."
        raise UserError(message, setting="features")
    content = path.read_bytes()
    sha256, sha1 = hashlib.sha256(content).hexdigest(), hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if sha256 != TORCHSCRIPT_SHA256 and sha1 != TORCHSCRIPT_SHA1:
        # A TorchScript is a program, so that only the known one is loaded.
        why = "it is damaged or not the usual i3d_torchscript.pt, and was not loaded."
        raise UserError(f"{path} has sha256 {sha256}, not {TORCHSCRIPT_SHA256}; {why}", setting="features")
    network = torch.jit.load(io.BytesIO(content), map_location=device).eval()
    logits = partial(network, rescale=False, resize=False, return_features=True)
    title = "I3D, Kinetics-400 logits (i3d_torchscript.pt)"
    return _features("i3d", lambda clips: logits(i3d.preprocess(clips)), device, name=title, sha256=sha256)


def inception_features(device: torch.device) -> Features:
    """The pooled activations of Inception, by which FID compares frames."""
    network = weights.load("inception", inception.Inception, device)
    return _features("inception", lambda clips: network(inception.preprocess(clips[:, 0])), device)


def lpips_features(device: torch.device) -> Features:
    """LPIPS between a frame and the previous one, as a feature of width 1."""
    distance = weights.load("lpips", lpips.LPIPS, device, prefix="alex.")
    compute = _features("lpips", lambda clips: distance(*to_float(clips).unbind(1))[:, None], device)
    return replace(compute, smallest=lpips.SMALLEST)


LOADERS = {"i3d": i3d_features, "inception": inception_features, "lpips": lpips_features}


def _features(key: str, network: Callable[[Tensor], Tensor], device: torch.device, **changes: str) -> Features:
    """What weights.json says of a network of `SOURCES`, which gets clips on `device`."""
    source = weights.SOURCES[key]

    @torch.inference_mode()
    def compute(clips: Tensor) -> Tensor:
        return network(clips.to(device)).cpu()

    return Features(**{"sha256": source.member_sha256, **source.features, **changes}, compute=compute)
