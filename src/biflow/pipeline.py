"""A model as a pipeline of diffusers, over the same stream as everything else."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any, SupportsIndex, cast

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor

from biflow.actions import script
from biflow.card import CARD, EVIDENCE, MARK, PICTURE
from biflow.config import Direction, Eps, Solver
from biflow.config.checks import check_no_run
from biflow.data.starts import starts
from biflow.engines.queries import each
from biflow.errors import UserError
from biflow.exchange import as_frames, as_type, check_weights
from biflow.hub import FILES, model_folder, push
from biflow.model import AVERAGED, WEIGHTS, Model, load_model, save_model
from biflow.paths import Network
from biflow.rollout import Shown, drain
from biflow.sequences import follow
from biflow.video import to_float

FRAMES = 64  # unless the caller, or the actions, say how many


@dataclass
class BiFlowOutput(BaseOutput):
    """What the pipeline returns.

    Attributes:
        frames: a video for each first frame, without that frame. By `output_type`: "pil", a list of n images for each;
            "np", (b, n, h, w, 3); "pt", (b, n, 3, h, w); the last two are float32 in [0, 1].
    """

    frames: list[list[PIL.Image.Image]] | np.ndarray | Tensor


class BiFlowPipeline(DiffusionPipeline):
    """Stream video from a model, with the interface of diffusers.

    >>> pipe = BiFlowPipeline.from_pretrained("user/name").to("cuda", torch.bfloat16)
    >>> frames = pipe(image, num_frames=100).frames[0]

    Args:
        model: as `load_model` returns it; its device and the number format of its weights are those of the pipeline.

    Arguments of a call:
        image: what to start from: a PIL image, an array (h, w, 3) or (b, h, w, 3), a tensor (3, h, w) or
            (b, 3, h, w), or a list of these. uint8, or floats in [0, 1]. Other sizes are resized. (b, j, 3, h, w)
            also gives a model with context its past, the newest frame last. None: the first of its own first frames.
        num_frames: as many as there are actions by default, or 64.
        noise_level: eps, for methods that take one, or "auto"; the model's own by default.
        num_inference_steps: fixed solver steps per frame; by default adaptive ones, or one for a flow map.
        actions: a text such as "forward*40 left*12", or a row of numbers for each frame, for all or for each video.
        generator: of the noise. One for all videos, or one for each; without it, each call is another video.
        output_type: "pil", "np" or "pt".
        return_dict: False returns the tuple (frames,).
        callback_on_step_end: called after each frame as callback(pipe, step, time, {"frame": x}), where x is
            (b, 3, h, w) in [-1, 1]. Setting `pipe._interrupt = True` ends the video with that frame.
        callback_on_step_end_tensor_inputs: the tensors that it is given; there is only "frame".
        settings: `direction`, `in_between`, `solver` and `context_eps`, as of `stream`.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.register_modules(model=model)
        self._interrupt = False

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        revision: str | None = None,
        use_safetensors: bool = True,
        **download: Any,
    ) -> "BiFlowPipeline":
        """The pipeline of a model folder, a run, or a model on the Hub: everything that `load_model` takes.

        Args:
            pretrained_model_name_or_path: a folder, or the id `user/name`.
            dtype: the number format of the weights; `torch_dtype` is its older name.
            revision: a branch, a tag or a commit on the Hub.
            use_safetensors: True, as nothing else is ever loaded.
            download: `cache_dir`, `token` and other settings of huggingface_hub's `snapshot_download`.

        Raises:
            UserError: as `load_model`.
        """
        if not use_safetensors:
            raise UserError("Weights are loaded as safetensors only: leave out use_safetensors.")
        name = f"{pretrained_model_name_or_path}{f'@{revision}' if revision else ''}"
        pipe = cls(load_model(model_folder(name, **download)))
        pipe.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipe.to(kind) if (kind := dtype or torch_dtype) else pipe

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, save_directory: str | Path, safe_serialization: bool = True, *, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write a model folder, which `load_model` and every command take as well, and `model_index.json` beside it.

        Its first frames and its card are copied from where the model was loaded. `push_to_hub` also uploads it as
        `repo_id`, by default the name of the folder; further arguments are those of `push_to_hub`.

        Raises:
            UserError: weights that an engine holds, pickles, a run in the folder, a full disk, a failed upload.
        """
        if not safe_serialization:
            raise UserError("Weights are saved as safetensors only: leave out safe_serialization.")
        check_weights(self.model, "saved: save the model first")
        out, source = Path(save_directory), self.model.folder
        check_no_run(out)
        held = (out / "config.json").exists()  # another model
        save_model(out, self.model)
        if held and (source is None or out.resolve() != source.resolve()):
            _remove_others(out, first=source is not None)
        for path in filter(Path.is_file, source.rglob("*") if source else []):
            copy = out / (name := path.relative_to(cast(Path, source)))
            known = any(fnmatch(name.as_posix(), pattern) for pattern in FILES)
            if known and path.name not in ("config.json", "model_index.json", WEIGHTS, AVERAGED) and not copy.exists():
                copy.parent.mkdir(exist_ok=True, parents=True)
                shutil.copyfile(path, copy)
        self.save_config(out)
        if push_to_hub:
            push(out, kwargs.pop("repo_id", out.name), **kwargs)

    def push_to_hub(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload the folder that `save_pretrained` writes, with the model's own card; the address of the commit."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            how = {"commit_message": commit_message, "private": private, "token": token, "create_pr": create_pr}
            return push(Path(folder), repo_id, **how)

    def to(self, *args: Any, silence_dtype_warnings: bool = False, **kwargs: Any) -> "BiFlowPipeline":
        """Move the model to a device, to another number format, or both: to("cuda"), to(dtype), to(device, dtype).

        Frames are solved in float32; the network is evaluated in that format where the format is another one. Raises
        UserError for other formats, and for a model that an engine evaluates, since that has no weights to move.
        """
        check_weights(self.model, "moved: move the model first")
        known = (torch.float32, torch.bfloat16, torch.float16)
        if bad := [one for one in (*args, *kwargs.values()) if isinstance(one, torch.dtype) and one not in known]:
            raise UserError(f"A network is evaluated in float32, bfloat16 or float16, not in {bad[0]}.")
        weights = self.model.weights.to(*args, **kwargs)
        self.model = replace(self.model, device=next(weights.parameters()).device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the weights; float32 for a model that an engine evaluates."""
        network = self.model.network
        return next(network.parameters()).dtype if isinstance(network, torch.nn.Module) else torch.float32

    @torch.no_grad()
    def __call__(
        self,
        image: Any = None,
        num_frames: int | None = None,
        noise_level: Eps | None = None,
        num_inference_steps: int | None = None,
        actions: Any = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[["BiFlowPipeline", int, float, dict], Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("frame",),
        **settings: Any,
    ) -> BiFlowOutput | tuple:
        """Stream `num_frames` frames that follow `image`; the arguments are described with the class.

        Raises UserError for what does not fit the model, and for frames that cannot be solved.
        """
        if output_type not in ("pil", "np", "pt"):
            raise UserError(f"output_type is {output_type!r}, but must be pil, np or pt.", setting="output_type")
        if set(callback_on_step_end_tensor_inputs) - {"frame"}:
            raise UserError("callback_on_step_end_tensor_inputs may name one tensor: frame.")
        rows = self._rows(actions)
        total = self._length(num_frames, rows, settings.get("in_between", 1))
        how = {"noise_level": noise_level, "num_inference_steps": num_inference_steps, **settings}
        frames = islice(self.stream(image, actions=rows, generator=generator, **how), total)
        asked, shown, self._interrupt = callback_on_step_end_tensor_inputs, [], False
        with cast(Any, self).progress_bar(total=total) as bar:
            for step, frame in enumerate(frames):
                shown.append(frame.pixels if output_type == "pil" else frame.x.cpu())
                bar.update()
                if callback_on_step_end:
                    callback_on_step_end(self, step, frame.time, {"frame": frame.x} if asked else {})
                if self._interrupt:
                    break
        if len(shown) < total and not self._interrupt:
            raise UserError(f"The actions end after {len(shown)} of {total} frames.", setting="actions")
        videos = as_type(shown, output_type)
        return BiFlowOutput(frames=videos) if return_dict else (videos,)

    def stream(
        self,
        image: Any = None,
        noise_level: Eps | None = None,
        num_inference_steps: int | None = None,
        actions: Any = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        solver: Solver | str | None = None,
        context_eps: float | None = None,
        direction: Direction = "forward",
        in_between: int = 1,
    ) -> Iterator[Shown]:
        """The frames one by one, without an end: `pixels`, `x`, `nfe`, `time` and `seconds` of each (`Shown`).

        The arguments are those of a call; the frames end with the actions, if there are any.
        """
        first = self._first(image)
        name = solver if isinstance(solver, str) else None
        usual = solver if isinstance(solver, Solver) else self.model.method.solver
        solver = usual.changed(name, num_inference_steps)
        how = {"eps": noise_level, "context_eps": context_eps, "direction": direction, "in_between": in_between}
        model = replace(self.model, network=_in_format(self.model, self.dtype))
        generators = _generators(generator, len(first))
        return drain(follow(model, first, actions=self._rows(actions), generators=generators, solver=solver, **how))

    def _rows(self, actions: Any) -> Any:
        """Actions as `stream` takes them, one for each frame."""
        return script(self.model.taken_actions(), actions) if isinstance(actions, str) else actions

    def _length(self, wanted: int | None, rows: Any, in_between: int) -> int:
        """How many frames to stream. Raises UserError for no number of them, or for more than there are actions."""
        known = len(rows) * in_between if hasattr(rows, "__len__") else None
        total = (known or FRAMES) if wanted is None else wanted
        if not isinstance(total, SupportsIndex) or total < 1 or (known is not None and total > known):
            most = "1" if known is None else f"1 and at most {known}, as many as there are actions for"
            raise UserError(f"num_frames is {total}; it must be a whole number, at least {most}.", setting="num_frames")
        return total

    def _first(self, image: Any) -> Tensor:
        """The frames to start from, (b, 3, h, w) or (b, j, 3, h, w) in [-1, 1] on the model's device."""
        if image is not None:
            return as_frames(image, self.model.size).to(self.device)
        folder = self.model.folder
        if folder is None or not (folder / "first").is_dir():
            raise UserError("This model comes without first frames: give an image.", setting="image")
        own = starts(folder / "first", self.model.size, samples=1, past=self.model.context)
        return to_float(own.frames).to(self.device)


def _generators(given: torch.Generator | Sequence[torch.Generator] | None, samples: int) -> list[torch.Generator]:
    """One generator for each video. One for all seeds theirs, so that a video does not depend on what is beside it."""
    if isinstance(given, Sequence):
        return list(given)
    if given is not None and samples == 1:
        return [given]
    device = given.device if given else "cpu"
    seeds = torch.randint(2**63 - 1, (samples,), generator=given, device=device).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _in_format(model: Model, dtype: torch.dtype) -> Network:
    """The network, asked and answering in float32, whatever the format of its weights."""
    if dtype == torch.float32:
        return model.network

    def evaluate(query: Any) -> Any:
        with torch.autocast(model.device.type, dtype):
            return each(model.network(query), Tensor.float)

    return evaluate


def _remove_others(out: Path, *, first: bool) -> None:
    """Remove what is known of another model that was in this folder: its evidence, licences and card, and `first`."""
    if first:
        shutil.rmtree(out / "first", ignore_errors=True)
    for path in (out / EVIDENCE, out / PICTURE, *out.glob("LICENSE*"), *out.glob("NOTICE*")):
        path.unlink(missing_ok=True)
    card = out / CARD
    if card.exists() and MARK in card.read_text("utf-8", errors="replace"):
        card.unlink()
