"""A dream alone: no threads, no viewers."""

from dataclasses import replace
from threading import Event

import numpy as np
import pytest
import torch

from biflow.config import Solver
from biflow.errors import UserError
from biflow.methods import BIFLOW, FLOW
from biflow.methods.biflow import BiFlow
from biflow.model import Model
from biflow.rollout import sample_generators, stream
from biflow.serve.controls import initial
from biflow.serve.dream import Dream, Stale
from biflow.serve.models import Served, warm_up
from biflow.serve.wire import framed, unpack
from biflow.solvers import SolverError
from biflow.video import to_float, to_uint8
from tests.rollout.known import GREY, grey_world

STEPS = {"solver": "midpoint", "steps": 2}


@pytest.fixture
def controls(models):
    return replace(initial(models), **STEPS)


@pytest.fixture
def dream(models, controls):
    dream = Dream(models)
    dream.begin(models["bi"].first[0], controls)
    return dream


def advance(dream, frames, controls):
    """The next frames."""
    return [dream.advance(controls) for _ in range(frames)]


def equal(one, two):
    return len(one.pictures) == len(two.pictures) and all(map(torch.equal, one.pictures, two.pictures))


def replaced(dream, name, network):
    """Give a model of the dream another network."""
    served = dream.models[name]
    dream.models = {**dream.models, name: replace(served, model=replace(served.model, network=network))}


def test_the_first_frame_is_the_picture_itself(dream, models):
    assert torch.equal(dream.now.pictures[0], models["bi"].first[0, -1])
    assert (dream.now.id, dream.now.index, dream.now.time, dream.now.nfe, dream.solved) == (1, 0, 0.0, [0], 0)


def test_frames_are_those_of_rollout_stream_with_noise_by_seed_and_index(dream, models, controls):
    x = to_float(models["bi"].first[0])
    for index, moment in enumerate(advance(dream, 3, replace(controls, seed=7))):
        generators = sample_generators(7, [index])
        x = next(stream(models["bi"].model, x, generators=generators, solver=Solver("midpoint", steps=2))).x
        assert torch.equal(moment.pictures[0], to_uint8(x)[0])
        assert (moment.index, moment.time, moment.nfe) == (index + 1, index + 1, [4])
        assert moment.seconds > 0
    assert dream.solved == 3


def test_a_running_stream_is_continued_and_other_settings_start_a_new_one(dream, controls, monkeypatch):
    started = []

    def counted(model, first, **settings):
        started.append(settings)
        return stream(model, first, **settings)

    monkeypatch.setattr("biflow.serve.dream.stream", counted)
    advance(dream, 3, controls)
    advance(dream, 2, replace(controls, seed=5, format="png", fps_cap=3.0, playing=False))
    assert len(started) == 1
    advance(dream, 2, replace(controls, eps=0.3))
    assert [settings["eps"] for settings in started] == [0.1, 0.3]
    dream.go_back(dream.past[0].id)
    advance(dream, 1, replace(controls, eps=0.3))
    assert len(started) == 3
    advance(dream, 1, replace(controls, eps=1.0))
    advance(dream, 1, replace(controls, eps=1.0, auto=True))
    advance(dream, 1, replace(controls, eps=1.0))
    assert [isinstance(settings["eps"], float) for settings in started[3:]] == [True, False, True]


def test_going_back_and_on_gives_the_same_frames(dream, controls):
    first = advance(dream, 4, controls)
    back = dream.go_back(first[1].id)
    assert equal(back, first[1])
    assert (back.index, back.time, back.id) == (2, 2.0, first[-1].id + 1)
    again = advance(dream, 2, controls)
    assert [(moment.index, moment.time) for moment in again] == [(3, 3.0), (4, 4.0)]
    for one, two in zip(first[2:], again, strict=True):  # it continues from what was shown, in 256 levels
        assert np.abs(one.pictures[0].numpy().astype(int) - two.pictures[0].numpy()).max() <= 3
    dream.go_back(back.id)
    assert all(map(equal, again, advance(dream, 2, controls)))


def test_going_back_to_a_frame_that_is_not_kept_changes_nothing(dream, controls):
    advance(dream, 1, controls)
    now = dream.now
    with pytest.raises(UserError, match="no longer kept"):
        dream.go_back(10**9)
    assert dream.now is now


def test_time_runs_backward_from_the_frame_on_screen_and_forward_again(dream, controls):
    moments = advance(dream, 3, controls) + advance(dream, 4, replace(controls, direction="backward"))
    moments += advance(dream, 3, replace(controls, in_between=2))
    assert [moment.time for moment in moments] == [1, 2, 3, 2, 1, 0, -1, -0.5, 0, 0.5]
    assert [moment.index for moment in moments] == list(range(1, 11))


def test_both_streams_get_the_same_noise(dream, models, controls):
    two = replace(controls, two_up=True, eps=0.2, eps_b=0.2)
    assert all(
        torch.equal(*moment.pictures) for moment in advance(dream, 2, two)
    )  # the second begins where the first is
    dream.begin(models["bi"].first[0], two)
    assert len(dream.now.pictures) == 2
    apart = advance(dream, 2, replace(two, eps_b=0.0))
    assert all((one != other).any() for one, other in (moment.pictures for moment in apart))
    assert all(len(moment.nfe) == 2 for moment in apart)


def test_a_model_of_another_size_resizes_the_frame_on_screen(dream, controls):
    advance(dream, 1, controls)
    large = dream.advance(replace(controls, model="large"))
    assert (large.pictures[0].shape, large.index) == ((3, 24, 24), 2)
    two = dream.advance(replace(controls, two_up=True, model_b="large", eps_b=0.1))
    assert [picture.shape[-1] for picture in two.pictures] == [16, 24]
    dream.begin(torch.full((1, 3, 40, 30), 200, dtype=torch.uint8), replace(controls, model="large"))
    assert (dream.now.pictures[0].shape, dream.now.pictures[0].unique().tolist()) == ((3, 24, 24), [200])


