"""Pictures that clients send. They are not trusted: each is read in a process of its own, `biflow.serve.reader`."""

import asyncio
import contextlib
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

import torch
from jaxtyping import UInt8
from torch import Tensor

from biflow.errors import UserError
from biflow.serve.images import MAX_BYTES
from biflow.serve.limits import Link
from biflow.serve.reader import READ, REFUSED, TOO_MUCH
from biflow.serve.session import Session
from biflow.serve.viewer import Viewer

log = logging.getLogger("biflow")
WAITING = 64 * 2**20  # bytes of all pictures that wait to be read
READERS = 2  # processes at once, one of them without hurry, and a third that is ready for the next picture
CPU_SECONDS, SECONDS = 5, 10.0  # for a picture: of a core, and by the clock
_RUN = "import sys; sys.path[:] = sys.argv[1:]; from biflow.serve.reader import main; main()"


@dataclass(eq=False)
class Sender:
    """A client that may send pictures, its connection, and for how many seconds some of its were read."""

    session: Session
    viewer: Viewer
    link: Link | None = None
    seconds: float = 0.0

    @property
    def hurries(self) -> bool:
        return self.link is None or self.link.hurries


class Uploads:
    """Reads the pictures of all clients, and has sessions start from them.

    Of each client one picture is read at a time and one waits, the newest. Next is a client of an address whose
    pictures were cheap, and of these the one whose own have taken the least time, so that costly pictures keep nobody
    but those who send them waiting.
    """

    def __init__(self) -> None:
        self.waiting: dict[Sender, bytes] = {}
        self.reading: dict[Sender, asyncio.Task] = {}
        self._spare: Popen | None = None  # a process that waits for a picture

    def put(self, sender: Sender, data: bytes) -> None:
        """Have a picture read; it replaces the one that waits. Raises UserError if it has too many bytes."""
        if len(data) > MAX_BYTES:
            raise UserError(f"The image has more than {MAX_BYTES // 2**20} MB; make it smaller first.")
        self.waiting[sender] = data
        self._start()
        while sum(map(len, self.waiting.values())) > WAITING:
            largest = max(self.waiting, key=lambda one: len(self.waiting[one]))
            del self.waiting[largest]
            _tell(largest, "Too many pictures are being read. Try again in a few seconds.")

    def _start(self) -> None:
        while ready := [one for one in self.waiting if one not in self.reading]:
            sender = min(ready, key=lambda one: (not one.hurries, one.seconds))
            hurry = sender.hurries
            if len(self.reading) >= (READERS if hurry else 1):
                return
            task = asyncio.create_task(self._read(sender, self.waiting.pop(sender), hurry))
            task.add_done_callback(lambda _, sender=sender: self._next(sender))
            self.reading[sender] = task

    def _next(self, sender: Sender) -> None:
        del self.reading[sender]
        self._start()

    async def _read(self, sender: Sender, data: bytes, hurry: bool) -> None:
        begun, session = time.monotonic(), sender.session
        size = session.models[session.controls.model].size
        try:
            session.restart_from(await self.decode(data, size, hurry=hurry))
        except UserError as error:
            _tell(sender, str(error))
        finally:
            seconds = time.monotonic() - begun
            sender.seconds += seconds
            if sender.link:
                sender.link.read_picture(seconds)

    async def decode(self, data: bytes, size: tuple[int, int], *, hurry: bool = True) -> UInt8[Tensor, "3 h w"]:
        """An uploaded PNG, JPEG, WebP or GIF as a frame: upright, its centre, resized to `size` (h, w).

        Without `hurry`, everything else on the machine comes first from the beginning, not only when it takes long.

        Raises:
            UserError: it cannot be read, or takes too much time or memory.
        """
        process, self._spare = self._spare, None
        if process is None or process.poll() is not None:
            process = _start_process()
        try:
            asking = asyncio.to_thread(_ask, process, b"%d %d %d %d\n" % (*size, CPU_SECONDS, hurry), data)
            result = await asyncio.wait_for(asking, SECONDS)
        except asyncio.TimeoutError:
            raise UserError(TOO_MUCH) from None
        finally:
            process.kill()  # which ends `_ask` as well, if its caller is no longer interested
        self.warm()
        if process.returncode == REFUSED:
            raise UserError(result.decode())
        if process.returncode != READ:
            log.warning("The process that read a picture ended with %s.", process.returncode)
            raise UserError(TOO_MUCH)
        return torch.frombuffer(bytearray(result), dtype=torch.uint8).view(*size, 3).permute(2, 0, 1)

    def warm(self) -> None:
        """Start a process for the next picture, which then need not wait for that."""
        if self._spare is None:
            with contextlib.suppress(UserError):
                self._spare = _start_process()

    async def leave(self, sender: Sender) -> None:
        """Forget the pictures of a client, and stop reading one."""
        self.waiting.pop(sender, None)
        if task := self.reading.get(sender):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """End all processes."""
        self.waiting.clear()
        for sender in list(self.reading):
            await self.leave(sender)
        if self._spare:
            self._spare.kill()
            with self._spare:  # closes its pipes, and waits for it
                self._spare = None


def _start_process() -> Popen:
    # Without `site`, which takes longer than Python itself; what it found is in sys.path. And not with asyncio: uvloop
    # forks, which takes 20 ms of a server of 800 MB, where Popen takes less than one.
    path = [*filter(None, sys.path), str(Path(__file__).parents[2])]
    command = [sys.executable, "-I", "-S", "-c", _RUN, *path]
    try:
        return Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    except OSError as error:  # too many processes, or too little memory
        log.warning("No process to read pictures can be started: %s", error)
        raise UserError("The server cannot read pictures now. Try again later.") from error


def _ask(process: Popen, head: bytes, data: bytes) -> bytes:
    """What a process answers to a picture; nothing if it ends before, by itself or by the hand of another thread."""
    with process:  # closes its pipes at the end, and waits for it
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):  # it has ended
            process.stdin.write(head)
            process.stdin.write(data)  # in one go, so that this thread need not wait for the others of the server
            process.stdin.close()
        return process.stdout.read()


def _tell(sender: Sender, sentence: str) -> None:
    sender.viewer.tell({"type": "error", "text": sentence})
