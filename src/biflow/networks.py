"""The backbone: one diffusers UNet with one or two heads, or the reference implementation's pair of UNets."""

import copy
import importlib
import logging
import re
import sys
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.utils import import_utils
from jaxtyping import Float
from torch import Tensor, nn

from biflow.config import NORM_GROUPS, NetworkConfig
from biflow.errors import UserError
from biflow.methods import Method
from biflow.paths import NO_CONDITIONS, Conditions, Fields, present

LEAST_LEFT = 0.05  # least 1 - alpha to divide by: nearer to the clip, its errors would be magnified without bound

log = logging.getLogger("biflow")


def _hide_broken_packages() -> None:
    """Let diffusers do without optional packages, such as torchvision, that are installed and cannot be imported."""
    for flag, available in list(vars(import_utils).items()):
        name = re.fullmatch(r"_(\w+)_available", flag)
        if name and available is True:
            try:
                importlib.import_module(name[1])
            except Exception as error:
                if isinstance(error, ModuleNotFoundError) and error.name == name[1]:
                    continue  # a flag of another name than its package
                setattr(import_utils, flag, False)
                sys.modules[name[1]] = cast(Any, None)  # it counts as not installed, wherever it is asked for
                log.warning("%s is broken (%s), and not used.", name[1], error)


try:
    from diffusers import UNet2DModel
    from diffusers.models.embeddings import Timesteps
except Exception:  # of any kind, for it imports what else is installed
    _hide_broken_packages()
    from diffusers import UNet2DModel
    from diffusers.models.embeddings import Timesteps


def check_size(network: NetworkConfig, height: int, width: int) -> None:
    """Raise UserError, naming the nearest sizes that work, if the network cannot take frames of height x width."""
    d = network.divisor
    for side in (height, width):
        if side % d:
            below, above = side // d * d, -(-side // d) * d
            near = f"{below} or {above}" if below else f"{above}"
            raise UserError(
                f"Frames of {height}x{width} do not fit this network: sides must be multiples of {d}; {near} works."
            )
    if height == width == d and network.channels[-1] == NORM_GROUPS:  # a norm over a single value leaves nothing of it
        what = f"frames of {height}x{width} have a single pixel at the coarsest of {len(network.channels)} resolutions"
        raise UserError(f"network.channels: {what}. Use fewer.", setting="network.channels")


