"""The training loop: FLOW, BI-FLOW or CONDIFF on pairs of frames."""

import math
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm import tqdm

from biflow import objectives
from biflow.config import TrainConfig
from biflow.data.pairs import FramePairs, pair_order
from biflow.errors import UserError
from biflow.files import computes_in_bf16, keep_compiled
from biflow.networks import VideoUNet
from biflow.rollout import rollout, sample_generators
from biflow.solvers import Solver, SolverError
from biflow.training import checkpoint
from biflow.training.flops import peak_flops, training_flops
from biflow.training.log import TrainingLog
from biflow.training.muon import Muon
from biflow.training.noise import draw_noise
from biflow.video import contact_sheet, to_float, to_uint8


def train(config: TrainConfig, data: Path, out: Path) -> dict:
    """Train on the prepared set `data` until `config.steps`; go on from the newest checkpoint in `out` if there is one.

    Everything random in a step follows from (seed, step, rank), so that a run which was killed and restarted has, on a
    CPU, the very parameters of one that was not. Returns the history: step, samples, seconds, losses.

    Raises:
        UserError: data that does not fit the network, settings that differ from the checkpoint's, a loss that is not
            finite (the last good checkpoint stays).
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with everything saved.
    """
    bf16 = computes_in_bf16() if config.precision == "auto" else config.precision == "bf16"
    # Told that it is to use the CPU, accelerate also joins several CPU processes (gloo); left alone it does not.
    # Its own mixed precision would be that of the first run in this process, for all later ones.
    accelerator = Accelerator(
        cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available()), mixed_precision="no"
    )
    parts = accelerator.num_processes * config.accumulate
    if config.batch % parts:
        raise UserError(f"batch ({config.batch}) must be a multiple of accumulate x processes ({parts}).")
    pairs = FramePairs(data, split="train")
    torch.manual_seed(config.seed)  # initial weights; nothing later draws from the global generator
    v_scale = 1.0 if config.method == "condiff" else config.v_scale or rms_change(pairs)
    eps = config.eps if config.method == "biflow" else 0.0
    model = VideoUNet(config.method, config.network, pairs.size, eps=eps, fps=pairs.fps, v_scale=v_scale)
    ema = EMAModel(model.parameters(), decay=config.ema, foreach=True) if config.ema else None
    if config.optimizer == "muon":
        optimizer = Muon(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    model.to(accelerator.device)
    if ema:
        ema.to(accelerator.device)
    history = {"step": 0, "samples": 0, "seconds": 0.0, "losses": {}}
    if resumed := checkpoint.latest(out):
        state = checkpoint.load(resumed, model, optimizer, ema, config)
        history = {key: state[key] for key in history}
        accelerator.print(f"Going on from {resumed}.")
    network, optimizer = accelerator.prepare(model, optimizer)
    if config.compile:
        keep_compiled()
        network.compile()  # in place: a wrapped module would change the names in the checkpoint

    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic() - history["seconds"]
    step = start = history["step"]
    peak = peak_flops()
    log = TrainingLog(
        out,
        start,
        config.batch,
        flops=training_flops(model),
        peak=peak and peak * accelerator.num_processes,
        active=accelerator.is_main_process,
    )
    finite = torch.ones((), dtype=torch.bool, device=accelerator.device)

    def save() -> None:
        if not finite.item():
            raise UserError(_not_finite(step, out))
        seconds = time.monotonic() - started
        history.update(step=step, seconds=seconds, losses=log.means, processes=accelerator.num_processes)
        if accelerator.is_main_process:
            checkpoint.save(out, step, model, optimizer.optimizer, ema, config, history)
        accelerator.wait_for_everyone()

    bar = tqdm(
        total=config.steps, initial=start, unit="step", desc=config.method, disable=not accelerator.is_main_process
    )
    with _interruptible() as interrupted, bar:
        for step, batch in _batches(config, pairs, start, accelerator, log):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            for part, frames in enumerate(batch.chunk(config.accumulate)):
                x0, x1 = to_float(frames.to(accelerator.device, non_blocking=True)).unbind(1)
                generator = _generator(accelerator.device, config.seed, step, accelerator.process_index, part)
                with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=bf16):
                    terms, t, alpha = losses(config, network, x0, x1, generator)
                weights = {"v": v_scale**-2, "n": 1.0}
                loss = torch.stack([weights[name] * term.mean() for name, term in terms.items()]).sum()
                accelerator.backward(loss / config.accumulate)
                log.add(terms, t, alpha)
                finite &= torch.isfinite(loss)
            norm = torch.as_tensor(accelerator.clip_grad_norm_(network.parameters(), config.clip))
            finite &= torch.isfinite(norm)
            optimizer.step()
            optimizer.zero_grad()
            if ema:
                ema.step(model.parameters())
            step += 1
            history["samples"] += config.batch
            stop = _anyone(accelerator, bool(interrupted))
            bar.update()
            if step % config.log_every == 0 or step == config.steps:
                if not finite.item():
                    raise UserError(_not_finite(step, out))
                bar.set_postfix(log.write(step, learning_rate(config, step - 1), norm.item(), history["samples"]))
            if step % config.save_every == 0 or step == config.steps or stop:
                save()
            if config.preview_every and step % config.preview_every == 0 and accelerator.is_main_process:
                with _averaged(model, ema):
                    preview(model, pairs.root, out / "previews" / f"step_{step:08d}.png")
            if stop:
                raise KeyboardInterrupt(
                    f"Stopped at step {step}; everything is saved in {out}, the same command goes on."
                )
    return history


