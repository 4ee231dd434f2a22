"""A recording and its actions: what it takes to stream the same frames again."""

import base64
import io
import json

import av
import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from biflow.config import Solver
from biflow.drift import AutoEps
from biflow.rollout import frame_seed, stream
from biflow.video import to_float, to_uint8
from tests.serve.helpers import Client, play, told

LEFT = {"turn": -1.0}


@pytest.fixture
def session(shared):
    return shared


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
    assert Solver(**made["solver"]) == Solver("midpoint", steps=2)
    assert not made["changed"]
    first = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in made["first"]]
    start = to_float(torch.from_numpy(np.stack(first)).permute(0, 3, 1, 2))[None]
    assert start.shape == (1, 3, 3, 16, 16)
    generator = torch.Generator()
    actions = [None if values is None else np.array(values, np.float32) for values in content["actions"]]
    how = {"actions": actions, "generators": [generator], "eps": made["eps"], "context_eps": made["context_eps"]}
    frames = stream(steered["walk"].model, start, solver=Solver(**made["solver"]), **how)
    for index, moment in enumerate(moments):
        generator.manual_seed(frame_seed(made["seed"], made["index"] + index))
        assert torch.equal(to_uint8(next(frames).x)[0], moment.pictures[0])
    assert len(moments) == 8


def test_a_recording_of_a_level_that_is_chosen_gives_the_same_frames_again(session, steered):
    session.change({"auto": True, "seed": 3})
    play(session, 20)  # so that another level has been chosen before
    content, moments = record(session, lambda: play(session, 18))
    made = content["recording"]
    assert made["eps"] == "auto"
    assert [moment.eps for moment in moments[:16]] == pytest.approx([0.1] * 16)
    assert moments[16].eps == moments[17].eps != moments[0].eps
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in made["first"]]
    start = to_float(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))[None]
    auto = AutoEps(steered["walk"].model, 1, torch.tensor([made["real_drift"]]))
    assert made["real_drift"] == pytest.approx(steered["walk"].real_drift(start[:, -1]).item())
    generator, how = torch.Generator(), {"eps": auto, "context_eps": made["context_eps"]}
    actions = [None if values is None else np.array(values, np.float32) for values in content["actions"]]
    how |= {"actions": actions, "generators": [generator], "solver": Solver(**made["solver"])}
    frames = stream(steered["walk"].model, start, **how)
    for index, moment in enumerate(moments):
        generator.manual_seed(frame_seed(made["seed"], made["index"] + index))
        assert torch.equal(to_uint8(next(frames).x)[0], moment.pictures[0])


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
    assert not session._unwanted(session.controls, None)
    session.record(False)
    play(session, 0)
    session._hurry = True
    assert session._unwanted(session.controls, None)


def test_models_without_actions_record_no_actions(session):
    session.change({"model": "bi"})
    session.record(True)
    play(session, 2)
    session.record(False)
    play(session, 0)
    ended = told(session.viewers[0], "recording")[-1]
    assert (ended["frames"], ended["actions"]) == (2, None)


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