class VideoUNet(nn.Module):
    """A UNet for frames that answers the queries of a method.

    The frames of a query (b, 3, h, w) are stacked as channels. Its numbers (b,) are embedded: the first as the time of
    the UNet, a second as its class label. So FLOW has 3 → 3 channels and embeds t, BI-FLOW 3 → 6 (f^v, f^n) and embeds
    t and alpha, CONDIFF 6 → 3 (noisy frame, current frame) and embeds alpha. Past frames (b, m, 3, h, w) are further
    channels. The levels of their noise and the action, both (b, d), are embedded together and added to the others;
    what comes out of that is zero until it is trained.

    For SEQUENCE, the channels are those of all frames of a clip. A UNet with fewer channels inside cannot pass on the
    noise of so many, but it can describe the clip. So it predicts the clip, and the field is computed from that (Li &
    He, "Back to Basics: Let Denoising Generative Models Denoise", 2025).

    Args:
        method: whose queries it answers.
        config: its shape.
        v_scale: unit of the f^v head, whose output is multiplied by it; not used for clips.
        conditions: those that it is asked under, as an example.
        span: frames of a state, for a method whose states are clips.

    Raises:
        UserError: the method asks with other tensors too, which would be ignored.
    """

    def __init__(
        self,
        method: Method,
        config: NetworkConfig | None = None,
        *,
        v_scale: float = 1.0,
        conditions: Conditions = NO_CONDITIONS,
        span: int = 1,
    ) -> None:
        super().__init__()
        self.network, self.v_scale = config or NetworkConfig(), v_scale
        state = torch.zeros(1, *method.state((3, 1, 1), span), device="cpu")
        query = method.example(state, conditions=conditions)
        frames, numbers, vectors = _parts(query)
        if any(tensor.ndim not in (1, 2, 4, 5) for tensor in present(query).values()) or not 1 <= len(numbers) <= 2:
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in present(query).items())
            raise UserError(
                f"{method.title} asks with {shapes}, but a VideoUNet takes frames (b, c, h, w) and one or two numbers "
                "(b,). It needs a network of its own."
            )
        channels, count = sum(frame.shape[1] for frame in frames), method.heads if self.network.pair else 1
        second, width = len(numbers) > 1, sum(vector.shape[1] for vector in vectors)
        self.nets = nn.ModuleList(
            _unet(self.network, channels, state.numel() * method.heads // count, second, width) for _ in range(count)
        )

    def forward(self, query: Any) -> Fields:
        """The fields at the query's state: x (b, 3, h, w) in about [-1, 1] plus noise; numbers (b,) in [0, 1].

        The state may also be clips (b, span, 3, h, w), whose frames are stacked as channels too.
        """
        outputs = [self.evaluate(net, query) for net in self.nets]
        if query[0].ndim > 4:
            left = (1 - query.alpha).clamp(min=LEAST_LEFT)
            return Fields((outputs[0].reshape(query[0].shape) - query.x) / left.reshape(-1, 1, 1, 1, 1))
        return self.fields(outputs)

    def evaluate(self, net: nn.Module, query: Any) -> Float[Tensor, "b c h w"]:
        """The output of one of `nets`, as many channels per head as the state has."""
        patch, scale = self.network.patch, self.network.time_scale
        frames, (time, *label), vectors = _parts(query)
        x = frames[0] if len(frames) == 1 else torch.cat(frames, dim=1)
        x = F.pixel_unshuffle(x, patch) if patch > 1 else x
        labels = label[0] * scale if label else None
        if vectors:
            labels = torch.cat([*(number[:, None] * scale for number in label), *vectors], dim=1)
        out = net(x, time * scale, class_labels=labels, return_dict=False)[0]
        return F.pixel_shuffle(out, patch) if patch > 1 else out

    def fields(self, outputs: Sequence[Float[Tensor, "b c h w"]]) -> Fields:
        """The fields, from the outputs of `nets`."""
        v, *n = outputs if len(outputs) == 2 else outputs[0].split(3, dim=1)
        return Fields(v * self.v_scale, *n)


def of_halves(network: VideoUNet) -> VideoUNet:
    """A copy that takes `halved` queries, and so sees in bf16 the x that it would see in float32."""
    twin = copy.deepcopy(network)
    for net in twin.nets:
        first = cast(nn.Conv2d, net.conv_in)
        of_x = first.weight[:, : 3 * network.network.patch**2]  # the others are those of a condition
        first.weight = nn.Parameter(torch.cat([of_x, first.weight], dim=1))
    return twin


def halves(x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 6 h w"]:
    """What bf16 holds of x, and what it loses.

    f^n finds little noise in x, about (x - clean) / alpha, and so magnifies what x lost to rounding: half of the
    error of frames in bf16. A first convolution that adds up both parts, each exact enough, does not lose it.
    """
    rounded = x.to(torch.bfloat16).to(x.dtype)
    return torch.cat([rounded, x - rounded], dim=1)


def halved(query: Any) -> Any:
    """The query with `halves` of its state."""
    return query._replace(**{query._fields[0]: halves(query[0])})


def _parts(query: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The frames (b, c, h, w), the numbers (b,) and the vectors (b, d) of a query."""
    tensors = present(query).values()
    frames = [tensor.flatten(1, -3) for tensor in tensors if tensor.ndim > 3]
    numbers, vectors = ([tensor for tensor in tensors if tensor.ndim == n] for n in (1, 2))
    return frames, numbers, vectors


def _unet(network: NetworkConfig, channels_in: int, channels_out: int, second: bool, vector: int) -> UNet2DModel:
    """The UNet, of which a `second` number and vectors, together of size `vector`, are the class labels."""
    levels = len(network.channels)
    attention = {i % levels for i in network.attention}
    down = tuple("AttnDownBlock2D" if i in attention else "DownBlock2D" for i in range(levels))
    up = tuple(block.replace("Down", "Up") for block in reversed(down))
    unet = UNet2DModel(
        in_channels=channels_in * network.patch**2,
        out_channels=channels_out * network.patch**2,
        block_out_channels=network.channels,
        layers_per_block=network.layers,
        down_block_types=down,
        up_block_types=up,
        attention_head_dim=network.head_dim,
        class_embed_type="timestep" if second and not vector else None,
        norm_num_groups=NORM_GROUPS,
    )
    if vector:
        unet.class_embedding = _Labels(network.channels[0], second, vector)  # pyright: ignore[reportAttributeAccessIssue]
    return unet


class _Labels(nn.Module):
    """Embeds a second number as diffusers does, with weights of the same names, and adds an embedding of vectors."""

    def __init__(self, channels: int, second: bool, vector: int) -> None:
        super().__init__()
        width = 4 * channels  # as in UNet2DModel
        self.number = Timesteps(channels, flip_sin_to_cos=True, downscale_freq_shift=0) if second else None
        if second:
            self.linear_1, self.linear_2 = nn.Linear(channels, width), nn.Linear(width, width)
        last = nn.Linear(width, width)
        self.vector = nn.Sequential(nn.Linear(vector, width), nn.SiLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, labels: Float[Tensor, "b d"]) -> Float[Tensor, "b width"]:
        if self.number is None:
            return self.vector(labels)
        number = self.number(labels[:, 0]).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(number))) + self.vector(labels[:, 1:])
