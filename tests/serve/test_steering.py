"""Who steers a session, what an action may be, and the actions of a recording."""

import base64
import io
import json

import av
import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from biflow.actions import from_json
from biflow.config import Solver
from biflow.errors import UserError
from biflow.rollout import frame_seed, stream
from biflow.serve.app import app
from biflow.serve.session import Session
from biflow.serve.steering import PATIENCE, description, pressed, row
from biflow.video import to_float, to_uint8
from tests.serve.helpers import Client, Server, Watching, running, until
from tests.serve.test_past import MIDPOINT

STEPS = {"solver": "midpoint", "steps": 2}
LEFT, RIGHT = {"turn": -1.0}, {"turn": 1.0}


@pytest.fixture
def session(steered):
    """A session without a thread, and two viewers of it."""
    session = Session("test", steered)
    for _ in range(2):
        viewer = Watching()
        viewer.number = next(session.numbers)
        session.join(viewer)
    session.change(STEPS)
    session.advance()
    yield session
    session.recorder.close()


@pytest.fixture
def clock(monkeypatch):
    """The time of `time.monotonic`, to be set."""
    now = [1000.0]
    monkeypatch.setattr("biflow.serve.session.time.monotonic", lambda: now[0])
    return now


def play(session, frames=1):
    """The actions of the next frames."""
    while session._jobs:
        session.advance()
    for _ in range(frames):
        session.advance()
    return [moment.action for moment in list(session.dream.past)[-frames:]] if frames else []


def told(viewer, kind):
    viewer.read()
    return [message for message in viewer.messages if message["type"] == kind]


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


def record(session, during):
    """What `during` shows, as a recording: the content of its JSON file and the moments in it."""
    session.record(True)
    play(session, 0)
    start = session.dream.now.id
    during()
    session.record(False)
    play(session, 0)
    ended = told(session.viewers[0], "recording")[-1]
    path = session.recorder.find(ended["actions"])
    with av.open(str(session.recorder.find(ended["name"]))) as container:
        assert len(list(container.decode(video=0))) == ended["frames"]
    content = json.loads(path.read_text())
    assert len(content["actions"]) == ended["frames"]
    return content, [moment for moment in session.dream.past if moment.id > start]


def test_a_recording_holds_what_it_takes_to_stream_the_same_frames(session, steered):
    one, _ = session.viewers
    play(session, 3)

    def steer():
        for action in (None, LEFT, {"move": 0.1, "jump": 2}, {}):
            if action is not None:
                session.act(one, action)
            play(session, 2)

    session.change({"seed": 5, "eps": 0.2})
    play(session, 2)
    content, moments = record(session, steer)
    assert (content["fps"], content["columns"]) == (10, ["move", "turn", "jump"])
    rows = [None, [0, -1, 0], [0.1, 0, 2], [0, 0, 0]]
    assert content["actions"] == [action for action in rows for _ in range(2)]
    made = content["recording"]
    assert (made["model"], made["seed"], made["index"], made["eps"], made["context_eps"]) == ("walk", 5, 5, 0.2, 0.2)
    assert (made["in_between"], made["direction"], made["engine"]) == (1, "forward", "torch")
    assert Solver(**made["solver"]) == MIDPOINT
    assert not made["changed"]
    first = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in made["first"]]
    start = to_float(torch.from_numpy(np.stack(first)).permute(0, 3, 1, 2))[None]
    assert start.shape == (1, 3, 3, 16, 16)
    generator = torch.Generator()
    actions = [None if values is None else np.array(values, np.float32) for values in content["actions"]]
    how = {"actions": actions, "generators": [generator], "eps": made["eps"], "context_eps": made["context_eps"]}
    frames = stream(steered["walk"].model, start, solver=MIDPOINT, **how)
    for index, moment in enumerate(moments):
        generator.manual_seed(frame_seed(made["seed"], made["index"] + index))
        assert torch.equal(to_uint8(next(frames).x)[0], moment.pictures[0])
    assert len(moments) == 8


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (lambda session: session.change({"eps": 0.4}), True),
        (lambda session: session.change({"seed": 4}), True),
        (lambda session: session.change({"two_up": True}), None),  # another size, so the recording ends
        (lambda session: session.restart(1), True),
        (lambda session: session.go_back(session.dream.past[0].id), True),
        (lambda session: session.change({"fps_cap": 3.0, "format": "png"}), False),
        (lambda session: session.step(), False),
    ],
    ids=["eps", "seed", "two-up", "restart", "back", "pace", "step"],
)
def test_a_recording_says_whether_more_than_actions_changed(session, change, changed):
    def during():
        play(session, 2)
        change(session)
        play(session, 2)

    content, _ = record(session, during)
    assert content["recording"]["changed"] == bool(changed)


def test_no_frame_is_given_up_while_recording(session):
    session.record(True)
    play(session, 1)
    with session._changed:
        session._hurry = True
    assert not session._unwanted(session.controls)
    session.record(False)
    play(session, 0)
    session._hurry = True
    assert session._unwanted(session.controls)


def test_models_without_actions_record_no_actions(session):
    session.change({"model": "bi"})
    session.record(True)
    play(session, 2)
    session.record(False)
    play(session, 0)
    ended = told(session.viewers[0], "recording")[-1]
    assert (ended["frames"], ended["actions"]) == (2, None)


@pytest.fixture(scope="module")
def steered_server(steered_folders):
    guarded = app(steered_folders, hosts={"127.0.0.1"})
    with running(guarded) as address:
        yield Server(address, guarded.app.state.hall)


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


def test_a_recording_offers_its_actions_and_both_files_go_with_the_session(steered_server):
    with Client(steered_server.address) as client:
        name = client.read()["session"]
        client.send({"type": "record", "on": True}, {"type": "act", "action": {"turn": 1}})
        client.until("recording", on=True)
        client.until("frame", action={"turn": 1})
        client.send({"type": "record", "on": False})
        done = client.until("recording", on=False)
        answer = httpx.get(f"http://{steered_server.address}/recording/{name}/{done['actions']}")
        assert answer.headers["content-type"] == "application/json"
        assert 'filename="biflow.json"' in answer.headers["content-disposition"]
        assert [0, 1, 0] in answer.json()["actions"]
        path = steered_server.hall.sessions[name].recorder.find(done["actions"])
        assert path == steered_server.hall.sessions[name].recorder.find(done["name"]).with_suffix(".json")
    session = steered_server.hall.sessions[name]
    steered_server.hall.dismiss(session)
    session.wait_closed()
    assert not path.exists()
