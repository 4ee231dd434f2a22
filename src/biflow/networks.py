"""The backbone: one diffusers UNet with one or two heads, or the reference implementation's pair of UNets.

A saved model is a folder of `config.json` and `diffusion_pytorch_model.safetensors`, with the averaged (EMA) weights
beside them as `diffusion_pytorch_model.ema.safetensors`, in diffusers' own format.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from safetensors.torch import load_file
from torch import Tensor, nn

from biflow.config import METHODS, NORM_GROUPS, Method, NetworkConfig
from biflow.errors import UserError
from biflow.paths import Fields


def reference_network(shape: Literal["default", "small"], width: int, *, pair: bool) -> NetworkConfig:
    """The network of ryushinn/ode-video in its "default" (7 resolutions) or "small" (6) shape."""
    multiples = {"default": (1, 1, 2, 2, 2, 4, 4), "small": (1, 1, 2, 2, 4, 4)}[shape]
    channels = tuple(width * m for m in multiples)
    return NetworkConfig(channels, layers=2, attention=(-2,), head_dim=8, patch=1, pair=pair, time_scale=1.0)


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


def _unet(network: NetworkConfig, frames_in: int, heads: int, embeds_alpha: bool) -> UNet2DModel:
    levels = len(network.channels)
    attention = {i % levels for i in network.attention}
    down = tuple("AttnDownBlock2D" if i in attention else "DownBlock2D" for i in range(levels))
    up = tuple(block.replace("Down", "Up") for block in reversed(down))
    return UNet2DModel(
        in_channels=3 * frames_in * network.patch**2,
        out_channels=3 * heads * network.patch**2,
        block_out_channels=network.channels,
        layers_per_block=network.layers,
        down_block_types=down,
        up_block_types=up,
        attention_head_dim=network.head_dim,
        class_embed_type="timestep" if embeds_alpha else None,
        norm_num_groups=NORM_GROUPS,
    )


class VideoUNet(ModelMixin, ConfigMixin):
    """The fields of FLOW, BI-FLOW or CONDIFF.

    Args:
        method: "flow" (3 → 3 channels), "biflow" (3 → 6: f^v and f^n) or "condiff" (6 → 3: noisy frame, condition).
        network: the NetworkConfig, as a dataclass or its dict.
        size: (height, width) of the frames it was trained on.
        eps: the noise level that streams best with this model, the default of `biflow sample`.
        fps: the frame rate of the videos it was trained on, if known.
        v_scale: unit of the f^v head: its output is multiplied by this.
    """

    @register_to_config
    def __init__(
        self,
        method: str = "biflow",
        network: NetworkConfig | dict | None = None,
        size: Sequence[int] = (64, 64),
        eps: float = 0.1,
        fps: float | None = None,
        v_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if method not in METHODS:
            raise UserError(f"There is no method {method!r}; the methods are {', '.join(METHODS)}.")
        if not isinstance(network, NetworkConfig):
            lists = dict(network or {})  # as JSON holds them
            tuples = {k: tuple(lists[k]) for k in ("channels", "attention") if k in lists}
            network = NetworkConfig(**{**lists, **tuples})
        check_size(network, *size)
        self.register_to_config(network=asdict(network), size=list(size))
        self.network, self.method, self.v_scale = network, method, v_scale
        heads, frames_in = (2 if method == "biflow" else 1), (2 if method == "condiff" else 1)
        if network.pair and method == "biflow":
            self.nets = nn.ModuleList(_unet(network, frames_in, 1, True) for _ in range(2))
        else:
            self.nets = nn.ModuleList([_unet(network, frames_in, heads, method == "biflow")])

    def forward(self, x: Tensor, t: Tensor, alpha: Tensor | None = None, condition: Tensor | None = None) -> Fields:
        """The fields at state x.

        Args:
            x: (b, 3, h, w) in about [-1, 1], plus noise.
            t: (b,) in [0, 1]: time between two frames; for CONDIFF the way from noise (0) to the next frame (1).
            alpha: (b,) noise level, BI-FLOW only.
            condition: (b, 3, h, w) the current frame, CONDIFF only.
        """
        return self.fields([self.evaluate(net, x, t, alpha, condition) for net in self.nets])

    def evaluate(self, net: nn.Module, x: Tensor, t: Tensor, alpha: Tensor | None, condition: Tensor | None) -> Tensor:
        """What one of `nets` gives, (b, 3 or 6, h, w); the arguments are those of `forward`."""
        patch, scale = self.network.patch, self.network.time_scale
        x = x if condition is None else torch.cat([x, condition], dim=1)
        x = F.pixel_unshuffle(x, patch) if patch > 1 else x
        labels = alpha * scale if alpha is not None and self.method == "biflow" else None
        out = net(x, t * scale, class_labels=labels, return_dict=False)[0]
        return F.pixel_shuffle(out, patch) if patch > 1 else out

    def fields(self, outputs: Sequence[Tensor]) -> Fields:
        """The fields, of what `nets` gave."""
        if self.method != "biflow":
            return Fields(outputs[0] * self.v_scale)
        v, n = outputs if len(outputs) == 2 else outputs[0].chunk(2, dim=1)
        return Fields(v * self.v_scale, n)


def weights_file(folder: Path, *, ema: bool = True) -> Path:
    """The weights of the model in `folder`: the averaged ones, where there are any and `ema` asks for them."""
    averaged = folder / "diffusion_pytorch_model.ema.safetensors"
    return averaged if ema and averaged.exists() else folder / "diffusion_pytorch_model.safetensors"


def load_model(folder: Path | str, *, ema: bool = True, device: torch.device | str = "cpu") -> VideoUNet:
    """The model in `folder` (a run, or a published model) on `device`, for evaluation, EMA weights where there are any.

    Raises:
        UserError: no model there, weights that are not safetensors, or weights of another shape.
    """
    folder = Path(folder)
    config, weights = folder / "config.json", weights_file(folder, ema=ema)
    if not config.exists():
        raise UserError(f"No model in {folder}: it has no config.json. Give a run of `biflow train` or a model folder.")
    if not weights.exists():
        raise UserError(f"No weights in {folder}: {weights.name} is missing. Has the run written a checkpoint yet?")
    try:
        settings = json.loads(config.read_text())
        names = ("method", "network", "size", "eps", "fps", "v_scale")
        model = VideoUNet(**{k: settings[k] for k in names if k in settings})
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{config} does not describe a biflow model: {error}") from error
    load_weights(model, weights)
    model.to(device=device)  # pyright: ignore[reportCallIssue] (diffusers wraps `to`)
    return model.eval()


def load_weights(model: nn.Module, path: Path) -> None:
    """Load `path` (safetensors) into `model` in float32, strictly. Raises UserError for another format or shape."""
    state = read_safetensors(path)
    expected = model.state_dict()
    if missing := sorted(expected.keys() - state.keys()) + sorted(state.keys() - expected.keys()):
        raise UserError(f"{path} is a checkpoint of another network: {missing[0]!r} is in only one of the two.")
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            raise UserError(
                f"{path} is a checkpoint of another shape: {name} is {tuple(state[name].shape)}, "
                f"expected {tuple(tensor.shape)}."
            )
    model.load_state_dict(state)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors in `path`. Raises UserError if it is not a safetensors file; nothing is ever unpickled."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except Exception as error:  # safetensors raises its own SafetensorError, and OSError for folders
        raise UserError(f"{path} is not a safetensors file (a pickle is never loaded): {error}") from error


def import_reference(
    path: Path, *, method: Method, width: int, size: int, shape: Literal["default", "small"] = "default"
) -> VideoUNet:
    """A checkpoint of the reference implementation (its `model.safetensors`) as a model of ours, same numbers.

    BI-FLOW checkpoints hold two networks under `model1.` (f^v) and `model2.` (f^n), the others one network.
    """
    pair = method == "biflow"
    model = VideoUNet(method, reference_network(shape, width, pair=pair), (size, size))
    state = read_safetensors(path)
    if pair:
        renamed = {k.replace("model1.", "nets.0.", 1).replace("model2.", "nets.1.", 1): v for k, v in state.items()}
    else:
        renamed = {f"nets.0.{k.removeprefix('model.')}": v for k, v in state.items()}
    expected = model.state_dict()
    wrong = [k for k in sorted(expected.keys() | renamed.keys()) if k not in expected or k not in renamed]
    wrong += [k for k in sorted(expected.keys() & renamed.keys()) if expected[k].shape != renamed[k].shape]
    if wrong:
        raise UserError(
            f"{path} is no {method} checkpoint of width {width} and shape {shape}: "
            f"{len(wrong)} tensors differ, first {wrong[0]!r}; check --method, --width and --shape."
        )
    model.load_state_dict(renamed)
    return model.eval()