def test_every_method_streams_also_beside_another(dream, models, controls):
    for name, served in models.items():
        moment = dream.advance(replace(controls, model=name, eps=served.eps, two_up=True, model_b="con"))
        assert moment.nfe == [4, 4]
        assert dream.advance(replace(controls, model=name, eps=served.eps)).nfe == [4]


@pytest.mark.parametrize("two_up", [False, True])
def test_a_stale_frame_leaves_the_dream_as_it_was(dream, models, controls, two_up):
    controls = replace(controls, two_up=two_up, eps_b=0.3)
    other = Dream(models)
    other.begin(models["bi"].first[0], controls)
    dream.begin(models["bi"].first[0], controls)
    assert all(map(equal, advance(dream, 2, controls), advance(other, 2, controls)))
    past, asked = list(dream.past), []
    calls = 6 if two_up else 3  # with two streams, the second one is stale after the first has been solved
    with pytest.raises(Stale):
        dream.advance(controls, unwanted=lambda: asked.append(1) or len(asked) == calls)
    assert len(asked) == calls
    assert (list(dream.past), dream.solved) == (past, 2)
    assert all(map(equal, advance(dream, 2, controls), advance(other, 2, controls)))
    assert dream.now.index == 4


def test_a_frame_that_cannot_be_solved_is_named_and_the_next_one_can(dream, controls, monkeypatch):
    advance(dream, 2, controls)
    now = dream.now

    def fail(*_, **__):
        raise SolverError("NaN or inf in the step of sample 0.")

    with monkeypatch.context() as patch:
        patch.setattr("biflow.methods.method.solve", fail)
        with pytest.raises(UserError, match=r"Frame 3 could not be solved: NaN"):
            dream.advance(controls)
    assert dream.now is now
    assert dream.advance(controls).index == 3


def test_an_error_of_the_network_is_passed_on(dream, controls):
    network = dream.models["bi"].model.network

    def broken(query):
        raise RuntimeError("no")

    replaced(dream, "bi", broken)
    with pytest.raises(RuntimeError):
        dream.advance(controls)
    replaced(dream, "bi", network)
    assert dream.advance(controls).index == 1


def test_the_past_is_bounded_by_frames_and_by_bytes(dream, controls, monkeypatch):
    euler = replace(controls, solver="euler", steps=1)
    monkeypatch.setattr("biflow.serve.dream.PAST_BYTES", 5 * 16 * 16 * 3)
    advance(dream, 9, euler)
    assert [moment.index for moment in dream.past] == [5, 6, 7, 8, 9]
    assert len({moment.id for moment in dream.past}) == 5
    monkeypatch.setattr("biflow.serve.dream.PAST_BYTES", 1)
    advance(dream, 2, euler)
    assert [moment.index for moment in dream.past] == [11]
    dream.clear()
    assert not dream.past


def test_drift_is_measured_now_and_then_over_that_of_first_frames():
    model = Model(grey_world(), BIFLOW, (3, 8, 8), eps=0.1)
    first = torch.stack([GREY + 20, GREY + 40])[:, None]  # so that the mean drift is that of grey + 30
    served = {"grey": Served("grey", model, first), "flow": Served("flow", replace(model, method=FLOW), first)}
    dream, kept = Dream(served), replace(initial(served), eps=0.0, eps_b=0.1, solver="euler", steps=1, two_up=True)
    dream.begin(first[1], kept)
    moments = advance(dream, 18, kept)
    assert [moment.index for moment in moments if moment.drift] == [1, 17]
    for moment in moments[0], moments[16]:
        assert moment.drift == pytest.approx([4 / 3, 0.0], abs=0.01)  # with noise, the second stream is grey at once
        header, _ = unpack(framed(moment, "png", 1))
        assert header["drift"] == [round(value, 3) for value in moment.drift]
    assert "drift" not in unpack(framed(moments[1], "png", 1))[0]
    assert "eps" not in header
    assert served["flow"].drift(GREY) is None
    assert replace(served["grey"], first=first[:0]).drift(GREY) is None


def test_a_method_that_takes_noise_but_learns_none_is_served_without_a_drift():
    class Deaf(BiFlow):
        def noise(self, network, x, alpha, *, conditions):
            return None

    one = Served("deaf", Model(grey_world(), Deaf(), (3, 8, 8), eps=0.1), GREY[None, None])
    warm_up(one, Event())
    assert one.drift(GREY) is None
    dream, controls = Dream({"deaf": one}), replace(initial({"deaf": one}), solver="euler", steps=1)
    dream.begin(one.first[0], controls)
    assert advance(dream, 1, controls)[0].drift is None
    with pytest.raises(UserError, match="learns no noise"):
        dream.advance(replace(controls, auto=True))


def test_a_level_that_is_chosen_outlives_its_stream_but_not_its_picture(dream, models, controls):
    auto = replace(controls, auto=True)
    levels = [moment.eps for moment in advance(dream, 17, auto)]
    assert levels[:16] == pytest.approx([0.1] * 16)
    assert levels[16] != pytest.approx(0.1)
    assert advance(dream, 1, replace(auto, rtol=0.5))[0].eps == levels[16]
    assert unpack(framed(dream.now, "png", 1))[0]["eps"] == round(levels[16], 3)
    assert advance(dream, 1, controls)[0].eps is None
    dream.begin(models["bi"].first[1], auto)
    assert advance(dream, 1, auto)[0].eps == pytest.approx(0.1)
