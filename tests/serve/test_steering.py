"""Who steers a session, and what an action may be."""

from dataclasses import replace

import numpy as np
import pytest

from biflow.actions import from_json
from biflow.errors import UserError
from biflow.moments import Moments, look
from biflow.serve.session import Session
from biflow.serve.steering import PATIENCE, description, pressed, row
from tests.serve.helpers import Client, Watching, play, told, until

LEFT, RIGHT = {"turn": -1.0}, {"turn": 1.0}


@pytest.fixture
def session(shared):
    return shared


@pytest.fixture
def clock(monkeypatch):
    """The time of `time.monotonic`, to be set."""
    now = [1000.0]
    monkeypatch.setattr("biflow.serve.session.time.monotonic", lambda: now[0])
    return now


def test_the_model_goes_on_by_itself_until_somebody_acts(session, clock):
    one, two = session.viewers
    assert play(session, 2) == [None, None]
    session.act(one, LEFT)
    assert play(session, 2) == [LEFT, LEFT]
    session.act(one, {})
    assert play(session) == [{}]
    clock[0] += PATIENCE - 1
    session.act(one, {"move": 0.5})
    clock[0] += 10 * PATIENCE  # held, however long
    assert play(session) == [{"move": 0.5}]
    session.act(one, {})
    clock[0] += PATIENCE - 0.1
    assert play(session) == [{}]
    clock[0] += 0.2
    assert play(session) == [None]
    expected = [{"by": 1, "autopilot": False}, {"by": None, "autopilot": True}]
    for viewer in (one, two):
        assert told(viewer, "steering") == [{"type": "steering", **message} for message in expected]


def test_until_somebody_acts_it_does_what_was_done_in_the_clips(steered, clock):
    walk = steered["walk"]
    rows = np.array([[[1, 0.5, 0], [0, 0, 0], [0, -1, 0]], [[0.5, 0, 0]] * 3], np.float32)
    moments = Moments(look(walk.first[:2, -1]), rows)  # as if the first two first frames were these moments
    session, viewer = Session("test", {**steered, "walk": replace(walk, moments=moments)}), Watching()
    session.join(viewer)
    session.change({"solver": "midpoint", "steps": 1})
    done = [{"move": 1.0, "turn": 0.5}, {}, LEFT]
    assert play(session, 3) == done
    session.go_back(list(session.dream.past)[-2].id)  # in the middle of what it does
    assert play(session) == [LEFT]
    session.restart(1)
    assert play(session, 2) == [{"move": 0.5}] * 2
    session.act(viewer, RIGHT)
    assert play(session) == [RIGHT]
    session.act(viewer, {})
    clock[0] += PATIENCE
    session.restart(0)
    session.change({"in_between": 2})
    assert play(session, 4) == [done[0], done[0], done[1], done[1]]
    session.change({"direction": "backward"})
    assert play(session) == [None]
    session.change({"direction": "forward", "model": "bi"})
    assert play(session) == [None]
    session.recorder.close()


def test_one_viewer_steers_until_it_rests_or_leaves(session, clock):
    one, two = session.viewers
    session.act(one, LEFT)
    with pytest.raises(UserError, match="Another viewer steers"):
        session.act(two, RIGHT)
    assert session.act(two, {}) == []  # the end of what was refused
    assert play(session) == [LEFT]
    session.act(one, {})
    clock[0] += PATIENCE
    session.act(two, RIGHT)
    assert play(session) == [RIGHT]
    session.leave(two)
    assert play(session) == [None]
    session.act(one, LEFT)
    assert [message["by"] for message in told(one, "steering")] == [1, None, 2, None, 1]
    late = Watching()
    session.join(late)
    assert told(late, "steering") == [{"type": "steering", "by": 1, "autopilot": False}]


def test_a_worker_without_frames_to_solve_notices_that_nothing_is_pressed(session, monkeypatch):
    monkeypatch.setattr("biflow.serve.steering.PATIENCE", 0.05)
    one, _ = session.viewers
    session.change({"playing": False})
    session.act(one, {})
    session.start()
    until(lambda: session.steering.holder is None)
    assert told(one, "steering")[-1]["autopilot"]
    session.close()
    session.wait_closed()


def test_another_model_ends_steering_and_one_without_actions_refuses_them(session):
    one, _ = session.viewers
    session.act(one, LEFT)
    session.change({"model": "bi"})
    assert told(one, "steering")[-1]["autopilot"]
    assert play(session) == [None]
    with pytest.raises(UserError, match="takes no actions"):
        session.act(one, LEFT)


