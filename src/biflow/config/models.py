"""Settings of the commands that turn one model folder into another."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal


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


@dataclass(frozen=True)
class Export:
    """Write the model of a run as a small folder to share.

    It holds the averaged weights in bf16, a record of the training, and a few first frames.

    Attributes:
        run: A run of `biflow train`.
        out: The model folder to write.
        first: The prepared set whose test split gives the first frames.

    Examples:
        biflow export runs/mine models/mine --first datasets/mine
    """

    run: Path
    out: Path
    _: KW_ONLY
    first: Path | None = None
