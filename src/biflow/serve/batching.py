"""Network calls of many sessions, in the order in which they come; those that wait together become one call."""

from collections import deque
from concurrent.futures import Future
from threading import Condition, Thread
from typing import Any

import torch

from biflow.paths import Fields, Network, join, present


class Batcher:
    """A network that any thread may ask.

    A network computes one call at a time, so calls queue up, first come, first served. Those that wait when it is free
    are joined into one call of 1, 2, 4 … samples, at most `limit`; no call waits for others to come. Callers do not
    notice: each gets the fields of its own samples.
    """

    def __init__(self, network: Network, *, limit: int = 1) -> None:
        self.network, self.limit = network, limit
        self._waiting: deque[tuple[Any, Future[Fields]]] = deque()
        self._changed = Condition()
        Thread(target=self._work, name="network", daemon=True).start()

    def __call__(self, query: Any) -> Fields:
        """What the network answers to a query of any number of samples; raises what the network raises."""
        result: Future[Fields] = Future()
        with self._changed:
            self._waiting.append((query, result))
            self._changed.notify()
        return result.result()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                calls = [self._waiting.popleft() for _ in range(self._share())]
            try:
                with torch.inference_mode():
                    answers = self._answers([query for query, _ in calls])
            except BaseException as error:
                for _, result in calls:
                    result.set_exception(error)
            else:
                for (_, result), fields in zip(calls, answers, strict=True):
                    result.set_result(fields)

    def _share(self) -> int:
        """How many of the waiting calls to join: a power of two of single samples of one kind, else one call."""
        single, kind = 0, _kind(self._waiting[0][0])
        for query, _ in self._waiting:
            if len(query[0]) > 1 or _kind(query) != kind or single == self.limit:
                break
            single += 1
        return 1 << max(0, single.bit_length() - 1)

    def _answers(self, queries: list[Any]) -> list[Fields]:
        if len(queries) == 1:
            return [self.network(queries[0])]
        fields = self.network(join(queries))
        rows = [tensor.split(1) for tensor in present(fields).values()]
        return [type(fields)(**dict(zip(present(fields), row, strict=True))) for row in zip(*rows, strict=True)]


def _kind(query: Any) -> tuple:
    """What queries must have in common to be joined."""
    return type(query), {name: tensor.shape[1:] for name, tensor in present(query).items()}
