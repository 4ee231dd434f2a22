"""Network calls of many sessions, in the order in which they come; those that wait together become one call."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Condition, Thread

import torch
from torch import Tensor

from biflow.paths import Fields

Inputs = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


class Batcher:
    """`fields(x, t, alpha, condition)` that any thread may call.

    An engine computes one call at a time, so calls queue up, first come, first served. What waits when the engine is
    free goes into one call of 1, 2, 4 … samples, `limit` at most; nobody ever waits for company. Solvers do not notice:
    each caller gets its own rows back.
    """

    def __init__(self, fields: Callable[..., Fields], *, limit: int = 1):
        self.fields, self.limit = fields, limit
        self._waiting: deque[tuple[Inputs, Future[Fields]]] = deque()
        self._changed = Condition()
        Thread(target=self._work, name="network", daemon=True).start()

    def __call__(self, x: Tensor, t: Tensor, alpha: Tensor | None = None, condition: Tensor | None = None) -> Fields:
        """The fields at x (b, 3, h, w), t (b,), as `VideoUNet` gives them; raises what the engine raises."""
        result: Future[Fields] = Future()
        with self._changed:
            self._waiting.append(((x, t, alpha, condition), result))
            self._changed.notify()
        return result.result()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                calls = [self._waiting.popleft() for _ in range(self._share())]
            try:
                with torch.inference_mode():
                    found = self._together([inputs for inputs, _ in calls])
            except BaseException as error:
                for _, result in calls:
                    result.set_exception(error)
            else:
                for (_, result), fields in zip(calls, found, strict=True):
                    result.set_result(fields)

    def _share(self) -> int:
        """How many of the waiting calls go together: as many single samples as make a power of two, else one call."""
        single = 0
        for (x, *_), _ in self._waiting:
            if len(x) > 1 or single == self.limit:
                break
            single += 1
        return max(1, 1 << single.bit_length() - 1) if single else 1

    def _together(self, calls: list[Inputs]) -> list[Fields]:
        if len(calls) == 1:
            x, t, alpha, condition = calls[0]
            return [self.fields(x, t, alpha=alpha, condition=condition)]
        x, t, alpha, condition = (_joined(list(tensors)) for tensors in zip(*calls, strict=True))
        v, n = self.fields(x, t, alpha=alpha, condition=condition)
        return [Fields(v[i : i + 1], None if n is None else n[i : i + 1]) for i in range(len(calls))]


def _joined(tensors: list[Tensor | None]) -> Tensor | None:
    given = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(given) if given else None
