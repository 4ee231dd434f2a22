"""Settings of the commands that turn one model folder into another."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class ImportReference:
    """Import a checkpoint of the paper's own code (ryushinn/ode-video) as a model that gives the same frames.

    Attributes:
        weights: Its model.safetensors.
        out: The model folder to write.
        method: The method it was trained with: flow, biflow or condiff.
        width: Its base width. The published checkpoints have 192 (flow, condiff) and 128 (biflow).
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
    """Write a run's averaged weights in bf16 with its evidence and a few first frames: a small folder to share.

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
