"""The one place that turns frames into pixels, costs and messages."""

import itertools
from itertools import islice

import pytest
import torch

from biflow import rollout
from biflow.errors import UserError
from biflow.methods import BIFLOW, FLOW
from biflow.rollout import Frame, drain, stream
from biflow.solvers import Solver, SolverError
from biflow.video import to_uint8
from tests.rollout.known import EULER, SIZE, constant, generators, images, known


def test_drained_frames_are_pixels_and_what_they_cost():
    model = known(BIFLOW, lambda q: -q.x, constant(0.3))
    settings = {"eps": 0.2, "direction": "backward", "in_between": 2}
    frames = list(islice(stream(model, images(), generators=generators(), **settings), 4))
    drained = list(islice(drain(stream(model, images(), generators=generators(), **settings)), 4))
    for frame, shown in zip(frames, drained, strict=True):
        assert torch.equal(shown.x, frame.x)
        assert (shown.pixels.dtype, shown.pixels.shape) == (torch.uint8, (2, 3, *SIZE))
        assert torch.equal(shown.pixels, to_uint8(frame.x))
        assert shown.nfe == frame.nfe.tolist()
        assert shown.time == frame.time
    assert [shown.time for shown in drained] == [-0.5, -1.0, -1.5, -2.0]


def test_seconds_are_those_of_solving_alone(monkeypatch):
    now = itertools.count().__next__  # every look at the clock, and every evaluation, takes a second
    monkeypatch.setattr(rollout.time, "perf_counter", lambda: float(now()))
    model = known(FLOW, lambda q: 0 * q.x + 0 * now())
    for shown in islice(drain(stream(model, images(), solver=Solver("euler", steps=5))), 3):
        assert shown.seconds == 6
        for _ in range(100):  # what the caller does with a frame is not counted
            now()


@pytest.mark.parametrize(("start", "number"), [({}, 3), ({"start": 10}, 12)])
def test_a_frame_that_cannot_be_solved_is_named_by_its_number(start, number):
    # The state grows by 0.3 a frame, from 0.1; the field has no value above 0.6.
    model = known(FLOW, lambda q: 0.3 * torch.where(q.x > 0.6, torch.nan, 1.0))
    x0 = torch.stack([torch.full((3, *SIZE), value) for value in (-1.0, 0.1)])
    shown = drain(stream(model, x0, solver=EULER), **start)
    assert [next(shown).nfe for _ in range(2)] == [[1, 1]] * 2
    with pytest.raises(UserError, match=rf"Frame {number} could not be solved: Sample 1 is NaN or inf") as error:
        next(shown)
    assert isinstance(error.value.__cause__, SolverError)


def test_other_errors_pass_through_a_drain_as_they_are():
    def interrupted(q):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(drain(stream(known(FLOW, interrupted), images())))


def test_a_drain_ends_with_its_frames_and_asks_for_none_too_early():
    model = known(FLOW, constant(0.1))
    shown = drain(islice(stream(model, images(), solver=EULER), 3))
    assert model.network.queries == []
    next(shown)
    assert len(model.network.queries) == 1
    assert len(list(shown)) == 2
    assert len(model.network.queries) == 3


def test_a_drain_takes_frames_from_anywhere():
    x = torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 3, *SIZE)
    (shown,) = drain(iter([Frame(x, torch.tensor([1, 2]), 1.0)]))
    assert shown.pixels.unique().tolist() == [0, 255]
    assert shown.nfe == [1, 2]
