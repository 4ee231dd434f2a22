"""The networks that evaluation compares videos by, each as a function from uint8 clips to features."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from biflow.engines import kept_graph, openvino_settings
from biflow.errors import UserError
from biflow.evaluation import efficientnet, i3d, inception, lpips, weights
from biflow.evaluation.protocol import Network
from biflow.video import to_float


@dataclass(frozen=True)
class Features:
    """What turns uint8 clips (b, t, 3, h, w) into features (b, dim), and how to name it beside a number.

    `shortest` is the least t. `span` is the t of the clips it is given in an evaluation, None for a whole window.
    """

    name: str
    sha256: str
    preprocessing: str
    dim: int
    shortest: int
    compute: Callable[[UInt8[Tensor, "b t 3 h w"]], Float[Tensor, "b d"]]
    span: int | None = None

    def record(self) -> dict:
        """What to say of it beside a number."""
        return {name: getattr(self, name) for name in ("name", "sha256", "preprocessing", "dim")}


def load_networks(names: Sequence[Network], device: torch.device) -> dict[str, Features]:
    """The networks of these names. Raises UserError if the weights of one are not in the user's cache."""
    load = {"i3d": i3d_features, "inception": inception_features, "efficientnet": small_features, "lpips": to_previous}
    return {name: load[name](device) for name in names}


def i3d_features(device: torch.device) -> Features:
    """The logits of I3D, by which FVD compares windows. Raises UserError if its weights are not in the user's cache."""
    network = i3d.load_i3d(weights.find("i3d"), device)
    logits = on_cpu(network) if device.type == "cpu" else network

    def compute(clips: Tensor) -> Tensor:
        with torch.inference_mode():
            return logits(i3d.preprocess(clips.to(device))).cpu()

    return Features("I3D, Kinetics-400 logits", _sha256("i3d"), i3d.PREPROCESSING, i3d.CLASSES, i3d.SHORTEST, compute)


def on_cpu(network: nn.Module) -> Callable[[Float[Tensor, "b c t h w"]], Float[Tensor, "b d"]]:
    """I3D as it is fastest on a CPU: by OpenVINO if it is installed, otherwise by PyTorch, channels last.

    The numbers behind that are in benchmarks/README.md. OpenVINO takes two clips side by side, so that one graph serves
    all batches; the first clip ever of its length takes some seconds more, as the graph is traced and kept.
    """
    if not find_spec("openvino"):
        return network.to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
    import openvino

    core = openvino.Core()
    settings = {**openvino_settings(), "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": "2"}

    @cache
    def requests(shape: torch.Size):
        # A graph has the padding of one shape, and the code of the day it was traced, so that it is kept by both.
        code = Path(i3d.__file__).read_text()
        path = kept_graph(network, (torch.zeros(1, *shape),), [[1, *shape]], code)
        return openvino.AsyncInferQueue(core.compile_model(path, "CPU", settings))

    def logits(x: Tensor) -> Tensor:
        found, queue = {}, requests(x.shape[1:])
        # Copies, since a request writes its next result to the same memory.
        queue.set_callback(lambda request, i: found.update({i: torch.tensor(request.get_output_tensor().data)}))
        for i, clip in enumerate(x):
            queue.start_async([clip[None].numpy()], i)
        queue.wait_all()
        return torch.cat([found[i] for i in range(len(x))])

    return logits


# The usual i3d_torchscript.pt: the sha256 that many projects pin, and the sha1 of the git blob in repositories.
TORCHSCRIPT_SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
TORCHSCRIPT_SHA1 = "93daef59c7ae0e9e8f76225521407e60cbafa6aa"


def torchscript_features(path: Path, device: torch.device) -> Features:
    """The logits of the I3D in `i3d_torchscript.pt`, the file of most FVD implementations, which the user has.

    Resizing is ours as for `i3d_features`, not the file's own. Raises UserError if it is another file.
    """
    if not path.is_file():
        raise UserError(f"There are no features {path}; give i3d, or the path of an i3d_torchscript.pt.")
    content = path.read_bytes()
    sha256, sha1 = hashlib.sha256(content).hexdigest(), hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if sha256 != TORCHSCRIPT_SHA256 and sha1 != TORCHSCRIPT_SHA1:
        # A TorchScript is a program: none is loaded but the known one.
        raise UserError(
            f"{path} has sha256 {sha256}, not {TORCHSCRIPT_SHA256}; it is damaged or not the usual "
            "i3d_torchscript.pt, and was not loaded."
        )
    network = torch.jit.load(io.BytesIO(content), map_location=device).eval()

    def compute(clips: Tensor) -> Tensor:
        with torch.inference_mode():
            x = i3d.preprocess(clips.to(device))
            return network(x, rescale=False, resize=False, return_features=True).cpu()

    name = "I3D, Kinetics-400 logits (i3d_torchscript.pt)"
    return Features(name, sha256, i3d.PREPROCESSING, i3d.CLASSES, i3d.SHORTEST, compute)


def inception_features(device: torch.device) -> Features:
    """The pooled activations of Inception, by which FID compares frames."""
    network = inception.load_inception(weights.find("inception"), device)

    def compute(clips: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(inception.preprocess(clips[:, 0].to(device))).cpu()

    sha256 = _sha256("inception")
    return Features("Inception (FID), 2048", sha256, inception.PREPROCESSING, inception.FEATURES, 1, compute, 1)


def small_features(device: torch.device) -> Features:
    """The pooled activations of EfficientNet-lite0: a quick stand-in for Inception, whose distances are no FID."""
    network = efficientnet.load_efficientnet(weights.find("efficientnet"), device)

    def compute(clips: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(efficientnet.preprocess(clips[:, 0].to(device))).cpu()

    sha256 = _sha256("efficientnet")
    return Features("EfficientNet-lite0", sha256, efficientnet.PREPROCESSING, efficientnet.FEATURES, 1, compute, 1)


def to_previous(device: torch.device) -> Features:
    """LPIPS (AlexNet) of a frame to the one before it, as a feature of width 1."""
    network = lpips.load_lpips(weights.find("lpips"), "alex", device)

    def compute(clips: Tensor) -> Tensor:
        if min(clips.shape[-2:]) < lpips.SMALLEST["alex"]:
            raise UserError(
                f"LPIPS needs frames of {lpips.SMALLEST['alex']}x{lpips.SMALLEST['alex']} or more, not "
                f"{clips.shape[-2]}x{clips.shape[-1]}; leave lpips out of the protocol's networks."
            )
        with torch.inference_mode():
            before, after = (to_float(clips[:, i].to(device)) for i in (0, 1))
            return network(before, after).cpu()[:, None]

    return Features("LPIPS (AlexNet, v0.1)", _sha256("lpips"), "[-1, 1], as they are", 1, 2, compute, 2)


def _sha256(name: str) -> str:
    return next(iter(weights.SOURCES[name].members.values()))
