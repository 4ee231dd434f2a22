"""A dream of a model that sees past frames and takes actions: what its streams start from, and end with."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from biflow.config import Solver
from biflow.rollout import frame_seed, stream
from biflow.serve.controls import initial
from biflow.serve.dream import Dream
from biflow.video import resize, to_float, to_uint8

MIDPOINT = Solver("midpoint", steps=2)
LEFT, AHEAD = {"turn": -1.0}, {"move": 1.0, "jump": 0.5}


@pytest.fixture
def controls(steered):
    return replace(initial(steered), solver="midpoint", steps=2)


@pytest.fixture
def dream(steered, controls):
    dream = Dream(steered)
    dream.begin(steered["walk"].first[0], controls)
    return dream


@pytest.fixture
def starts(monkeypatch):
    """The frames that streams were started from."""
    starts = []

    def noted(model, first, **settings):
        starts.append(to_uint8(first[0]))
        return stream(model, first, **settings)

    monkeypatch.setattr("biflow.serve.dream.stream", noted)
    return starts


def shown(moments):
    """Their first pictures, (n, 3, h, w)."""
    return torch.stack([moment.pictures[0] for moment in moments])


def advance(dream, frames, controls, action=None):
    return [dream.advance(controls, action=action) for _ in range(frames)]


def test_going_back_continues_with_the_past_of_that_frame(dream, steered, controls, starts):
    moments = [dream.now, *advance(dream, 5, controls)]
    back = dream.go_back(moments[4].id)
    after = dream.advance(controls)
    assert torch.equal(starts[-1], shown(moments[2:5]))
    generator = torch.Generator().manual_seed(frame_seed(0, 4))
    first = to_float(shown(moments[2:5]))[None]
    known = next(stream(steered["walk"].model, first, actions=[None], generators=[generator], solver=MIDPOINT))
    assert torch.equal(after.pictures[0], to_uint8(known.x)[0])
    dream.go_back(back.id)
    assert torch.equal(dream.advance(controls).pictures[0], after.pictures[0])
    dream.go_back(moments[1].id)
    dream.advance(controls)
    assert torch.equal(starts[-1], shown(moments[:2]))


def test_a_change_of_settings_keeps_the_past(dream, controls, starts):
    moments = [dream.now, *advance(dream, 3, controls)]
    moments += advance(dream, 1, replace(controls, eps=0.3))
    assert torch.equal(starts[-1], shown(moments[1:4]))
    advance(dream, 1, replace(controls, eps=0.3, two_up=True, model_b="walk"))
    assert all(torch.equal(start, shown(moments[2:5])) for start in starts[-2:])  # the second begins where the first is


def test_frames_in_between_are_no_past_frames(dream, controls, starts):
    moments = [dream.now, *advance(dream, 7, replace(controls, in_between=2))]
    assert [moment.time for moment in moments] == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
    advance(dream, 2, controls)  # the frame on screen counts, although it was one in between
    assert torch.equal(starts[-1], shown([moments[4], moments[6], moments[7]]))
    dream.go_back(moments[6].id)
    advance(dream, 1, controls)
    assert torch.equal(starts[-1], shown([moments[2], moments[4], moments[6]]))
    two = advance(dream, 2, controls)
    dream.go_back(two[-1].id)
    advance(dream, 1, controls)
    assert len(starts[-1]) == 3


def test_backward_in_time_no_past_frame_is_seen_and_the_frames_passed_are_forgotten(dream, controls, starts):
    moments = [dream.now, *advance(dream, 4, controls)]
    backward = advance(dream, 1, replace(controls, direction="backward"))
    assert torch.equal(starts[-1], shown(moments[4:]))
    advance(dream, 1, controls)
    assert torch.equal(starts[-1], shown([moments[2], *backward]))


def test_past_frames_of_another_size_are_resized(dream, controls, starts):
    moments = advance(dream, 2, replace(controls, model="large"))
    advance(dream, 1, controls)
    assert torch.equal(starts[-1][1:], resize(shown(moments), (16, 16)))


def test_a_first_frame_may_come_with_those_before_it(dream, steered, controls, starts):
    moment = dream.begin(steered["walk"].first[:, -1], controls)
    assert torch.equal(moment.pictures[0], steered["walk"].first[-1, -1])
    advance(dream, 1, controls)
    assert torch.equal(starts[-1], steered["walk"].first[:, -1])


def test_an_action_is_that_of_the_very_next_frame(dream, steered, controls):
    moments = [dream.advance(controls, action=action) for action in (None, LEFT, LEFT, {}, AHEAD)]
    assert [moment.action for moment in moments] == [None, LEFT, LEFT, {}, AHEAD]
    actions = [None, *np.array([[0, -1, 0], [0, -1, 0], [0, 0, 0], [1, 0, 0.5]], np.float32)]
    generator = torch.Generator()
    frames = stream(
        steered["walk"].model,
        to_float(steered["walk"].first[0]),
        actions=actions,
        generators=[generator],
        solver=MIDPOINT,
    )
    for index, moment in enumerate(moments):
        generator.manual_seed(frame_seed(0, index))
        assert torch.equal(moment.pictures[0], to_uint8(next(frames).x)[0])


def test_with_frames_in_between_an_action_acts_on_the_next_whole_frame(dream, controls):
    between = replace(controls, in_between=2)
    actions = [dream.advance(between, action=action).action for action in (None, LEFT, LEFT, AHEAD, AHEAD)]
    assert actions == [None, None, LEFT, LEFT, AHEAD]


def test_a_second_model_takes_the_columns_that_it_has(dream, controls):
    two = replace(controls, two_up=True, model_b="bi", eps_b=0.1)
    moments = advance(dream, 2, two, LEFT)
    assert all(moment.action == LEFT and len(moment.nfe) == 2 for moment in moments)
    other = dream.advance(replace(two, model="bi", model_b="walk"), action=LEFT)
    assert other.action is None  # the first model takes none


def test_past_frames_take_no_more_memory(dream, controls):
    moments = [dream.now, *advance(dream, 4, controls)]
    for before, moment in pairwise(moments):
        assert moment.before[0] is before.pictures
    assert [len(moment.before) for moment in moments] == [0, 1, 2, 2, 2]


def test_without_past_or_actions_streams_start_from_one_frame(dream, controls, starts):
    advance(dream, 3, controls)
    advance(dream, 2, replace(controls, model="bi"), LEFT)
    assert len(starts[-1]) == 1
    assert dream.now.action is None
