import threading
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from biflow.paths import Fields, Query
from biflow.serve.batching import Batcher
from tests.serve.helpers import until


class Gate:
    """A network that records its queries, and holds the first one until it is opened."""

    def __init__(self, answer):
        self.queries, self.busy, self.opened, self.answer = [], threading.Event(), threading.Event(), answer

    def __call__(self, query) -> Fields:
        self.queries.append(query)
        self.busy.set()
        assert self.opened.wait(120)
        return self.answer(query)


def ask_together(gate, limit, queries) -> list[Any]:
    """The answers of a batcher whose network is busy with the first query until all others wait."""
    batcher, found = Batcher(gate, limit=limit), {}

    def ask(i):
        found[i] = batcher(queries[i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(queries))]
    for i, thread in enumerate(threads):  # one after the other, so that their order is known
        thread.start()
        until(gate.busy.is_set if i == 0 else lambda i=i: len(batcher._waiting) == i)
    gate.opened.set()
    for thread in threads:
        thread.join(120)
    return [found[i] for i in range(len(queries))]


def test_calls_that_wait_together_are_computed_together():
    gate = Gate(lambda query: Fields(query.x + query.t.reshape(-1, 1, 1, 1)))
    queries = [Query(torch.full((1, 3, 2, 2), float(i)), torch.ones(1)) for i in range(8)]
    answers = ask_together(gate, 4, queries)
    assert [len(query.x) for query in gate.queries] == [1, 4, 2, 1]
    assert all((fields.v == i + 1).all() and fields.n is None for i, fields in enumerate(answers))


def test_both_fields_and_every_tensor_of_a_query_keep_their_rows():
    gate = Gate(lambda query: Fields(query.x + query.condition, query.x * query.alpha[:, None]))
    queries = [
        Query(torch.full((1, 2), float(i)), alpha=torch.full((1,), 10.0 * i), condition=torch.full((1, 2), 0.5))
        for i in range(5)
    ]
    for i, (v, n) in enumerate(ask_together(gate, 8, queries)):
        assert torch.equal(v, torch.full((1, 2), i + 0.5))
        assert torch.equal(n, torch.full((1, 2), 10.0 * i * i))
    assert [query.t for query in gate.queries] == [None] * len(gate.queries)


class Jump(NamedTuple):
    """A query of a method that biflow does not know."""

    state: Tensor
    action: Tensor
    until: Tensor | None = None


def test_queries_of_another_kind_are_not_joined():
    gate = Gate(lambda query: Fields(query[0]))
    queries: list[Any] = [Jump(torch.full((1, 3), float(i)), torch.zeros(1, 5)) for i in range(3)]
    queries += [Jump(torch.ones(1, 3), torch.zeros(1, 5), until=torch.ones(1)), Query(torch.ones(1, 3))]
    queries += [Query(torch.ones(1, 4)), Query(torch.ones(2, 4)), Query(torch.ones(1, 4))]
    answers = ask_together(gate, 8, queries)
    assert [(type(query), len(query[0])) for query in gate.queries] == [
        (Jump, 1), (Jump, 2), (Jump, 1), (Query, 1), (Query, 1), (Query, 2), (Query, 1),
    ]  # fmt: skip
    assert all(torch.equal(fields.v, query[0]) for fields, query in zip(answers, queries, strict=True))


def test_a_failing_network_fails_its_callers_only():
    def network(query):
        if query.x.isnan().any():
            raise RuntimeError("no")
        return Fields(query.x)

    batcher = Batcher(network)
    with pytest.raises(RuntimeError):
        batcher(Query(torch.full((1, 1), torch.nan), torch.ones(1)))
    assert batcher(Query(torch.ones(1, 1), torch.ones(1))).v == 1
