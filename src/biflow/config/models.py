"""The settings of commands that take a finished model: export, info, and the import of the paper's checkpoints."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

from biflow.config.checks import as_plain, check, check_sides
from biflow.config.solver import USUAL, Solver, SolverName
from biflow.config.training import NORM_GROUPS, WIDEST
from biflow.errors import UserError
from biflow.hub import is_id

FRAME_STEPS = 4  # of frame.onnx, for methods whose usual solver is adaptive


@dataclass(frozen=True)
class Export:
    """Write a model as a small folder to share, as ONNX, or as a page that runs in the browser without a server.

    The model folder holds the averaged weights in bf16, a record of the training, a few first frames, and a card
    (README.md), with a moving picture, that says what is known of the model.

    Attributes:
        model: A run of `biflow train`, a model folder, or the id of a model on the Hugging Face Hub (user/name).
        out: The model folder to write.
        first: Other first frames than the model's own: those of a prepared set's test split.
        onnx: A folder to write as ONNX: network.onnx, one evaluation; frame.onnx, a whole frame; and onnx.json, which
            describes them. Each is compared with PyTorch.
        web: A folder to write as a page that any web server can serve, and that streams the model in the browser.
        solver: How frame.onnx solves a frame. By default as `biflow sample` does, in fixed steps.
        steps: Number of fixed solver steps in frame.onnx; 4 by default, or 1 for a flow map.
        license: The licence of the weights, as the Hugging Face Hub names it (mit, cc-by-4.0, other …), for the card.
        evaluated: An evaluation of this model by `biflow evaluate`. Its results go on the card.
        push: A repository on the Hugging Face Hub to upload the model folder to as well.

    Examples:
        biflow export runs/mine models/mine
        biflow export runs/mine models/mine --license cc-by-4.0 --push user/name
        biflow export runs/mine --web page
        biflow export models/mine --onnx mine-onnx --steps 2
    """

    model: Path
    out: Path | None = None
    _: KW_ONLY
    first: Path | None = None
    onnx: Path | None = None
    web: Path | None = None
    solver: SolverName | None = None
    steps: int | None = None
    license: str | None = None
    evaluated: Path | None = None
    push: str | None = None

    def __post_init__(self) -> None:
        as_plain(self)
        if not (self.out or self.onnx or self.web):
            raise UserError("Say what to write: a model folder (OUT), ONNX files (--onnx DIR) or a page (--web DIR).")
        if not self.out and (self.push or self.license or self.evaluated):
            raise UserError("A licence, results and an upload belong to a model folder: name one as OUT.")
        check(self, "be at least 1", lambda n: n >= 1, "steps")
        self.full_solver()  # it raises UserError
        if self.push is not None and not is_id(self.push, local=False):
            form = "the id of a repository on the Hugging Face Hub: user/name"
            raise UserError(f"push is {self.push!r}, but must be {form}.", setting="push")

    def full_solver(self, usual: Solver = USUAL) -> Solver:
        """The solver of frame.onnx, for a method that is usually solved by `usual`."""
        return usual.changed(self.solver, self.steps or usual.steps or FRAME_STEPS)


@dataclass(frozen=True)
class Info:
    """Print what is known of a model: what it is, how it was trained, its results and its licence.

    Attributes:
        model: A run of `biflow train`, a model folder, the id of a model on the Hugging Face Hub (user/name), or a
            prepared set.

    Examples:
        biflow info runs/mine
    """

    model: Path


@dataclass(frozen=True)
class ImportReference:
    """Import a checkpoint of the paper's own code. The model gives the same frames as ryushinn/ode-video does.

    Attributes:
        weights: The model.safetensors of the checkpoint.
        out: The model folder to write.
        method: The method it was trained with: flow, biflow or condiff.
        width: Base width of its network. The published checkpoints have 192 (flow, condiff) and 128 (biflow).
        size: Side of the frames it was trained on.
        shape: Shape of its network.

    Examples:
        biflow import reference model.safetensors models/sky --method biflow --width 128 --size 128
    """

    weights: Path
    out: Path
    _: KW_ONLY
    method: str
    width: int
    size: int
    shape: Literal["default", "small"] = "default"

    def __post_init__(self) -> None:
        check_sides(self)
        check(self, f"be a multiple of {NORM_GROUPS}", lambda n: n > 0 and n % NORM_GROUPS == 0, "width", most=WIDEST)
