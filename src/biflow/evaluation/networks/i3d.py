"""I3D: Inception-v1 with its filters inflated to three dimensions. Its 400 logits on Kinetics-400 are FVD's features.

Carreira & Zisserman 2017, "Quo Vadis, Action Recognition?", Fig. 3. Padding, batch norm and pooling are those of the
published TensorFlow network, to which the weights belong.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from biflow.engines.openvino import kept_graph, openvino_settings
from biflow.video import to_float

CLASSES = 400
SIDE = 224

# Per block: channels of the 1x1x1 branch, of the two 3x3x3 branches (reduced, then grown), and of the pooled branch.
MIXED: dict[str, tuple[int, int, int, int, int, int]] = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
# Max pools before the block of that name: (kernel, stride), each (time, height, width).
POOLS = {"3b": ((1, 3, 3), (1, 2, 2)), "4b": ((3, 3, 3), (2, 2, 2)), "5b": ((2, 2, 2), (2, 2, 2))}


def padding(x: Float[Tensor, "b c *n"], kernel: Sequence[int], stride: Sequence[int]) -> list[int]:
    """Zeros to add along each axis so that there are ceil(size / stride) windows (TensorFlow's SAME padding)."""
    axes = zip(map(int, x.shape[2:]), kernel, stride, strict=True)  # int: under a tracer, sizes are tensors
    return [max((-(-length // step) - 1) * step + window - length, 0) for length, window, step in axes]


def pad_same(x: Float[Tensor, "b c *n"], kernel: Sequence[int], stride: Sequence[int]) -> Float[Tensor, "b c ..."]:
    """Add the zeros that `padding` computes; an odd one goes to the end.

    PyTorch's own `padding` is the same on both sides, and off by one where the stride is 2.
    """
    totals = reversed(padding(x, kernel, stride))  # F.pad counts from the last axis
    sides = [side for total in totals for side in (total // 2, total - total // 2)]
    return F.pad(x, sides) if any(sides) else x


def max_pool(x: Float[Tensor, "b c t h w"], kernel: Sequence[int], stride: Sequence[int]) -> Float[Tensor, "b c _ _ _"]:
    """A max pool with SAME padding, which never wins. `ceil_mode` provides the odd one at the end."""
    before = [total // 2 for total in padding(x, kernel, stride)]
    return F.max_pool3d(x, tuple(kernel), tuple(stride), before, ceil_mode=True)


class Unit(nn.Module):
    """Convolution, batch norm, ReLU. The norm is folded into the convolution (`convert.fold_batch_norm`)."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels, kernel, stride)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d _ _ _"]:
        return F.relu_(self.conv(pad_same(x, self.conv.kernel_size, self.conv.stride)))


class Mixed(nn.Module):
    """An Inception block: four parallel branches, concatenated over channels."""

    def __init__(self, channels_in: int, widths: tuple[int, int, int, int, int, int]):
        super().__init__()
        one, reduced, grown, reduced_more, grown_more, pooled = widths
        self.branch_0 = Unit(channels_in, one, 1)
        self.branch_1 = nn.Sequential(Unit(channels_in, reduced, 1), Unit(reduced, grown, 3))
        self.branch_2 = nn.Sequential(Unit(channels_in, reduced_more, 1), Unit(reduced_more, grown_more, 3))
        self.branch_3 = Unit(channels_in, pooled, 1)
        self.channels = one + grown + grown_more + pooled

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h w"]:
        pooled = max_pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(pooled)], 1)


class I3D(nn.Module):
    """RGB clips (b, 3, t, 224, 224) in [-1, 1] to logits (b, 400).

    t is at least 9; common implementations require 10.
    """

    def __init__(self):
        super().__init__()
        self.stem = Unit(3, 64, 7, 2)
        self.stem_1x1 = Unit(64, 64, 1)
        self.stem_3x3 = Unit(64, 192, 3)
        channels, blocks = 192, {}
        for name, widths in MIXED.items():
            blocks[name] = Mixed(channels, widths)
            channels = blocks[name].channels
        self.mixed = nn.ModuleDict(blocks)
        self.logits = nn.Conv3d(channels, CLASSES, 1)

    def forward(self, x: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 400"]:
        x = max_pool(self.stem(x), (1, 3, 3), (1, 2, 2))
        x = self.stem_3x3(self.stem_1x1(x))
        for name, block in self.mixed.items():
            x = block(max_pool(x, *POOLS[name]) if name in POOLS else x)
        x = F.avg_pool3d(x, (2, 7, 7), stride=1)  # no padding
        return self.logits(x).flatten(2).mean(2)


def preprocess(frames: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b 3 t 224 224"]:
    """The input that common FVD implementations give I3D, on the frames' device.

    The shorter side becomes 224, bilinear without antialias; then a centre crop to 224x224, in [-1, 1].
    """
    clips, length, _, height, width = frames.shape
    short = min(height, width)
    side = (-(-height * SIDE // short), -(-width * SIDE // short))  # the longer one rounded up
    top, left = (side[0] - SIDE) // 2, (side[1] - SIDE) // 2
    parts = []
    for some in frames.flatten(0, 1).split(8):  # a batch of large frames as floats would take gigabytes
        x = F.interpolate(to_float(some), size=side, mode="bilinear", align_corners=False)
        parts.append(x[..., top : top + SIDE, left : left + SIDE].clone())
    return torch.cat(parts).unflatten(0, (clips, length)).transpose(1, 2).contiguous()


def on_cpu(network: nn.Module) -> Callable[[Float[Tensor, "b c t h w"]], Float[Tensor, "b d"]]:
    """The fastest way to evaluate I3D on a CPU: OpenVINO if it is installed, otherwise PyTorch with channels last.

    benchmarks/README.md has the measurements. OpenVINO evaluates two clips in parallel, so that one graph serves all
    batches. The first clip of a new length takes some seconds longer, because its graph is traced and stored.
    """
    if not find_spec("openvino"):
        return network.to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
    import openvino

    settings = {**openvino_settings(), "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": "2"}

    @cache
    def requests(shape: torch.Size):
        graph = kept_graph(network, (torch.zeros(1, *shape),), [[1, *shape]], "i3d")
        return openvino.AsyncInferQueue(openvino.Core().compile_model(graph, "CPU", settings))

    def logits(x: Tensor) -> Tensor:
        rows, queue = {}, requests(x.shape[1:])
        # Copies, because a request writes its next result to the same memory.
        queue.set_callback(lambda request, i: rows.update({i: torch.tensor(request.get_output_tensor().data)}))
        for i, clip in enumerate(x):
            queue.start_async([clip[None].numpy()], i)
        queue.wait_all()
        return torch.cat([rows[i] for i in range(len(x))])

    return logits
