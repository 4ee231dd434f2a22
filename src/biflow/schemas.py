"""What is in the JSON files that biflow reads: a schema of each, with bounds on every number.

A file may hold more than its schema names, as one of a newer version does. `biflow.documents` checks them.
"""

from typing import Annotated, Any, Literal, TypedDict

from msgspec import Meta

from biflow.config.checks import SEEDS, SIDES
from biflow.config.training import CONTEXT, SPAN, SPIN

Count = Annotated[int, Meta(ge=0, le=2**40)]
Number = Annotated[int, Meta(ge=1, le=2**40)]
Side = Annotated[int, Meta(ge=SIDES[0], le=SIDES[1])]
Seed = Annotated[int, Meta(ge=0, le=SEEDS - 1)]
Real = Annotated[float, Meta(ge=-1e30, le=1e30)]  # finite
Level = Annotated[float, Meta(ge=0, le=1000)]  # of noise, for values in [-1, 1]
Positive = Annotated[float, Meta(gt=0, le=1e6)]
Rate = Annotated[float, Meta(ge=1e-6, le=1e3)]  # frames per second
LINE = r"\A[^\x00-\x1f\x7f]*\Z"  # of text without line breaks and other control characters
Title = Annotated[str, Meta(pattern=LINE, max_length=1000)]
Name = Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f/\\]*\Z", max_length=150)]  # of a file, without its folder
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class ActionsFile(TypedDict):
    """What the columns of actions mean: `Actions.as_json`, in `index.json` and `config.json`."""

    columns: Annotated[list[Title], Meta(min_length=1, max_length=1000)]
    ranges: Annotated[list[tuple[Real, Real]], Meta(max_length=1000)]


class NamedActions(ActionsFile, total=False):
    """The same with names of actions."""

    keys: dict[str, dict[str, Real]]


# Prepared sets


class _Clip(TypedDict):
    name: str
    start: Count
    frames: Number
    fps: Rate | None
    split: Literal["train", "test"]


class Clip(_Clip, total=False):
    """An entry of `index.json`: a clip in frames `start` to `start + frames` of `frames.npy`."""

    source: str
    actions: bool


class _Index(TypedDict):
    format: Literal[1]
    size: tuple[Side, Side]
    clips: Annotated[list[Clip], Meta(min_length=1)]


class Index(_Index, total=False):
    """`index.json` of a prepared set."""

    stride: Number
    actions: NamedActions


class MadeFrom(TypedDict):
    """`made_from.json` of a set that a training run has prepared."""

    source: str
    settings: dict[str, Any]
    files: str


# Models and runs


class ModelFile(TypedDict, total=False):
    """`config.json` of a model. `biflow.config.NetworkConfig` checks what it says of the network."""

    _class_name: Title
    method: Title
    size: tuple[Side, Side]
    eps: Level
    fps: Rate | None
    context: Annotated[int, Meta(ge=0, le=CONTEXT)]
    context_eps: Level
    span: Annotated[int, Meta(ge=1, le=SPAN)]
    spin: Annotated[int, Meta(ge=0, le=SPIN)]
    actions: NamedActions
    network: dict[str, Any] | None
    v_scale: Positive
    format: Annotated[int, Meta(ge=1)]


class Data(TypedDict):
    """What a run was trained on: `biflow.training.fingerprint`."""

    clips: Count
    frames: Count
    size: tuple[Side, Side]
    fps: Rate | None
    columns: list[Title]
    index_sha256: Digest
    pixels_sha256: Digest
    actions_sha256: Digest | None
    since: Count


class _State(TypedDict):
    step: Count
    commit: Title
    config: dict[str, Any]
    samples: Count
    seconds: Annotated[float, Meta(ge=0, le=1e12)]
    losses: dict[str, Real]


class State(_State, total=False):
    """`state.json` of a checkpoint. `sha256` is that of each of its files."""

    processes: Annotated[int, Meta(ge=1, le=100_000)]
    v_scale: Positive
    data: Data
    sha256: dict[Literal["state.json", "model.safetensors", "ema.safetensors", "optimizer.safetensors"], Digest]


class _Estimate(TypedDict):
    mean: Real
    interval: tuple[Real, Real]


class _Solver(TypedDict):
    method: Title
    steps: int | None
    rtol: Real


class _Settings(TypedDict):
    name: Title
    samples: Count
    frames: Count
    eps: Level | Literal["auto"]
    solver: _Solver
    direction: Title


class _Compared(TypedDict):
    name: Title
    split: Title
    clips: Count
    frames: Count


class _Protocol(TypedDict):
    settings: _Settings
    data: _Compared
    hardware: Title
    engine: Title
    commit: Title | None


class Results(TypedDict):
    """The results of an evaluation, as they stand on a card."""

    numbers: dict[str, _Estimate]
    nfe: Real
    seconds_per_frame: Real
    protocol: _Protocol


class _Known(TypedDict, total=False):
    name: Title


class KnownData(_Known):
    """What is on record of the data of a training."""

    clips: Count
    frames: Count
    size: tuple[Side, Side]
    fps: Rate | None
    columns: list[Title]


class Evidence(TypedDict, total=False):
    """`evidence.json` of a model folder: what is on record of its training."""

    step: Count
    samples: Count
    hours: Annotated[float, Meta(ge=0, le=1e9)]
    hardware: Title
    commit: Title | None
    losses: dict[str, Real]
    config: dict[str, Any]
    data: KnownData
    license: Title | None
    results: Results


class BoardRun(TypedDict):
    """`wandb.json` of a run: its name at Weights & Biases."""

    id: Name


class LogLine(TypedDict):
    """A line of `log.jsonl`."""

    step: Count


# Recordings


class _Recording(TypedDict):
    first: Annotated[list[str], Meta(min_length=1, max_length=CONTEXT + 1)]
    eps: Level | Literal["auto"]
    context_eps: Level
    direction: Literal["forward", "backward"]
    in_between: Annotated[int, Meta(ge=1, le=1000)]
    solver: dict[str, Any]
    seed: Seed
    index: Count


class Recording(_Recording, total=False):
    """What the JSON beside a recording of `biflow serve` says of how it was streamed."""

    engine: Title
    changed: bool
    real_drift: Positive
