"""What stands between a session and one client that watches it."""

from collections import deque
from collections.abc import Callable
from threading import Lock

CREDITS = 2  # one frame on the way, one being shown
MESSAGES = 64  # that wait for a client which does not read; the oldest go


class Viewer:
    """A slot that holds only the newest frame, credits to send it, and the sentences to be said.

    A client hands a credit back for every frame that it has shown. One that is slow thus sees fewer frames and never
    old ones, and one that reads nothing holds two frames and a slot, no more.

    Args:
        wake: called, from any thread, when there may be something to take.
    """

    def __init__(self, wake: Callable[[], None]):
        self.wake = wake
        self._lock = Lock()
        self._newest: bytes | None = None
        self._messages: deque[dict] = deque(maxlen=MESSAGES)
        self._credits = CREDITS

    @property
    def hungry(self) -> bool:
        """Whether the next frame would have a place; while no viewer is, none is solved."""
        return self._newest is None

    def show(self, frame: bytes) -> None:
        """Put a frame into the slot, instead of one that has not been taken yet."""
        with self._lock:
            self._newest = frame
        self.wake()

    def tell(self, message: dict) -> None:
        """Queue a message; these need no credit."""
        with self._lock:
            self._messages.append(message)
        self.wake()

    def take(self) -> dict | bytes | None:
        """The next message or frame to send, None if there is nothing, or no credit for it."""
        with self._lock:
            if self._messages:
                return self._messages.popleft()
            if self._newest is None or not self._credits:
                return None
            frame, self._newest = self._newest, None
            self._credits -= 1
            return frame

    def acknowledge(self) -> bool:
        """Take a credit back; False if none was out, which no honest client does."""
        with self._lock:
            if self._credits >= CREDITS:
                return False
            self._credits += 1
        self.wake()
        return True
