"""Samples of any shape stream, with limits of their own or none."""

from itertools import islice

import pytest
import torch
from torch import Tensor

from biflow.errors import UserError
from biflow.methods import BIFLOW, FLOW
from biflow.model import Model
from biflow.rollout import generate, stream
from biflow.solvers import Solver
from tests.rollout.known import SIZE, STREAMING, constant, known

START, VELOCITY = torch.tensor([[-3.0, 5.0], [10.0, 2.0]]), torch.tensor([0.5, -1.0])


def walk(q) -> Tensor:
    """Where the points of a world of constant velocity are at the time of a query, whatever noise is on them."""
    t = q.t[:, None]
    frames = ((q.x - START - t * VELOCITY) / VELOCITY).mean(1, keepdim=True).round()
    return START + (frames + t) * VELOCITY


def points(method, n=None) -> Model:
    """Points (b, 2) that walk for ever."""
    return known(method, lambda q: VELOCITY.expand_as(q.x), n, eps=0.05, shape=None, limits=None)


BOTH_WAYS = pytest.mark.parametrize(("direction", "sign"), [("forward", 1), ("backward", -1)])


@BOTH_WAYS
@pytest.mark.parametrize("error", [0.0, 0.1])
def test_in_a_world_of_constant_velocity_biflow_walks_on_and_loses_an_error(error, direction, sign):
    model = points(BIFLOW, lambda q: (q.x - walk(q)) / q.alpha[:, None])
    path = generate(model, START + error, frames=40, direction=direction, solver=Solver("euler", steps=4))
    expected = START[:, None] + sign * torch.arange(1, 41)[:, None] * VELOCITY
    torch.testing.assert_close(path, expected, atol=1e-4, rtol=0)
    assert path.abs().max() > 10  # no limits: nothing is clamped


@BOTH_WAYS
def test_in_a_world_of_constant_velocity_flow_walks_on_and_keeps_an_error(direction, sign):
    path = generate(points(FLOW), START + 0.1, frames=40, direction=direction)
    expected = START[:, None] + 0.1 + sign * torch.arange(1, 41)[:, None] * VELOCITY
    torch.testing.assert_close(path, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(), (5,), (3, 4, 4), (2, 3, 4, 5)])
@STREAMING
def test_samples_may_have_any_shape(method, shape):
    model = known(method, lambda q: -q.x, constant(0.0) if method.heads == 2 else None, shape=shape)
    frames = list(islice(stream(model, torch.zeros(2, *shape)), 2))
    for frame in frames:
        assert frame.x.shape == (2, *shape)
        assert frame.nfe.shape == (2,)


def test_a_model_of_points_says_what_it_starts_from():
    model = known(FLOW, constant(0.0), shape=(2,), limits=None)
    with pytest.raises(UserError, match=r"are \(4, 3\), but the model starts from \(b, 2\)"):
        stream(model, torch.zeros(4, 3))
    with pytest.raises(UserError, match="add the batch dimension"):
        stream(model, torch.zeros(2))


def test_limits_are_the_models_own():
    model = known(FLOW, constant(1.0), limits=(0.0, 2.5))
    x0 = torch.ones(1, 3, *SIZE)
    assert [frame.x.max().item() for frame in islice(stream(model, x0), 3)] == [2, 2.5, 2.5]
    with pytest.raises(UserError, match=r"go from -1 to 1, but must lie in \[0, 2.5\]"):
        stream(model, torch.cat([x0, -x0]))
