"""The queue between a session and one client that watches it."""

import math
import time
from collections import deque
from collections.abc import Callable
from threading import Lock

CREDITS = 2  # one frame on its way, one being shown
MESSAGES = 64  # that wait for a client that does not read; the oldest are dropped


class Viewer:
    """A slot for the newest frame, the credits to send it, and a queue of messages.

    A client returns a credit for every frame that it has shown. So a slow client sees fewer frames, never old ones, and
    a client that reads nothing costs the memory of two frames and a slot.

    Args:
        wake: called from any thread when there may be something to take.
        number: which viewer of its session it is.
    """

    def __init__(self, wake: Callable[[], None], number: int = 0) -> None:
        self.wake, self.number = wake, number
        self._lock = Lock()
        self._newest: bytes | None = None
        self._messages: deque[dict] = deque(maxlen=MESSAGES)
        self._credits = CREDITS
        self._awake = False  # it has acknowledged a frame
        self.silent = math.inf  # since when it has left frames without an answer, as many as it may have

    @property
    def hungry(self) -> bool:
        """Whether the slot is free. No frame is solved while all slots are taken.

        It is not before the client has acknowledged the first frame, which is there already: so a client that only
        comes and goes, or never acknowledges, has nothing solved for it.
        """
        return self._newest is None and self._awake

    def show(self, frame: bytes) -> None:
        """Put a frame into the slot; it replaces one that has not been taken yet."""
        with self._lock:
            self._newest = frame
        self.wake()

    def tell(self, message: dict) -> None:
        """Queue a message, which needs no credit."""
        with self._lock:
            self._messages.append(message)
        self.wake()

    def take(self) -> dict | bytes | None:
        """The next message or frame to send; None if there is nothing, or no credit for it."""
        with self._lock:
            if self._messages:
                return self._messages.popleft()
            if self._newest is None or not self._credits:
                return None
            frame, self._newest = self._newest, None
            self._credits -= 1
            if not self._credits or not self._awake:
                self.silent = time.monotonic()
            return frame

    def acknowledge(self) -> bool:
        """Return a credit; False if all had been returned already, so that a client cannot make credits up."""
        with self._lock:
            if self._credits >= CREDITS:
                return False
            self._credits += 1
            self._awake, self.silent = True, math.inf
        self.wake()
        return True
