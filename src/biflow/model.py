"""A model: a network, its method, and what it was trained on; and the folders that models are kept in.

A folder holds `config.json` and `diffusion_pytorch_model.safetensors`, and beside them the averaged (EMA) weights of a
run as `diffusion_pytorch_model.ema.safetensors`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import diffusers
import torch
from torch import Tensor, nn

from biflow import methods
from biflow.actions import Actions, described
from biflow.config import NetworkConfig, Shipped, parse
from biflow.documents import read_document
from biflow.errors import UserError
from biflow.files import together, write_json, write_tensors
from biflow.hub import model_folder
from biflow.methods import Method
from biflow.networks import VideoUNet, check_size
from biflow.paths import NO_CONDITIONS, Conditions, Network
from biflow.schemas import ModelFile
from biflow.tensors import bare, read_tensors, with_names

WEIGHTS, AVERAGED = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.ema.safetensors"
NO_MODEL = "does not describe a biflow model"
FORMAT = 2  # of config.json, of which older versions do not know the span; without one, it is 1
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


@dataclass(frozen=True)
class Model:
    """A network and what is to be known to stream with it.

    Attributes:
        network: answers the queries of its method: a `VideoUNet`, an engine's form of it, or any other callable.
        method: how frames are solved.
        shape: of a sample, (3, h, w) for frames; None for any.
        eps: the noise level that streams best with it; 0 for methods that take none.
        fps: the frame rate of the videos that it was trained on, if known.
        context: number of frames before the current one that it sees.
        context_eps: the level of the noise that these get while streaming.
        actions: what its actions are; None if it takes none.
        spin: by how many pixels at most a frame is solved aside, at random, so that patches leave no grid; 0 for none.
        span: number of frames of these videos that a solve leads ahead, each of which is a frame of the stream; or,
            where the method makes whole clips, that a clip has.
        limits: every frame is clamped to them, and first frames must lie in them; None for none.
        device: where the network computes.
        engine: what evaluates the network, in words.
        folder: where it was loaded from.
        ema: whether these are the averaged weights of the folder, where it has any.
    """

    network: Network
    method: Method
    shape: tuple[int, ...] | None = None
    eps: float = 0.0
    fps: float | None = None
    context: int = 0
    context_eps: float = 0.0
    actions: Actions | None = None
    span: int = 1
    spin: int = 0
    limits: tuple[float, float] | None = (-1.0, 1.0)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    engine: str = "torch"
    folder: Path | None = None
    ema: bool = True

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of its frames."""
        assert self.shape is not None, "this model makes samples of any shape"
        _, height, width = self.shape
        return height, width

    @property
    def weights(self) -> nn.Module:
        """The network as a module, which it is unless an engine evaluates it."""
        assert isinstance(self.network, nn.Module), f"{self.engine} holds no weights to save or train"
        return self.network

    @property
    def config(self) -> dict[str, Any]:
        """What `config.json` says: all but the weights."""
        unet = self.network if isinstance(self.network, VideoUNet) else None
        memory = {"context": self.context, "context_eps": self.context_eps} if self.context else {}
        actions = {"actions": self.actions.as_json()} if self.actions else {}
        return {
            **memory,
            **actions,
            **({"span": self.span} if self.span > 1 else {}),
            **({"spin": self.spin} if self.spin else {}),
            "_class_name": type(self.network).__name__,
            "_diffusers_version": diffusers.__version__,
            "eps": self.eps,
            "format": FORMAT if self.span > 1 else 1,
            "fps": self.fps,
            "method": self.method.name,
            "network": asdict(unet.network) if unet else None,
            "size": list(self.size),
            "v_scale": unet.v_scale if unet else 1.0,
        }

    def taken_actions(self) -> Actions:
        """Its actions. Raises UserError if it takes none."""
        if self.actions is None:
            raise UserError("This model takes no actions; it was trained on clips without them.", setting="actions")
        return self.actions

    def conditions(self, batch: int) -> Conditions:
        """Those of `batch` samples of which no past frame and no action is known."""
        assert self.shape is not None or not (self.context or self.actions), "what size is a past frame?"
        return empty_conditions(batch, self.shape or (), self.context, self.actions, self.device)

    @classmethod
    def from_pretrained(cls, folder: Path | str, **settings: Any) -> "Model":
        """The same as `load_model`."""
        return load_model(folder, **settings)


def empty_conditions(
    batch: int, shape: tuple[int, ...], context: int, actions: Actions | None, device: torch.device | str = "cpu"
) -> Conditions:
    """Conditions of `batch` samples without a known past frame or action, as a network takes them."""
    conditions = NO_CONDITIONS
    if context:
        past, noise = torch.zeros(batch, context, *shape, device=device), -torch.ones(batch, context, device=device)
        conditions = conditions._replace(past=past, past_noise=noise)
    if actions:
        conditions = conditions._replace(action=torch.zeros(batch, 1 + len(actions.columns), device=device))
    return conditions


def weights_file(folder: Path, *, ema: bool = True) -> Path:
    """The weights of the model in `folder`: the averaged ones, where there are any and `ema` asks for them."""
    averaged = folder / AVERAGED
    return averaged if ema and averaged.exists() else folder / WEIGHTS