def test_a_key_gives_up_the_frame_being_solved_unless_its_own_action_is_new(session):
    one, _ = session.viewers
    play(session)
    served, calls = session.models["walk"], []
    keys = {2: LEFT, 5: RIGHT, 8: {}}  # pressed during these calls of the network, of which a frame takes four

    def network(query):
        calls.append(query)
        if len(calls) in keys:
            session.act(one, keys[len(calls)])
        return served.model.network(query)

    session.dream.models = {**session.models, "walk": replace(served, model=replace(served.model, network=network))}
    session.dream.settle()  # a new stream asks the new network
    solved = []
    for _ in range(4):
        session.advance()
        solved.append((len(calls), session.dream.now.action))
    assert solved == [(2, None), (6, LEFT), (10, RIGHT), (14, {})]


@pytest.mark.parametrize(
    ("wanted", "taken", "note"),
    [
        ({"move": 1, "turn": -0.5}, {"move": 1.0, "turn": -0.5}, ""),
        ({"move": 0, "jump": 0}, {}, ""),
        ({"move": 7}, {"move": 1.0}, "move goes from -1 to 1: took 1."),
        ({"jump": -1}, {}, "jump goes from 0 to 2: took 0."),
        ({"move": 10**400}, {"move": 1.0}, "took 1"),
        ({"move": float("inf")}, {"move": 1.0}, "took 1"),
        ({"move": float("nan"), "turn": 1}, {"turn": 1.0}, "move must be a number."),
        ({"move": True}, {}, "must be a number"),
        ({"move": "1"}, {}, "must be a number"),
        ({"move": None, "jump": [2]}, {}, "must be a number"),
        ({"fly": 1, "move": 1}, {"move": 1.0}, "no action column 'fly'; the columns are move, turn, jump."),
        ({"x" * 3000: 1}, {}, "no action column"),
        ([1, 0, 0], {}, "must be an object"),
        (None, {}, "must be an object"),
    ],
)
def test_actions_are_clamped_with_a_word_back(steered, wanted, taken, note):
    held, notes = pressed(steered["walk"].model.actions, wanted)
    assert held == taken
    assert note in " ".join(notes)
    assert bool(notes) == bool(note)
    assert all(len(sentence) < 200 for sentence in notes)


def test_an_action_meant_for_another_model_keeps_the_columns_that_there_are(steered):
    actions = steered["walk"].model.actions
    assert row(actions, {"gas": 1.0, "turn": 0.5, "jump": 9.0}).tolist() == [0, 0.5, 2]


def test_the_page_is_told_names_and_arrows(steered):
    content = description(steered["walk"].model.actions)
    assert content["arrows"] == {"forward": "up", "back": "down", "left": "left", "right": "right"}
    assert (content["columns"], content["neutral"]) == (["move", "turn", "jump"], [0, 0, 0])
    assert content["keys"]["jump"] == {"jump": 2}
    twice = from_json({"columns": ["a"], "ranges": [[0, 1]], "keys": {"gas": {"a": 1}, "forward": {"a": 0.5}}}, "x")
    assert description(twice)["arrows"] == {"gas": "up"}


def test_steering_over_the_wire(steered_server):
    with Client(steered_server.address) as one:
        hello = one.read()
        assert [model["actions"] and model["actions"]["columns"] for model in hello["models"]] == [
            ["move", "turn", "jump"],
            None,
            None,
        ]
        one.until("frame", action=None)
        one.send({"type": "act", "action": {"turn": -0.5}})
        assert one.until("steering") == {"type": "steering", "by": hello["viewer"], "autopilot": False}
        one.until("frame", action={"turn": -0.5})
        one.send({"type": "act", "action": {"turn": 3, "fly": 1}})
        assert one.until("note")["text"].count(".") == 2
        one.until("frame", action={"turn": 1})
        with Client(steered_server.address, f"?session={hello['session']}") as two:
            assert two.read()["viewer"] != hello["viewer"]
            two.until("steering", by=hello["viewer"])
            two.send({"type": "act", "action": {"move": 1}})
            assert "Another viewer steers" in two.until("error")["text"]
        one.send({"type": "act"})
        assert "must be an object" in one.until("note")["text"]
        one.until("frame", action={})
