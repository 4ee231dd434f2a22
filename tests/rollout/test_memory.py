"""What a stream tells a network of the past and of actions."""

from itertools import islice, repeat

import pytest
import torch

from biflow.actions import Actions
from biflow.config import Solver
from biflow.errors import UserError
from biflow.methods import BIFLOW, FLOW
from biflow.rollout import denoise, drain, generate, sample_generators, stream
from tests.rollout.known import EULER, STREAMING, constant, generators, images, known

ACTIONS = Actions(("move", "turn"), ((0.0, 2.0), (-1.0, 1.0)))
ADD = 0.1  # to every pixel in every frame


def adding(method=FLOW, **settings):
    """A model whose frames get brighter by ADD, and that sees two frames before the current one."""
    n = None if method.heads == 1 else constant(0.0)
    return known(method, constant(ADD), n, **{"context": 2, "actions": ACTIONS, **settings})


def asked(model, first, frames: int = 1, **settings):
    """The first query of each frame."""
    list(islice(stream(model, first, solver=EULER, generators=generators(len(first)), **settings), frames))
    return model.network.queries


def test_the_past_is_the_newest_frames_first_and_empty_where_there_is_none():
    x = images()
    first, second, third, fourth = asked(adding(), x, frames=4)
    assert torch.equal(first.past, torch.zeros(2, 2, 3, 4, 4))
    assert first.past_noise.tolist() == [[-1, -1]] * 2
    assert torch.equal(second.past[:, 0], x)
    assert torch.equal(second.past[:, 1], torch.zeros_like(x))
    assert second.past_noise.tolist() == [[0, -1]] * 2
    assert torch.allclose(third.past, torch.stack([x + ADD, x], 1))
    assert torch.allclose(fourth.past, torch.stack([x + 2 * ADD, x + ADD], 1))  # and the first one is forgotten
    assert fourth.past_noise.tolist() == [[0, 0]] * 2


def test_a_stream_may_start_with_several_frames():
    clip = torch.stack([images(seed=i) for i in range(4)], dim=1)
    first, second = asked(adding(), clip, frames=2)
    assert torch.equal(first.x, clip[:, 3])
    assert torch.equal(first.past, torch.stack([clip[:, 2], clip[:, 1]], 1))
    assert torch.equal(second.past, torch.stack([clip[:, 3], clip[:, 2]], 1))


def test_a_stream_continues_from_its_own_frames_as_if_it_had_not_stopped():
    model = known(FLOW, lambda q: -0.6 * q.x + 0.4 * q.past.mean(1), context=2)
    whole = generate(model, images(), frames=6, solver=EULER)
    again = generate(model, whole[:, 1:4], frames=2, solver=EULER)
    assert torch.equal(again, whole[:, 4:])


def test_past_frames_get_noise_of_the_level_that_the_network_is_told():
    x = torch.zeros(2, 3, 3, 4, 4)
    model = adding(context_eps=0.5)
    (query,) = asked(model, x)
    assert query.past_noise.tolist() == [[0.5, 0.5]] * 2
    expected = torch.stack([torch.randn(2, 3, 4, 4, generator=g) for g in generators(2)])
    assert torch.allclose(query.past, 0.5 * expected)
    model.network.queries.clear()
    assert asked(model, x, context_eps=0.0)[0].past.abs().max() == 0


def test_the_noise_of_the_state_comes_first_so_that_a_past_does_not_change_it():
    x, model = images(), adding(BIFLOW, context_eps=0.5)
    with_past = asked(model, torch.stack([x, x], 1), eps=0.2)[0].x
    model.network.queries.clear()
    assert torch.equal(asked(model, x, eps=0.2)[0].x, with_past)


def test_each_frame_is_asked_under_its_action_in_the_unit_of_the_network():
    rows = [torch.tensor([1.0, -1.0]), [[2.0, 0.0], [0.0, 0.5]], None]
    first, second, third = asked(adding(), images(), frames=3, actions=rows)
    assert first.action.tolist() == [[1, 0.5, -1]] * 2
    assert second.action.tolist() == [[1, 1, 0], [1, 0, 0.5]]
    assert third.action.tolist() == [[0, 0, 0]] * 2  # not known


def test_without_actions_the_neutral_one_is_taken():
    assert asked(adding(), images())[0].action.tolist() == [[1, 0, 0]] * 2


def test_an_action_may_be_known_for_some_samples_only():
    rows = [[1.0, 0.0], [float("nan"), float("nan")]]
    (query,) = asked(adding(), images(), actions=[rows])
    assert query.action.tolist() == [[1, 0.5, 0], [0, 0, 0]]


