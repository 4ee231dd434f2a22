"""The log of a training run, log.jsonl and TensorBoard or Weights & Biases, and the arithmetic that it reaches."""

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from biflow.documents import checked, read_bytes, read_document
from biflow.engines.queries import example
from biflow.errors import UserError, os_error
from biflow.files import write_json, write_text
from biflow.methods import Loss
from biflow.model import Model
from biflow.schemas import BoardRun, LogLine

log = logging.getLogger("biflow")

MOST = 1 << 30  # bytes of a log: a million lines
Board = Callable[[dict[str, float], int], object]  # takes numbers by name, and the step
BINS = 10  # of the losses against t and alpha
# Dense bf16 in FLOP/s, from the makers' data sheets; the SXM form where there are several.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "RTX 4090": 165e12}


class TrainingLog:
    """Means between two lines of the log, in `log.jsonl` and a `logger`; losses also against t and alpha.

    `flops` is what a sample takes. Each line holds the rate that this makes (`tflops`), and its share of the hardware's
    `peak` where that is known (`mfu`, model-FLOPs utilisation).

    Attributes:
        means: means of the loss terms, at the last line.
        waited: seconds since the last line in which the loop had to wait for data.
    """

    def __init__(
        self,
        out: Path,
        step: int,
        batch: int,
        *,
        flops: int = 0,
        peak: float | None = None,
        active: bool,
        logger: str = "tensorboard",
    ) -> None:
        self._step, self._batch, self._flops, self._peak = step, batch, flops, peak
        self.means: dict[str, float] = {}
        self._active, self._file = active, out / "log.jsonl"
        self._board: Board | None = None
        self._reset()
        if not active:
            return
        _trim(self._file, step)
        self._name = {"tensorboard": "TensorBoard"}.get(logger, logger)
        with self._optional():
            self._board = _wandb(out) if logger == "wandb" else _tensorboard(out, step)

    @contextmanager
    def _optional(self) -> Iterator[None]:
        """What fails in the body, of whatever kind, costs the log of the logger and a line, not the run."""
        try:
            yield
        except KeyboardInterrupt:
            raise
        except ModuleNotFoundError as error:
            self._board = None
            missing = f"{error.name} is not installed: pip install {self._name.lower()} for one."
            tqdm.write(f"No {self._name} log, for {missing}")
        except BaseException as error:  # packages that are broken also raise SystemExit and worse
            self._board = None
            what = (self._name, type(error).__name__, str(error).rstrip("."))
            log.warning("No %s log from here on: %s: %s.", *what)

    def _reset(self) -> None:
        self._losses: list[Loss] = []
        self._since, self.waited = time.monotonic(), 0.0

    def add(self, loss: Loss) -> None:
        """Take in the loss of a batch, or of a part of one."""
        if self._active:
            self._losses.append(Loss({name: term.detach() for name, term in loss.terms.items()}, loss.at))

    def write(self, step: int, lr: float, norm: float, samples: int) -> dict[str, str]:
        """Write a line and return what of it a progress bar shows."""
        if not self._active:
            return {}
        terms, at = (
            {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
            for parts in zip(*self._losses, strict=True)
        )
        self.means = {name: term.mean().item() for name, term in terms.items()}
        seconds = time.monotonic() - self._since
        rate = (step - self._step) * self._batch / seconds
        self._step = step
        line: dict = {"step": step, "samples": samples, **self.means, "lr": lr, "grad_norm": norm}
        line |= {"samples_per_s": rate, "waiting_for_data": self.waited / seconds, "tflops": self._flops * rate / 1e12}
        if self._peak:
            line["mfu"] = self._flops * rate / self._peak
        for variable, position in at.items():
            line |= {f"{name}_against_{variable}": _binned(term, position) for name, term in terms.items()}
        try:
            with self._file.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:  # as at a full disk; its words would not name the file
            raise os_error(error, self._file) from error
        with self._optional():
            self._draw(line, step)
        self._reset()
        return {name: f"{value:.4f}" for name, value in self.means.items()} | {"samples/s": f"{rate:.1f}"}

    def _draw(self, line: dict, step: int) -> None:
        scalars = {}
        for name, value in line.items():
            bins = {f"{name}/{i / BINS:.1f}": v for i, v in enumerate(value)} if isinstance(value, list) else {}
            for tag, number in (bins or {name: value}).items():
                if tag != "step" and number is not None:
                    scalars[tag] = number
        if self._board:
            self._board(scalars, step)


def check_logger(name: str) -> None:
    """Raise UserError for Weights & Biases where it is not installed. TensorBoard, the default, may be missing."""
    if name == "wandb" and find_spec("wandb") is None:
        raise UserError("Weights & Biases is not installed: pip install wandb", setting="logger")


def _tensorboard(out: Path, step: int) -> Board:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def add(scalars: dict[str, float], step: int) -> None:
        for tag, number in scalars.items():
            writer.add_scalar(tag, number, step)

    return add


def _wandb(out: Path) -> Board:
    """A run of Weights & Biases of the name of the folder. It is the same one when the run is resumed."""
    import wandb  # pyright: ignore[reportMissingImports]

    path = out / "wandb.json"
    kept = path.exists() and read_document(
        path, BoardRun, "names no run of W&B", "Remove it to begin another run there."
    )
    run = kept["id"] if kept else secrets.token_hex(8)
    # Steps that a killed run logs again are left out by wandb; those of log.jsonl are what counts.
    started = wandb.init(project="biflow", name=out.resolve().name, dir=str(out), id=run, resume="allow")
    write_json(path, {"id": run})
    return lambda scalars, step: started.log(scalars, step=step)


def _trim(file: Path, step: int) -> None:
    """Remove the lines after the checkpoint of `step`, which will be written again, and what a crash has torn."""
    if not file.exists():
        return
    written = read_bytes(file, most=MOST)
    kept, torn = [], 0
    for line in written.replace(b"\0", b"").decode(errors="replace").splitlines():
        try:
            content = checked(json.loads(line), LogLine, "the line", "")
            kept += [line] if content["step"] <= step else []
        except (ValueError, RecursionError):
            torn += 1
    if torn or b"\0" in written:
        log.warning("%s was damaged, as by a crash, and is repaired: %d torn lines are removed.", file, torn)
    write_text(file, "".join(f"{line}\n" for line in kept))


def _binned(term: Tensor, position: Tensor) -> list[float | None]:
    """Mean of `term` in each of BINS equal bins of `position` in [0, 1]; None where there is no sample."""
    bins = (position * BINS).long().clamp(0, BINS - 1)
    return [term[bins == i].mean().item() if (bins == i).any() else None for i in range(BINS)]


def training_flops(model: Model) -> int:
    """Floating-point operations (a multiplication and an addition are two) to train on one sample.

    Counted for the forward pass; the backward pass takes twice as many (a product for the inputs, one for the weights).
    """
    query, training = example(model, 1), model.weights.training
    model.weights.eval()  # what a network keeps of the batches that it has seen stays as it is
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.network(query)
    model.weights.train(training)
    return 3 * counter.get_total_flops()


def peak_flops() -> float | None:
    """Of the graphics card in use, in bf16; None without one, or for one that is not listed here."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAKS.items() if part in name), None)