def losses(
    config: TrainConfig, network, x0: Tensor, x1: Tensor, generator: torch.Generator
) -> tuple[objectives.Terms, Tensor, Tensor]:
    """Draw t, alpha and n, and return the method's loss terms, each (b,), with the t and alpha drawn, each (b,)."""
    t, alpha = torch.rand((2, len(x0)), generator=generator, device=x0.device)
    alpha = alpha * config.alpha_max
    if config.method == "flow":
        return objectives.flow_loss(network, x0, x1, t), t, torch.zeros_like(t)
    n = draw_noise(x0.shape, generator, coarse=config.coarse_noise if config.method == "biflow" else 0.0)
    if config.method == "biflow":
        return objectives.biflow_loss(network, x0, x1, n, t, alpha), t, alpha
    # CONDIFF has one time, from noise to the next frame; it is logged as t.
    return objectives.condiff_loss(network, x0, x1, n, t), t, torch.zeros_like(t)


def rms_change(pairs: FramePairs, samples: int = 512) -> float:
    """Root mean square of x1 - x0 over (at most `samples`, evenly spread) pairs of a set, in [-1, 1] units."""
    picks = np.linspace(0, len(pairs) - 1, min(samples, len(pairs))).round().astype(int)
    x0, x1 = to_float(pairs.batch(picks)).unbind(1)
    return max((x1 - x0).square().mean().sqrt().item(), 1e-3)  # positive for a still video too


def learning_rate(config: TrainConfig, step: int) -> float:
    """Of step 0, 1, …: linear warm-up, then constant or a cosine that reaches zero at `steps`."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.schedule == "constant":
        return config.lr * warm
    return config.lr * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def preview(model: VideoUNet, data: Path, path: Path, *, samples: int = 4, frames: int = 64, shown: int = 9) -> None:
    """A contact sheet of short streams from the test split's first frames, by the rollout that everybody uses."""
    test = FramePairs(data, split="test")
    picks = np.linspace(0, len(test.clips) - 1, min(samples, len(test.clips))).round().astype(int)
    device = next(model.parameters()).device
    first = to_float(torch.stack([test.clip(int(i))[0] for i in picks])).to(device)
    generators = sample_generators(0, range(len(first)))
    solver = Solver(method="midpoint", steps=2)
    try:
        video = rollout(model, first, frames=frames, generators=generators, solver=solver)
    except SolverError as error:
        tqdm.write(f"No preview: {error}")
        return
    columns = np.linspace(0, frames - 1, shown - 1).round().astype(int)
    rows = [[to_uint8(x) for x in (start, *video[i, columns])] for i, start in enumerate(first.cpu())]
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows, path, caption=f"{path.stem}: first frame, then frames {', '.join(str(c + 1) for c in columns)}")


def _generator(device: torch.device, *key: int) -> torch.Generator:
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator(device).manual_seed(seed)


def _batches(
    config: TrainConfig, pairs: FramePairs, start: int, accelerator: Accelerator, log: TrainingLog
) -> Iterator[tuple[int, Tensor]]:
    """(step, this process's share of its batch, uint8 (b, 2, 3, h, w)) from `start` on, read one step ahead."""
    rank, world = accelerator.process_index, accelerator.num_processes
    share = config.batch // world

    def read(step: int) -> Tensor:
        order = pair_order(len(pairs), seed=config.seed, step=step, batch=share, rank=rank, world=world)
        return pairs.batch(order)

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, start)
        for step in range(start, config.steps):
            begun = time.monotonic()
            batch = ahead.result()
            log.waited += time.monotonic() - begun
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
def _averaged(model: VideoUNet, ema: EMAModel | None) -> Iterator[None]:
    """The model in evaluation mode with its averaged weights, for the length of the block."""
    model.eval()
    if ema:
        ema.store(model.parameters())
        ema.copy_to(model.parameters())
    try:
        yield
    finally:
        if ema:
            ema.restore(model.parameters())
        model.train()


def _anyone(accelerator: Accelerator, flag: bool) -> bool:
    """Whether any process raised its flag: all must leave the loop at the same step."""
    if accelerator.num_processes == 1:
        return flag
    flags = torch.tensor(float(flag), device=accelerator.device)
    torch.distributed.all_reduce(flags)
    return bool(flags.item())


def _not_finite(step: int, out: Path) -> str:
    last = checkpoint.latest(out)
    kept = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
    return f"The loss became NaN or infinite before step {step}; {kept}. Try a lower lr or a longer warmup."
