"""The training loop, for any method, on windows of adjacent frames."""

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn
from tqdm import tqdm

from biflow import methods
from biflow.config import TrainConfig
from biflow.config.checks import check_run_folder
from biflow.data.starts import held_out
from biflow.data.windows import Past, Windows, is_prepared, window_order
from biflow.engines.queries import each
from biflow.errors import UserError
from biflow.files import alone
from biflow.interrupts import noted_interrupts
from biflow.machine import computes_in_bf16, hardware, keep_compiled
from biflow.networks import check_size
from biflow.paths import conditioned
from biflow.training import checkpoint, raw
from biflow.training.average import Average
from biflow.training.begin import new_model, teacher_of
from biflow.training.conditions import conditions, frames_before
from biflow.training.fingerprint import admitted
from biflow.training.first import write_first
from biflow.training.graphs import launched
from biflow.training.log import TrainingLog, check_logger, peak_flops, training_flops
from biflow.training.muon import Muon
from biflow.training.overview import overview
from biflow.training.preview import is_due, preview


def train(
    config: TrainConfig,
    data: Path | str,
    out: Path | str,
    *,
    network: nn.Module | None = None,
    new_data: Literal["refuse", "accept"] = "refuse",
    size: int = 64,
) -> dict:
    """Train on the set `data` until `config.steps`, resuming from the newest checkpoint in `out` that is whole, if any.

    Everything random in a step follows from (seed, step, rank), so that a run which was killed and restarted has, on a
    CPU, the very parameters of one that was not. Returns the history: step, samples, seconds, losses.

    `network` is trained instead of a `VideoUNet` of the shape `config.network`; it must answer the method's queries. If
    it draws random numbers of its own, as Dropout does, a resumed run draws other ones.
    `data` is a prepared set, or anything that `prepare` takes, which is then prepared in `out/data` at `size`.
    `new_data="accept"` resumes on other data than before. The unit of f^v stays, and a new pass over the data begins.

    Raises:
        UserError: data that do not fit the network, settings or data that differ from the checkpoint's, an `out` with
            other files, in use, or with damaged checkpoints alone, a loss that is not finite (the last good one stays).
        KeyboardInterrupt: after Ctrl-C, SIGTERM or SIGHUP, with everything saved.
    """
    data, out = Path(data), Path(out)
    # Told that it is to use the CPU, accelerate also joins several CPU processes (gloo); left alone it does not.
    # Its own mixed precision would be that of the first run in this process, for all later ones.
    cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    patient = InitProcessGroupKwargs(timeout=timedelta(days=1))  # while the first process prepares data
    if PartialState._shared_state and PartialState().num_processes == 1:  # as an evaluation on the CPU has left it
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[patient])
    main, prepared = accelerator.is_main_process, is_prepared(data)
    check_logger(config.logger)
    check_run_folder(out)
    if network is None:  # before anything is written
        check_size(config.network, *(Windows(data).size if prepared else (size, size)))
    with alone(out) if main else nullcontext():
        if resumed := checkpoint.newest_whole(out, say=main):
            checkpoint.check_settings(resumed, config, say=main)
        admit = partial(admitted, out=out, state=resumed and resumed.state, new_data=new_data)
        if main and not prepared:
            raw.prepare_in(out, data, size, lambda folder: admit(Windows(folder)))
        accelerator.wait_for_everyone()
        length = methods.get(config.method).frames(config.span)
        windows = Windows(data if prepared else out / "data", frames=length)
        run = _Run(config, windows, out, network, accelerator, resumed, admit(windows))
        return _steps(run, windows, out)


def _steps(run: "_Run", windows: Windows, out: Path) -> dict:
    """Train from the run's step to the last one."""
    config, main = run.config, run.accelerator.is_main_process
    start = run.history["step"]
    if main:
        _begin(run, windows)
    bar = tqdm(total=config.steps, initial=start, unit="step", desc=config.method, disable=not main)
    unread = suppress(BrokenPipeError)  # whoever reads the output may end before this run, as `tee` does by Ctrl-C
    with noted_interrupts() as interrupted, bar:
        for step, batch in _batches(run, windows, start):
            norm = _update(run, step, batch)
            step += 1
            stop = _anyone(run.accelerator, bool(interrupted))
            with unread:
                bar.update()
            if step % config.log_every == 0 or step == config.steps:
                run.check_finite(step)
                lr = learning_rate(config, step - 1)
                shown = run.log.write(step, lr, norm.item(), run.history["samples"])
                with unread:
                    bar.set_postfix(shown)
            if step % config.save_every == 0 or step == config.steps or stop:
                run.save(step)
            if is_due(step, config.preview_every) and main:
                with unread:
                    _draw(run, step, windows.root, bar, interrupted)
            if stop:
                saved = f"everything is saved in {out}, the same command resumes the run"
                raise KeyboardInterrupt(f"Stopped at step {step}; {saved}.")
    return run.history


