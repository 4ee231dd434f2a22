"""Work in the background."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

AHEAD = 4  # calls that may wait


class InTurn:
    """Calls of a function in a thread, one after the other, such as the encoding of frames beside their solving."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function, self._thread = function, ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def do(self, *arguments: Any) -> None:
        """Call the function soon. Raises what an earlier call has raised; waits where AHEAD calls do."""
        self._waiting.append(self._thread.submit(self._function, *arguments))
        while len(self._waiting) > AHEAD:
            self._waiting.popleft().result()

    def wait(self) -> None:
        """Wait for all calls. Raises what one has raised; those after it are dropped."""
        try:
            while self._waiting:
                self._waiting.popleft().result()
        finally:
            self._thread.shutdown(cancel_futures=True)