def load_model(
    folder: Path | str, *, ema: bool = True, device: torch.device | str = "cpu", network: nn.Module | None = None
) -> Model:
    """The model in `folder` (a run, or a published model) on `device`, ready to stream, with its EMA weights if any.

    `folder` may also be the id of a model on the Hugging Face Hub, `user/name` or `user/name@revision`, which is
    downloaded once; a local folder of that name goes first. `network` takes the weights of a folder whose network is
    not a `VideoUNet`.

    Raises:
        UserError: no model there yet, one of a newer format, weights that are not safetensors, or of another shape.
    """
    folder = model_folder(folder)
    path, weights = folder / "config.json", weights_file(folder, ema=ema)
    if not path.exists():
        raise _no_model(folder)
    settings = read_description(path)
    if not weights.exists():
        raise UserError(f"No weights in {folder}: {weights.name} is missing. {_advice(folder)}")
    try:
        method, (height, width) = methods.get(settings.get("method", "biflow")), settings.get("size", (64, 64))
        context, actions = settings.get("context", 0), described(settings.get("actions"), "its actions")
        kind = settings.get("_class_name", VideoUNet.__name__)
        if network is None and kind == VideoUNet.__name__:
            config = parse(NetworkConfig, settings.get("network") or {}, "network")
            check_size(config, height, width)
            conditions, v_scale = empty_conditions(1, (3, 1, 1), context, actions), float(settings.get("v_scale", 1.0))
            span = settings.get("span", 1)
            with torch.device("meta"):  # until its shapes are known to be those of the weights
                network = VideoUNet(method, config, v_scale=v_scale, conditions=conditions, span=span)
    except UserError as error:
        raise UserError(f"{path} {NO_MODEL}: {error}") from error
    if network is None:
        raise UserError(f"The network in {folder} is a {kind}, not a VideoUNet: pass one as network= to load it.")
    load_weights(network, weights)
    network.to(device).eval()
    shape, place = (3, height, width), torch.device(device)
    eps, context_eps = settings.get("eps", 0.1) if method.takes_eps else 0.0, settings.get("context_eps", 0.0)
    memory = (context, context_eps, actions, settings.get("span", 1), settings.get("spin", 0))
    return Model(network, method, shape, eps, settings.get("fps"), *memory, device=place, folder=folder, ema=ema)


def read_description(path: Path) -> ModelFile:
    """The content of a `config.json`. Raises UserError if it does not describe a model."""
    settings = read_document(path, ModelFile, NO_MODEL, "Get or write the folder of the model again.")
    if not {"method", "network"} & settings.keys():
        raise UserError(f"{path} {NO_MODEL}: it has neither a method nor a network.")
    if (written := settings.get("format", FORMAT)) > FORMAT:
        what = f"{path} describes a model of format {written!r}, and this biflow reads formats up to {FORMAT}"
        raise UserError(f"{what}. Install a newer one: pip install -U biflow")
    return settings


def _no_model(folder: Path) -> UserError:
    if any((folder / name).exists() for name in ("tensorboard", "wandb.json", "log.jsonl")):
        return UserError(f"{folder} is a run that has no checkpoint yet. Wait for one, or resume it: biflow train …")
    return UserError(f"No model in {folder}: it has no config.json. Give a run of `biflow train` or a model folder.")


def _advice(folder: Path) -> str:
    """What to do about missing weights."""
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES):
        return f"{pickles[0]} is a pickle, which is never loaded: save its weights as safetensors."
    return "Has the run written a checkpoint yet?"


def save_model(
    folder: Path, model: Model, ema: Mapping[str, Tensor] | None = None, metadata: dict[str, str] | None = None
) -> None:
    """Write a model folder, with averaged weights (`ema`) beside the weights if there are any."""
    with together(folder) as new:
        write_json(new / "config.json", model.config)
        write_tensors(new / WEIGHTS, model.weights.state_dict(), metadata)
        if ema is not None:
            write_tensors(new / AVERAGED, dict(ema), metadata)
    if ema is None:
        (folder / AVERAGED).unlink(missing_ok=True)  # of another model; they would be read in place of these


def load_weights(network: nn.Module, path: Path) -> None:
    """Load `path` (safetensors) into `network` in float32, strictly. A network without memory (meta) gets some.

    The weights may have been saved from a network in wrappers, such as that of torch.compile.

    Raises:
        UserError: another format, another network or shape, or weights that are not finite floating-point numbers.
    """
    expected = network.state_dict()
    names = {bare(name): name for name in expected}
    state = read_tensors(path, expected, lambda state: with_names(state, lambda name: names.get(bare(name), name)))
    if any(value.is_meta for value in expected.values()):
        network.to_empty(device="cpu")
    network.load_state_dict(state)


def shipped_model(name: Shipped = "maze") -> Path:
    """The folder of a model that comes with the package: "maze" walks through mazes, "racing" drives a car to steer.

    Raises UserError for another name.
    """
    if name not in (names := get_args(Shipped)):
        raise UserError(f"No model {name!r} comes with the package; use one of {', '.join(names)}.", setting="name")
    return Path(str(resources.files("biflow"))) / "models" / name