def test_frames_are_denoised_without_a_past_or_an_action():
    model = adding(BIFLOW)
    clean, _ = denoise(model, images(), 0.0, 0.2, solver=EULER)
    assert torch.equal(clean, images())  # a network that finds no noise
    assert model.network.queries[0].past_noise.tolist() == [[-1, -1]] * 2
    assert model.network.queries[0].action.tolist() == [[0, 0, 0]] * 2


def test_frames_end_with_the_actions_and_each_is_asked_for_just_before_its_frame():
    given = []

    def actions():
        for i in range(3):
            given.append(i)
            yield [0, 0]

    frames = stream(adding(), images(), solver=EULER, actions=actions())
    assert given == []
    next(frames)
    assert given == [0]
    assert len(list(frames)) == 2
    assert given == [0, 1, 2]


def test_legs_of_a_frame_share_its_action_and_its_past():
    model = adding()
    list(islice(stream(model, images(), solver=EULER, in_between=2, actions=iter([[1, 0], [2, 0]])), 4))
    moves = [query.action[0, 1].item() for query in model.network.queries]
    assert moves == [0.5, 0.5, 1, 1]
    assert [query.past_noise[0].tolist() for query in model.network.queries] == [[-1, -1]] * 2 + [[0, -1]] * 2


def test_backward_in_time_no_past_is_known_but_actions_are():
    clip = torch.stack([images(seed=i) for i in range(3)], dim=1)
    first, second = asked(adding(), clip, frames=2, direction="backward", actions=repeat([2, 0]))
    assert torch.equal(first.x, clip[:, -1])
    for query in (first, second):
        assert query.past_noise.tolist() == [[-1, -1]] * 2
        assert query.action[0].tolist() == [1, 1, 0]


@STREAMING
def test_in_adaptive_solves_each_sample_keeps_its_own_conditions(method):
    """Samples differ in how hard they are, so that they leave the solver one after the other."""

    def v(q):
        speed = q.action[:, 1].reshape(-1, 1, 1, 1)
        return speed * torch.sin(20 * speed * (q.t if q.t is not None else q.alpha).reshape(-1, 1, 1, 1)) + q.past[:, 0]

    model = known(method, v, None if method.heads == 1 else constant(0.0), context=1, actions=ACTIONS, eps=0.0)
    first = torch.stack([images(3, seed=1), images(3)], dim=1)
    rows = [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]
    together = next(stream(model, first, actions=[rows], generators=generators(3), solver=Solver()))
    assert len(set(together.nfe.tolist())) > 1
    for i, generator in enumerate(generators(3)):
        alone = next(stream(model, first[i : i + 1], actions=[rows[i]], generators=[generator], solver=Solver()))
        assert torch.allclose(together.x[i], alone.x[0], atol=1e-6)
        assert together.nfe[i] == alone.nfe[0]


def test_frames_in_between_are_cleaned_under_the_conditions_of_their_frame():
    model = adding(BIFLOW)
    list(islice(stream(model, images(), in_between=2, eps=0.2, actions=repeat([1, 0])), 2))
    assert all(query.action is not None and query.past is not None for query in model.network.queries)


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        ([1.0], "The action of frame 1 must be 2 numbers, or 2 for each of the 2 samples"),
        (torch.zeros(3, 2), "The action of frame 1 must be 2 numbers, or 2 for each of the 2 samples"),
        ([[1.0], [1.0, 2.0]], "The action of frame 1 must be 2 numbers"),
        (["forward", "left"], "The action of frame 1 must be 2 numbers"),
        (5, "The action of frame 1 must be 2 numbers"),
        ([3.0, 0.0], "frame 1 has move 3, but its range is 0 to 2"),
        ([[0.0, 0.0], [0.0, float("nan")]], "The action 1 of frame 1 has turn nan"),
    ],
)
def test_an_action_that_does_not_fit_is_refused_in_a_sentence(action, sentence):
    with pytest.raises(UserError, match=sentence):
        next(stream(adding(), images(), actions=[action]))


def test_a_model_without_actions_refuses_them():
    with pytest.raises(UserError, match="This model takes no actions"):
        stream(known(FLOW, constant(0.0)), images(), actions=[[0.0]])


def test_memory_does_not_grow():
    model = adding()
    frames = drain(stream(model, images(1), solver=EULER, generators=sample_generators(0, [0])))
    for _ in range(50):
        next(frames)
        model.network.queries[:-1] = []
    assert model.network.queries[-1].past.shape == (1, 2, 3, 4, 4)
