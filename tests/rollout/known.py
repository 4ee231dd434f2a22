"""Networks whose fields are known, and models of them."""

import pytest
import torch
from torch import Tensor

from biflow.methods import METHODS
from biflow.model import Model
from biflow.paths import Fields
from biflow.rollout import sample_generators, stream
from biflow.solvers import Solver
from biflow.video import to_float

EXACT = Solver("rk4", steps=16)
EULER = Solver("euler", steps=1)
SIZE = (4, 4)
GREY = torch.full((3, 8, 8), 128, dtype=torch.uint8)
STREAMING = pytest.mark.parametrize("method", [method for method in METHODS.values() if not method.clips])


class Known:
    """A network whose fields are known functions of the query: `v`, and `n` for BI-FLOW. It keeps every query."""

    def __init__(self, v, n=None):
        self.v, self.n = v, n
        self.queries = []

    def __call__(self, query) -> Fields:
        self.queries.append(query)
        return Fields(self.v(query), None if self.n is None else self.n(query))


def grey_world(push=0.0):
    """A world of one picture, grey: all else in x is noise of level alpha. Nothing moves, but by `push` every frame."""

    def network(query):
        level = over(query.alpha.clamp(min=1e-3))
        return Fields(torch.zeros_like(query.x) + push, (query.x - to_float(GREY)) / level)

    return network


def known(method, v, n=None, *, eps: float = 0.1, **settings) -> Model:
    eps = eps if method.takes_eps else 0.0
    return Model(**{"network": Known(v, n), "method": method, "shape": (3, *SIZE), "eps": eps, **settings})


def over(scale: Tensor) -> Tensor:
    """(b,) to (b, 1, 1, 1)."""
    return scale[:, None, None, None]


def constant(value):
    return lambda q: torch.zeros_like(q.x) + value


def images(b: int = 2, scale: float = 0.4, seed: int = 0) -> Tensor:
    return scale * (2 * torch.rand(b, 3, *SIZE, generator=torch.Generator().manual_seed(seed)) - 1)


def generators(b: int = 2, seed: int = 7):
    return sample_generators(seed, range(b))


def noise(b: int = 2, seed: int = 7) -> Tensor:
    """What a stream with `generators(b, seed)` draws for its first frame."""
    return torch.stack([torch.randn(3, *SIZE, generator=generator) for generator in generators(b, seed)])


def first_frame(model, x, **settings):
    return next(stream(model, x, generators=generators(len(x)), **settings))
