"""The training loop, for any method, on windows of adjacent frames."""

import math
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from biflow import methods
from biflow.config import TrainConfig
from biflow.data.windows import Past, Windows, window_order
from biflow.engines.queries import each
from biflow.errors import UserError
from biflow.files import read_json
from biflow.machine import computes_in_bf16, keep_compiled
from biflow.model import Model, empty_conditions, load_model, start_from
from biflow.networks import VideoUNet, check_size
from biflow.paths import conditioned
from biflow.training import checkpoint
from biflow.training.conditions import conditions, frames_before
from biflow.training.held_out import held_out, write_first
from biflow.training.log import TrainingLog, peak_flops, training_flops
from biflow.training.muon import Muon
from biflow.training.overview import overview
from biflow.training.preview import is_due, preview
from biflow.video import to_float


def train(config: TrainConfig, data: Path, out: Path, *, network: nn.Module | None = None) -> dict:
    """Train on the prepared set `data` until `config.steps`, resuming from the newest checkpoint in `out` if any.

    Everything random in a step follows from (seed, step, rank), so that a run which was killed and restarted has, on a
    CPU, the very parameters of one that was not. Returns the history: step, samples, seconds, losses.

    `network` is trained instead of a `VideoUNet` of the shape `config.network`; it must answer the method's queries.

    Raises:
        UserError: data that does not fit the network, settings that differ from the checkpoint's, a loss that is not
            finite (the last good checkpoint stays).
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with everything saved.
    """
    windows = Windows(data, split="train", frames=methods.get(config.method).window)
    run = _Run(config, windows, out, network)
    start = run.history["step"]
    main = run.accelerator.is_main_process
    if main:
        _begin(run, windows)
    bar = tqdm(total=config.steps, initial=start, unit="step", desc=config.method, disable=not main)
    with _interruptible() as interrupted, bar:
        for step, batch in _batches(run, windows, start):
            norm = _update(run, step, batch)
            step += 1
            stop = _anyone(run.accelerator, bool(interrupted))
            bar.update()
            if step % config.log_every == 0 or step == config.steps:
                run.check_finite(step)
                lr = learning_rate(config, step - 1)
                bar.set_postfix(run.log.write(step, lr, norm.item(), run.history["samples"]))
            if step % config.save_every == 0 or step == config.steps or stop:
                run.save(step)
            if is_due(step, config.preview_every) and main:
                _draw(run, step, windows.root, bar, interrupted)
            if stop:
                raise KeyboardInterrupt(
                    f"Stopped at step {step}; everything is saved in {out}, the same command resumes the run."
                )
    return run.history


