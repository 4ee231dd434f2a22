"""Training in several processes on a CPU, where that is faster than threads.

This process becomes the first of them, so that its progress bar, messages, signals and exit code are those of a run in
one process. The others write nothing.
"""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate.state import AcceleratorState
from tqdm import tqdm

from biflow import methods
from biflow.config import TrainConfig
from biflow.data.windows import Windows, is_prepared
from biflow.errors import UserError
from biflow.machine import cores, device
from biflow.model import Model, empty_conditions
from biflow.networks import VideoUNet, check_size
from biflow.training.begin import first_model
from biflow.training.checkpoint import latest, read_state
from biflow.training.log import training_flops
from biflow.training.loop import train
from biflow.warm_start import start_from

LAUNCHERS = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"}  # what they set for each process
# Floating-point operations of a step below which one process is as fast: exchanging gradients and updating the weights
# takes each process some 0.1 s a step (docs/lab-notes.md), and a core computes some 5e10 a second.
WORTHWHILE = 1e10
MEMORY = 1e9  # bytes for each process, by what it took in our runs
LOOPBACK = {"linux": "lo", "darwin": "lo0"}


def train_on_cores(
    config: TrainConfig, data: Path, out: Path, processes: int | None = None, *, size: int = 64, **more: Any
) -> dict:
    """`train`, in `processes` processes of one thread each; by default as many as are fast on this machine.

    `size` and `more` are further arguments of `train`.

    Raises:
        UserError: as `train`; and where processes cannot be had.
    """
    count = _count(config, data, out, processes, size)
    run = partial(train, config, data, out, size=size, **more)
    if count == 1:
        return run()
    with _distributed(count), _peers(count, run):
        return run()


def _count(config: TrainConfig, data: Path, out: Path, wanted: int | None, size: int) -> int:
    """How many processes to use. Raises UserError for a number that does not fit, and for what no process can use."""
    launched = LAUNCHERS & os.environ.keys()
    if launched or device().type != "cpu":
        if (wanted or 1) > 1:
            why = "a launcher has started this process" if launched else f"training uses the {device().type} device"
            raise UserError(f"processes is {wanted}, but {why}. It is for training on a CPU.", setting="processes")
        return 1
    kept = wanted or _recorded(out)
    if kept == 1:
        return 1
    flops, parts = _flops(config, data, out, size), config.batch // config.accumulate
    if wanted:
        if wanted * config.accumulate > config.batch or parts % wanted:
            what = f"batch ({config.batch}) must be a multiple of accumulate x processes"
            raise UserError(f"{what} ({config.accumulate * wanted}).", setting="processes")
        return wanted
    most = min(cores(), parts, int(psutil.virtual_memory().available / MEMORY))
    if kept and kept <= parts and parts % kept == 0:
        return kept
    if most < 2 or flops < WORTHWHILE:
        return 1
    return max(count for count in range(1, most + 1) if parts % count == 0)


def _recorded(out: Path) -> int | None:
    """How many processes the run in `out` had, if any: its noise is seeded by process."""
    newest = latest(out)
    try:
        return read_state(newest).get("processes") if newest else None
    except UserError:
        return None  # damaged, as resuming will say


def _flops(config: TrainConfig, data: Path, out: Path, size: int) -> int:
    """Floating-point operations of a training step. Raises UserError if data, network and first weights do not fit.

    Of data that are not prepared yet, nothing is known but the size they will have.
    """
    method, windows = methods.get(config.method), Windows(data) if is_prepared(data) else None
    sides, actions = (windows.size, windows.actions) if windows else ((size, size), None)
    actions = actions if config.span == 1 else None
    check_size(config.network, *sides)
    seen = empty_conditions(1, (3, 1, 1), config.context, actions)
    network = VideoUNet(method, config.network, conditions=seen, span=config.span)
    if windows and latest(out) is None and (first := first_model(config, actions)):
        start_from(network, method, actions, config.context, first)
    model = Model(network, method, (3, *sides), context=config.context, actions=actions, span=config.span)
    return config.batch * training_flops(model)


@contextmanager
def _distributed(count: int) -> Iterator[None]:
    """What the processes of a run have in common, in this process and in those that it starts meanwhile."""
    before, threads = dict(os.environ), torch.get_num_threads()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"OMP_NUM_THREADS": 1, "GLOO_SOCKET_IFNAME": LOOPBACK.get(sys.platform, "")}
    AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier run in this process
    try:
        os.environ.update({name: str(value) for name, value in shared.items() if value != ""})
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ.clear()
        os.environ.update(before)
        torch.set_num_threads(threads)


@contextmanager
def _peers(count: int, run: Callable[[], object]) -> Iterator[None]:
    """Other processes that call `run` too; within the block, this one is the first of `count`."""
    spawn, peers = multiprocessing.get_context("spawn"), []
    try:
        for rank in range(1, count):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_peer, args=(rank, theirs, run), daemon=True)
            with _deaf():
                process.start()
            peers.append((process, ours))
            theirs.close()
        for process, pipe in peers:
            wait([pipe, process.sentinel])  # until it has imported everything, which takes seconds
            _check(process, pipe)
        os.environ.update(RANK="0", LOCAL_RANK="0")
        torch.set_num_threads(1)
        try:
            yield
        except RuntimeError as error:  # of the exchange of gradients, if a peer has ended
            for process, pipe in peers:
                process.join(1)
                _check(process, pipe, error)
            raise
    finally:
        connected = torch.distributed.is_initialized()
        if connected:
            torch.distributed.destroy_process_group()  # a peer that waits for this process then fails, and ends
        for process, _ in peers:
            if connected:
                process.join(10)
            process.kill()  # it has nothing to save


@contextmanager
def _deaf() -> Iterator[None]:
    """Without Ctrl-C, which processes that are started meanwhile ignore from their first moment on."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _check(process: BaseProcess, pipe: Connection, error: Exception | None = None) -> None:
    """Raise an error if a peer has ended, or says why it will."""
    message = ""
    try:
        while pipe.poll():
            message = pipe.recv()
    except (EOFError, OSError):
        process.join(10)  # it is ending
    if message:
        raise RuntimeError(f"Another process of this run has failed:\n{message}") from error
    if process.exitcode is not None:
        why = "perhaps for want of memory" if process.exitcode < 0 else f"with exit code {process.exitcode}"
        raise UserError(f"Another process of this run has ended, {why}. Use fewer processes.") from error


def _peer(rank: int, pipe: Connection, run: Callable[[], object]) -> None:
    """What another process does: train, and say nothing unless it fails alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from the terminal; the first process tells all when to stop
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    logging.getLogger("biflow").setLevel(logging.ERROR)  # the first process warns
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a killed process would leave behind
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    pipe.send("")
    try:
        run()
        torch.distributed.destroy_process_group()
    except (UserError, KeyboardInterrupt):
        pass  # the first process says the same
    except Exception:
        with suppress(OSError):
            pipe.send(traceback.format_exc())


def _end_with(pipe: Connection) -> None:
    """End this process when the first one has ended, however that was killed."""
    with suppress(EOFError, OSError):
        pipe.recv()  # nothing is ever sent
    os._exit(1)