class _Run:
    """What a run holds from step to step: new, or as the newest checkpoint in `out` has it."""

    def __init__(
        self,
        config: TrainConfig,
        windows: Windows,
        out: Path,
        network: nn.Module | None,
        accelerator: Accelerator,
        resumed: checkpoint.Resumed | None,
        data: dict,
    ) -> None:
        self.config, self.out, self.accelerator = config, out, accelerator
        self.data = {**data, "name": raw.name_of(windows.root)}
        parts = accelerator.num_processes * config.accumulate
        if config.batch % parts:
            raise UserError(f"batch ({config.batch}) must be a multiple of accumulate x processes ({parts}).")
        self.model, self.v_scale = new_model(config, windows, network, accelerator.device, resumed)
        self.teacher = teacher_of(config, out, accelerator, resumed=bool(resumed))
        weights = self.model.weights.to(accelerator.device)
        self.ema = Average(weights.parameters(), config.ema) if config.ema else None
        kind = Muon if config.optimizer == "muon" else partial(torch.optim.AdamW, fused=True)
        optimizer = kind(weights.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.history = {"step": 0, "samples": 0, "seconds": 0.0, "losses": {}}
        if resumed:
            checkpoint.load(resumed.folder, weights, optimizer, self.ema)
            self.history = {key: resumed.state[key] for key in self.history}
            accelerator.print(f"Resuming from {resumed.folder}.")
            if accelerator.is_main_process:  # the run's model may be damaged, or younger
                checkpoint.publish(out, self.model, self.ema, resumed.state)
        self.network, self.optimizer = accelerator.prepare(weights, optimizer)  # as several processes train it
        flops, peak, main = training_flops(self.model), peak_flops(), accelerator.is_main_process
        if config.compile:  # after the operations were counted: what ran under a counter is never compiled
            keep_compiled()
            self.network.compile()  # in place: a wrapped module would change the names in the checkpoint
        self.bf16 = computes_in_bf16() if config.precision == "auto" else config.precision == "bf16"
        self.answers, self.streams = launched(self.model, self.network, config, self.bf16, alone=parts == 1)
        rates = {"flops": flops, "peak": peak and peak * accelerator.num_processes, "active": main}
        self.log = TrainingLog(out, self.history["step"], config.batch, **rates, logger=config.logger)
        self.log.means = self.history["losses"]  # until there are newer ones
        self.finite = torch.ones((), dtype=torch.bool, device=accelerator.device)
        self._started = time.monotonic() - self.history["seconds"]

    def check_finite(self, step: int) -> None:
        """Raise UserError if the loss or the gradient of a step has not been finite."""
        if not self.finite.item():
            last = checkpoint.latest(self.out)
            kept = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
            advice = f"{'Resume with' if last else 'Try'} a lower lr or clip, or a longer warmup"
            raise UserError(f"The loss was NaN or infinite before step {step}; {kept}. {advice}.")

    def save(self, step: int) -> None:
        """Write a checkpoint, unless the loss has not been finite."""
        self.check_finite(step)
        seconds = time.monotonic() - self._started
        self.history.update(step=step, seconds=seconds, losses=self.log.means, processes=self.accelerator.num_processes)
        if self.accelerator.is_main_process:
            optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it
            record = {**self.history, "v_scale": self.v_scale, "data": self.data, "hardware": hardware()}
            checkpoint.save(self.out, step, self.model, optimizer, self.ema, self.config, record)
        self.accelerator.wait_for_everyone()


def _begin(run: _Run, windows: Windows) -> None:
    """Say what the run uses, and keep first frames in it, so that its model has something to start from."""
    print(*overview(run.config, run.model, windows, run.out, run.history["step"], bf16=run.bf16), sep="\n", flush=True)
    held_out(windows.root)  # says where previews start
    if not (run.out / "first").exists():
        write_first(run.out / "first", windows.root, run.config.context, run.model.actions)


def _draw(run: _Run, step: int, data: Path, bar: tqdm, interrupted: list) -> None:
    """Draw a preview. Whatever goes wrong with it does not stop the run."""
    path, shown = run.out / "previews" / f"step_{step:08d}.png", bar.postfix
    with _averaged(run.model.weights, run.ema):
        try:
            if preview(run.model, data, path, show=bar.set_postfix_str, stopped=lambda: bool(interrupted)):
                bar.write(f"Preview after step {step}: {path}")
        except Exception as error:
            bar.write(f"No preview after step {step}: {error}")
    bar.set_postfix_str(shown or "")


def _update(run: _Run, step: int, batch: Past) -> Tensor:
    """One step of the optimiser on a batch of windows. Returns the norm of the gradient."""
    config, device = run.config, run.accelerator.device
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    weights: dict[str, float] = {"v": run.v_scale**-2, "u": run.v_scale**-2}
    method = run.model.method
    for part in range(config.accumulate):
        share = each(batch, lambda whole, part=part: whole.chunk(config.accumulate)[part])
        generator = _generator(device, config.seed, step, run.accelerator.process_index, part)
        # Two blocks: weights that autocast has converted in inference mode, for own frames, cannot be trained on.
        with torch.autocast(device.type, torch.bfloat16, enabled=run.bf16):
            clips, seen = conditions(run.streams, share, config, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=run.bf16):
            lesson = {"teacher": conditioned(run.teacher.network, seen)} if run.teacher else {}
            loss = method.loss(conditioned(run.answers, seen), clips, generator, config, **lesson)
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
        step -= run.data["since"]
        order = window_order(len(windows), seed=config.seed, step=step, batch=share, rank=rank, world=world)
        batch = windows.with_past(order, frames_before(config))
        return batch._replace(frames=batch.frames.pin_memory()) if run.model.device.type == "cuda" else batch

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
def _averaged(network: nn.Module, ema: Average | None) -> Iterator[None]:
    """The network in evaluation mode with its averaged weights, for the length of the block."""
    network.eval()
    try:
        with ema.applied(network.parameters()) if ema else nullcontext():
            yield
    finally:
        network.train()


def _anyone(accelerator: Accelerator, flag: bool) -> bool:
    """Whether any process raised its flag: all must leave the loop at the same step."""
    if accelerator.num_processes == 1:
        return flag
    flags = torch.tensor(float(flag), device=accelerator.device)
    torch.distributed.all_reduce(flags)
    return bool(flags.item())
