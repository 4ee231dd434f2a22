"""What is in the JSON files of evaluations, as far as they are read again: a schema of each."""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from biflow.schemas import LINE, Count, Digest, Level, Name, Number, Positive, Rate, Real, Title


class Costs(TypedDict):
    """`costs/*.json` of an evaluation: the evaluations that each frame took, and the time that all took."""

    nfe: list[Count]
    seconds: Annotated[float, Meta(ge=0, le=1e12)]
    engine: NotRequired[str]
    commit: NotRequired[str]
    hardware: NotRequired[str]
    eps: NotRequired[list[Level]]


class Checksums(TypedDict):
    """Those of a split of a prepared set, in the user's cache."""

    sha256: Digest
    actions_sha256: NotRequired[Digest]


class Claim(TypedDict):
    """`protocol.json`: what the folder of an evaluation is for."""

    settings: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    networks: dict[str, Any]


class Windows(TypedDict):
    """How many windows, or frames, were compared at each time."""

    real: Count
    generated: Count


class Distance(TypedDict):
    """A distance over time, and its means."""

    mean: Real
    interval: tuple[Real, Real]
    slope: Real
    per_window: Annotated[list[Real], Meta(min_length=1)]
    per_window_intervals: list[tuple[Real, Real]]
    slope_interval: NotRequired[tuple[Real, Real]]
    n: NotRequired[Windows]


class OverTime(TypedDict):
    """A measure of frames over time, and its mean in real videos."""

    frames: list[Count]
    generated: list[Real]
    real: Real


class SolverUsed(TypedDict):
    """How frames were solved."""

    method: Title
    steps: Number | None
    rtol: Positive
    reference: bool


class Settings(TypedDict):
    """The settings of an evaluation, as far as a report shows them."""

    name: Title
    samples: Number
    frames: Number
    window: Number
    stride: Number
    eps: Level | Literal["auto"]
    direction: Literal["forward", "backward"]
    solver: SolverUsed
    actions: NotRequired[str | None]


class UsedModel(TypedDict):
    """The model that was evaluated."""

    method: Name
    sha256: str | None


class UsedData(TypedDict):
    """The split with which its videos were compared."""

    name: Name
    sha256: str
    fps: Rate | None


class NamedNetwork(TypedDict):
    """A network that compares windows."""

    name: Title


class Networks(TypedDict):
    """The networks; a report is about FVD, so that I3D is one of them."""

    i3d: NamedNetwork
    inception: NotRequired[NamedNetwork]


class NamedFile(TypedDict):
    """A file with actions."""

    name: Title
    sha256: str


class Used(TypedDict):
    """What the numbers depend on."""

    settings: Settings
    model: UsedModel
    data: UsedData
    networks: Networks
    engine: NotRequired[Title]
    actions_file: NotRequired[NamedFile]


class Cost(TypedDict):
    """Network evaluations per frame."""

    mean: Real
    p95: Real
    interval: NotRequired[tuple[Real, Real]]
    batch_max: NotRequired[Real]


# Its numbers are those of a few videos, and may be none at all (NaN) where nothing moves.
Pair = tuple[float, float]


class _Ratio(TypedDict):
    generated: float
    real: float
    over_real: float
    interval: Pair


class Counts(TypedDict):
    """How much was compared."""

    generated: Count
    real: Count


class InverseModel(TypedDict):
    """What reads actions from frames."""

    sha256: str


class ControlProtocol(TypedDict):
    """How control was measured."""

    pairs: Counts
    inverse_model: InverseModel


class Control(_Ratio):
    """The actions that are read correctly."""

    chance: float
    protocol: ControlProtocol


class PaletteProtocol(TypedDict):
    """How changes of the palette were counted."""

    palettes: Count
    hold: Count
    frames: Counts


class Palette(_Ratio):
    """Changes of the palette."""

    protocol: PaletteProtocol


class RealTurns(TypedDict):
    """The turns of real clips."""

    back: float
    away: float
    turns: Count


class TurningProtocol(TypedDict):
    """How turning back was measured."""

    script: Annotated[str, Meta(pattern=LINE)]  # of any length
    videos: Count
    unrelated: Title


class Turning(TypedDict):
    """LPIPS to the start when turned away, and back."""

    back: float
    away: float
    interval: Pair
    unrelated: float
    real: RealTurns | None
    protocol: TurningProtocol


class Means(TypedDict):
    """A measure at each of some frames."""

    mean: list[float]


class TruthProtocol(TypedDict):
    """How the distance to real clips was measured."""

    videos: Count


class Truth(TypedDict):
    """The distance to real clips under their own actions."""

    frames: list[Count]
    psnr: dict[str, Means]
    ssim: dict[str, Means]
    protocol: TruthProtocol
    lpips: NotRequired[dict[str, Means]]


class GridProtocol(TypedDict):
    """Of which texture the grid is."""

    period: Count


class Grid(_Ratio):
    """A texture of the network, over that of real clips, also at the end."""

    last_over_real: float
    protocol: GridProtocol


class Extra(TypedDict):
    """The numbers of the past and of actions: `biflow.evaluation.past_and_actions`."""

    motion: _Ratio
    grid: Grid
    control: NotRequired[Control]
    palette: NotRequired[Palette]
    turning: NotRequired[Turning]
    truth: NotRequired[Truth]


class Chosen(TypedDict):
    """The noise levels that were chosen from frame to frame, over all videos."""

    mean: Level
    over_time: list[Level]


class Metrics(TypedDict):
    """`metrics.json` of an evaluation, as far as a report shows it."""

    fvd: Distance
    kvd: Distance
    nfe: Cost
    over_time: Annotated[dict[Name, OverTime], Meta(min_length=1, max_length=30)]
    seconds_per_frame: Real
    windows: Windows
    protocol: Used
    fid: NotRequired[Distance]
    kid: NotRequired[Distance]
    note: NotRequired[str | None]
    past_and_actions: NotRequired[Extra]
    eps: NotRequired[Chosen]