class _Run:
    """What a run holds from step to step: new, or as the newest checkpoint in `out` has it."""

    def __init__(self, config: TrainConfig, windows: Windows, out: Path, network: nn.Module | None) -> None:
        self.config, self.out = config, out
        # Told that it is to use the CPU, accelerate also joins several CPU processes (gloo); left alone it does not.
        # Its own mixed precision would be that of the first run in this process, for all later ones.
        cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
        self.accelerator = accelerator = Accelerator(cpu=cpu, mixed_precision="no")
        parts = accelerator.num_processes * config.accumulate
        if config.batch % parts:
            raise UserError(f"batch ({config.batch}) must be a multiple of accumulate x processes ({parts}).")
        self.model, self.v_scale = _new_model(config, windows, network, accelerator.device, out)
        weights = self.model.weights
        self.ema = EMAModel(weights.parameters(), decay=config.ema, foreach=True) if config.ema else None
        kind = Muon if config.optimizer == "muon" else partial(torch.optim.AdamW, fused=True)
        optimizer = kind(weights.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        for moved in filter(None, (weights, self.ema)):
            moved.to(accelerator.device)
        self.history = {"step": 0, "samples": 0, "seconds": 0.0, "losses": {}}
        if resumed := checkpoint.latest(out):
            state = checkpoint.load(resumed, weights, optimizer, self.ema, config)
            self.history = {key: state[key] for key in self.history}
            accelerator.print(f"Resuming from {resumed}.")
        self.network, self.optimizer = accelerator.prepare(weights, optimizer)  # as several processes train it
        if config.compile:
            keep_compiled()
            self.network.compile()  # in place: a wrapped module would change the names in the checkpoint
        out.mkdir(parents=True, exist_ok=True)
        flops, peak, main = training_flops(self.model), peak_flops(), accelerator.is_main_process
        peak = peak and peak * accelerator.num_processes
        self.log = TrainingLog(out, self.history["step"], config.batch, flops=flops, peak=peak, active=main)
        self.bf16 = computes_in_bf16() if config.precision == "auto" else config.precision == "bf16"
        self.finite = torch.ones((), dtype=torch.bool, device=accelerator.device)
        self._started = time.monotonic() - self.history["seconds"]

    def check_finite(self, step: int) -> None:
        """Raise UserError if the loss or the gradient of a step has not been finite."""
        if not self.finite.item():
            last = checkpoint.latest(self.out)
            kept = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
            raise UserError(f"The loss was NaN or infinite before step {step}; {kept}. Try a lower lr or more warmup.")

    def save(self, step: int) -> None:
        """Write a checkpoint, unless the loss has not been finite."""
        self.check_finite(step)
        seconds = time.monotonic() - self._started
        processes = self.accelerator.num_processes
        self.history.update(step=step, seconds=seconds, losses=self.log.means, processes=processes)
        if self.accelerator.is_main_process:
            optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it
            checkpoint.save(self.out, step, self.model, optimizer, self.ema, self.config, self.history)
        self.accelerator.wait_for_everyone()


def _new_model(
    config: TrainConfig, windows: Windows, network: nn.Module | None, device: torch.device, out: Path
) -> tuple[Model, float]:
    """A model with fresh weights, or with those of `init` if `out` has no checkpoint yet, and the unit of its f^v."""
    method, resumed = methods.get(config.method), checkpoint.latest(out) is not None
    v_scale = config.v_scale or rms_change(windows) if method.motion_unit else 1.0
    if config.init and network is not None:
        raise UserError("A network of your own begins with its own weights.", setting="init")
    first = load_model(config.init) if config.init and not resumed else None  # a resumed run no longer needs it
    if config.init:  # its f^v has a unit already
        v_scale = (first.config if first else read_json(out / "config.json"))["v_scale"]
    if network is None:
        check_size(config.network, *windows.size)
        torch.manual_seed(config.seed)  # initial weights; nothing later draws from the global generator
        seen = empty_conditions(1, (3, 1, 1), config.context, windows.actions)
        network = VideoUNet(method, config.network, v_scale=v_scale, conditions=seen)
        if first:
            start_from(network, method, windows.actions, first)
    eps, shape = config.eps if method.takes_eps else 0.0, (3, *windows.size)
    memory = (config.context, config.context_eps, windows.actions)
    return Model(network, method, shape, eps, windows.fps, *memory, device=device), v_scale


def _begin(run: _Run, windows: Windows) -> None:
    """Say what the run uses, and keep first frames in it, so that its model has something to start from."""
    about = {"bf16": run.bf16, "change": rms_change(windows)}
    print(*overview(run.config, run.model, windows, run.out, run.history["step"], **about), sep="\n", flush=True)
    if not (run.out / "first").exists():
        write_first(run.out / "first", held_out(windows.root), run.config.context)


def _draw(run: _Run, step: int, data: Path, bar: tqdm, interrupted: list) -> None:
    """Draw a preview. Whatever goes wrong with it does not stop the run."""
    path, shown = run.out / "previews" / f"step_{step:08d}.png", bar.postfix
    with _averaged(run.model.weights, run.ema):
        try:
            if preview(run.model, data, path, show=bar.set_postfix_str, stopped=lambda: bool(interrupted)):
                bar.write(f"Preview after step {step}: {path}")
        except UserError as error:
            bar.write(f"No preview after step {step}: {error}")
    bar.set_postfix_str(shown or "")


def _update(run: _Run, step: int, batch: Past) -> Tensor:
    """One step of the optimiser on a batch of windows. Returns the norm of the gradient."""
    config, device = run.config, run.accelerator.device
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    weights = {"v": run.v_scale**-2}
    method = run.model.method
    for part in range(config.accumulate):
        share = each(batch, lambda whole, part=part: whole.chunk(config.accumulate)[part])
        generator = _generator(device, config.seed, step, run.accelerator.process_index, part)
        # Two blocks: weights that autocast has converted in inference mode, for own frames, cannot be trained on.
        with torch.autocast(device.type, torch.bfloat16, enabled=run.bf16):
            clips, seen = conditions(run.model, share, config, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=run.bf16):
            loss = method.loss(conditioned(run.network, seen), clips, generator, config)
        total = torch.stack([weights.get(name, 1.0) * term.mean() for name, term in loss.terms.items()]).sum()
        run.accelerator.backward(total / config.accumulate)
        run.log.add(loss)
        run.finite &= torch.isfinite(total)
    norm = torch.as_tensor(run.accelerator.clip_grad_norm_(run.network.parameters(), config.clip))
    run.finite &= torch.isfinite(norm)
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.ema:
        run.ema.step(run.model.weights.parameters())
    run.history["samples"] += config.batch
    return norm


def rms_change(windows: Windows, samples: int = 512) -> float:
    """Root mean square of x1 - x0 over (at most `samples`, evenly spread) windows of a set, in [-1, 1] units."""
    picks = np.linspace(0, len(windows) - 1, min(samples, len(windows))).round().astype(int)
    frames = to_float(windows.batch(picks))
    return max((frames[:, 1] - frames[:, 0]).square().mean().sqrt().item(), 1e-3)  # positive for a still video too


def learning_rate(config: TrainConfig, step: int) -> float:
    """Of step 0, 1, …: linear warm-up, then constant or a cosine that reaches zero at `steps`."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.schedule == "constant":
        return config.lr * warm
    return config.lr * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def _generator(device: torch.device, *key: int) -> torch.Generator:
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator(device).manual_seed(seed)


def _batches(run: _Run, windows: Windows, start: int) -> Iterator[tuple[int, Past]]:
    """(step, this process's share of its batch) from `start` on, read one step ahead."""
    config, rank, world = run.config, run.accelerator.process_index, run.accelerator.num_processes
    share = config.batch // world

    def read(step: int) -> Past:
        order = window_order(len(windows), seed=config.seed, step=step, batch=share, rank=rank, world=world)
        return windows.with_past(order, frames_before(config))

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, start)
        for step in range(start, config.steps):
            begun = time.monotonic()
            batch = ahead.result()
            run.log.waited += time.monotonic() - begun
            if step + 1 < config.steps:
                ahead = reader.submit(read, step + 1)
            yield step, batch


@contextmanager
def _interruptible() -> Iterator[list]:
    """A list that is empty until Ctrl-C or SIGTERM comes; a second one ends the process at once."""
    seen: list[int] = []

    def note(number, _frame) -> None:
        seen.append(number)
        signal.signal(number, previous[number])

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _averaged(network: nn.Module, ema: EMAModel | None) -> Iterator[None]:
    """The network in evaluation mode with its averaged weights, for the length of the block."""
    network.eval()
    if ema:
        ema.store(network.parameters())
        ema.copy_to(network.parameters())
    try:
        yield
    finally:
        if ema:
            ema.restore(network.parameters())
        network.train()


def _anyone(accelerator: Accelerator, flag: bool) -> bool:
    """Whether any process raised its flag: all must leave the loop at the same step."""
    if accelerator.num_processes == 1:
        return flag
    flags = torch.tensor(float(flag), device=accelerator.device)
    torch.distributed.all_reduce(flags)
    return bool(flags.item())
