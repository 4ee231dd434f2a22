"""Settings of the commands that stream video."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

from biflow.config.checks import as_plain, check, check_batch, check_eps, check_level, check_seed
from biflow.config.solver import USUAL, Solver, SolverName
from biflow.errors import UserError

Direction = Literal["forward", "backward"]
Eps = float | Literal["auto"]
Engine = Literal["auto", "torch", "compile", "openvino", "onnxruntime"]
Shipped = Literal["maze", "racing"]  # the models that come with the package


def eps_text(eps: Eps, mean: float | None = None) -> str:
    """A noise level in words, with the mean of those that were chosen."""
    if eps != "auto":
        return f"{eps:g}"
    return "auto" if mean is None else f"auto ({mean:.2f} on average)"


@dataclass(frozen=True)
class Sample:
    """Stream videos from a model to files. These are mp4 files, a contact sheet and stats.json.

    Attributes:
        model: A run of `biflow train`, a model folder, or the id of a model on the Hugging Face Hub (user/name).
        first: What to start from: an image, a film (its first frame), a folder of images, or a prepared set (frames of
            its test split). The model's own first frames by default.
        frames: Length of each video, in frames at the rate of the training videos. By default 512, or one per action.
            For a method that makes whole clips, it is the rest of a clip.
        actions: What is done in the video, for a model that takes actions. Names of actions with numbers of frames, as
            in "forward*40 left*12 still*5"; a CSV or JSON file with a row per frame; the JSON file of a live recording,
            which is repeated as it was, with its own noise level, seed and solver; "data", the own actions of the
            prepared set that FIRST names; or "none", where the model continues by itself. By default the stream does
            what was done in the clips where they looked most like it, if the model knows; otherwise it is "none".
        eps: Noise level added before each frame, for methods that take one. The model's own by default. "auto" chooses
            it from frame to frame: as little as keeps frames as free of errors as real ones.
        context_eps: Noise level of the past frames that the model sees. The model's own by default.
        direction: Direction in time.
        solver: The ODE solver; "reference" is the paper's own. By default that of the model's method: "adams", or
            "euler" with one step for a flow map.
        steps: Number of fixed solver steps per frame, instead of adaptive steps.
        rtol: Relative tolerance of adaptive steps.
        atol: Absolute tolerance of adaptive steps; rtol by default.
        engine: What evaluates the network. "auto" uses OpenVINO on a CPU where it is installed, else
            onnxruntime where that is, else PyTorch.
        fps: Frame rate of the mp4 files. That of the training videos by default, or 25.
        fps_factor: Frames shown per step of the model; 4 shows three frames in between.
        samples: Number of videos. One per first frame by default, at most 8.
        batch: Videos solved at once. It does not change them.
        seed: Seed of the noise and of the choice of first frames.
        scale: Enlarge each pixel of a frame to a block of n×n pixels in videos, which keeps them sharp. By default as
            much as makes 256 pixels.
        webp: Also write each video as an animated WebP.
        gif: Also write each video as an animated GIF.
        png: Also write every frame as a PNG.
        out: The folder for the results. Those of an earlier run in it are replaced.

    Examples:
        biflow sample runs/mine
        biflow sample runs/mine --first datasets/mine --frames 512
        biflow sample runs/mine --first photo.jpg --eps 0.2 --out samples/photo
        biflow sample runs/maze --actions "forward*40 left*12 still*5"
        biflow sample runs/mine --first datasets/mine --direction backward
    """

    model: Path
    _: KW_ONLY
    first: Path | None = None
    frames: int | None = None
    actions: str | None = None
    eps: Eps | None = None
    context_eps: float | None = None
    direction: Direction = "forward"
    solver: SolverName | None = None
    steps: int | None = None
    rtol: float = 1e-2
    atol: float | None = None
    engine: Engine = "auto"
    fps: float | None = None
    fps_factor: int = 1
    samples: int | None = None
    batch: int = 8
    seed: int = 0
    scale: int | None = None
    webp: bool = False
    gif: bool = False
    png: bool = False
    out: Path = Path("samples")

    def __post_init__(self) -> None:
        as_plain(self)
        check(self, "be at least 1", lambda n: n >= 1, "frames", "samples")
        check_batch(self)
        check(self, "be at least 1", lambda n: n >= 1, "fps_factor", most=1000)
        check(self, "be from 1 to 32", lambda n: 1 <= n <= 32, "scale")
        check(self, "be from 0.01 to 1000", lambda value: 0.01 <= value <= 1000, "fps")
        check_eps(self)
        check_level(self, "context_eps")
        check_seed(self)
        self.full_solver()  # it raises UserError

    def full_solver(self, usual: Solver = USUAL) -> Solver:
        """The solver of these settings, for a method that is usually solved by `usual`."""
        return usual.changed(self.solver, self.steps, self.rtol, self.atol)


@dataclass(frozen=True)
class Demo:
    """Stream videos from a model that ships with biflow. It writes files, or opens a live page.

    Attributes:
        name: "maze" walks through mazes, and "racing" drives a car. On the live page, the arrow keys steer.
        out: The folder for the results: demo.mp4, demo.png and demo.json.
        frames: Frames per video.
        samples: Number of videos.
        seed: Seed of the noise.
        webp: Also write the first video as an animated WebP, demo.webp.
        gif: Also write it as an animated GIF, demo.gif.
        live: Open a page that streams the model live, instead of writing files.
        port: Port of that page; 0 for any free one.
        origin: An address besides its own where that page may be opened, as https://HOST; may be repeated.

    Examples:
        biflow demo
        biflow demo racing --live
    """

    name: Shipped = "maze"
    _: KW_ONLY
    out: Path = Path("out")
    frames: int = 200
    samples: int = 4
    seed: int = 0
    webp: bool = False
    gif: bool = False
    live: bool = False
    port: int = 8000
    origin: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        as_plain(self)
        check(self, "be at least 1", lambda n: n >= 1, "frames", "samples")
        check_seed(self)
        _check_port(self)


@dataclass(frozen=True)
class Serve:
    """Stream models live to a web page. Its viewers can control them.

    Attributes:
        model: A run of `biflow train`, a model folder, the id of a model on the Hugging Face Hub (user/name), or a
            folder of models to switch between.
        host: Address to listen on; 0.0.0.0 lets other machines in.
        port: Port to listen on; 0 for any free one.
        token: A secret that browsers must give once. Without it, anyone who reaches the server may use it.
        first: What to start from: an image, a film (its first frame), a folder of images, or a prepared set. The
            model's own first frames by default.
        origin: An address besides its own where the page may be opened, as https://HOST: that of a reverse proxy, or of
            a notebook's or an editor's forwarded port. May be repeated.

    Examples:
        biflow serve runs/mine
        biflow serve runs --host 0.0.0.0 --token a-long-secret
    """

    model: Path
    _: KW_ONLY
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    first: Path | None = None
    origin: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_port(self)
        if self.token == "":
            raise UserError("token is empty: give a secret, or leave it out.", setting="token")
        if not self.host:
            raise UserError("host is empty; 127.0.0.1 is this machine alone, and 0.0.0.0 all networks.", setting="host")


def _check_port(settings: object) -> None:
    check(settings, "be from 0 to 65535", lambda port: 0 <= port <= 65535, "port")
