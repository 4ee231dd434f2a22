"""The last seconds of sessions as mp4 files: encoded one at a time, for clients that still wait, and after all else."""

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from biflow.errors import UserError
from biflow.serve.recording import clip
from biflow.serve.session import Session

NICE = 10
LOOK = 0.2  # seconds between looks at whether a client still waits


class Clips:
    """Makes one clip at a time, in turn, and no two of a session at once: so nobody waits for more than one of each."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "clips", initializer=_give_way)
        self._sessions: set[Session] = set()

    async def make(self, session: Session, gone: Callable[[], Awaitable[bool]]) -> bytes:
        """The newest seconds of a session; it stops if the client has `gone`.

        Raises:
            UserError: one of this session is being made, there is nothing to encode, or it was stopped.
            OSError: it cannot be written.
        """
        if session in self._sessions:
            raise UserError("A clip of this session is being made already.")
        unwanted = threading.Event()
        self._sessions.add(session)
        making = asyncio.get_running_loop().run_in_executor(self._thread, _clip, session, unwanted)
        try:
            while not making.done():
                await asyncio.wait({making}, timeout=LOOK)
                if not making.done() and await gone():
                    raise UserError("Nobody waits for the clip.")
            return making.result()
        finally:
            unwanted.set()
            making.cancel()
            self._sessions.remove(session)

    def close(self) -> None:
        """Make no more clips."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _clip(session: Session, unwanted: threading.Event) -> bytes:
    served = session.models[session.controls.model]
    return clip(session.recent(), served, session.controls, session.shelf, unwanted.is_set)


def _give_way() -> None:
    """Have everything else come first; the encoder's threads inherit it."""
    if sys.platform == "linux":  # others have priorities for processes only
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
