import contextlib
import io
import json
import re
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from biflow.errors import UserError
from biflow.serve import hall as hall_module
from biflow.serve.app import PAGE, app
from biflow.serve.guard import Guard
from biflow.serve.images import MAX_BYTES
from biflow.serve.viewer import CREDITS
from tests.serve.helpers import Client, png, running, until


def test_hello_then_frames_that_differ(server):
    with Client(server.address) as client:
        hello = client.read()
        assert hello["type"] == "hello"
        assert hello["new"]
        assert [model["name"] for model in hello["models"]] == ["bi", "flow", "large", "con"]
        assert all(len(model["first"]) == 3 for model in hello["models"])
        assert [model["method_title"] for model in hello["models"]] == ["BI-FLOW", "FLOW", "BI-FLOW", "CONDIFF"]
        assert hello["models"][1]["method"] == "flow"
        can = {model["name"]: model["can"] for model in hello["models"]}
        assert can["bi"] == {"eps": True, "backward": True, "in_between": True}
        assert can["flow"] == {"eps": False, "backward": True, "in_between": True}
        assert can["con"] == {"eps": False, "backward": False, "in_between": False}
        assert hello["formats"] == ["jpeg", "webp", "png"]
        assert set(hello["need_steps"]) | set(hello["no_steps"]) < set(hello["solvers"])
        for _ in range(5):
            client.until("frame")
        assert len({picture.tobytes() for _, (picture,) in client.frames}) == len(client.frames) == 5
        assert "/tmp" not in str(hello)


def test_a_client_that_does_not_acknowledge_gets_one_frame_and_later_two(server):
    with Client(server.address) as client:
        session = server.hall.sessions[client.read()["session"]]
        (viewer,) = session.viewers
        assert isinstance(client.link.recv(120), bytes)
        until(lambda: not viewer.hungry and session.idle)
        assert session.dream.solved == 0  # nothing is solved for who may never look
        client.send({"type": "ack"})
        assert all(isinstance(client.link.recv(120), bytes) for _ in range(CREDITS))
        until(lambda: not viewer.hungry and session.idle)  # the next one is solved, but there is no credit to send it
        client.send({"type": "ping", "at": 1})
        assert json.loads(client.link.recv(120)) == {"type": "pong", "at": 1}
        client.send({"type": "ack"})
        assert isinstance(client.link.recv(120), bytes)


def test_viewers_share_a_session_and_its_controls(server):
    with Client(server.address) as one:
        name = one.read()["session"]
        with Client(server.address, f"?session={name}") as two:
            hello = two.read()
            assert (hello["session"], hello["new"]) == (name, False)
            two.send({"type": "set", "controls": {"eps": 0.3, "playing": False}})
            assert one.until("controls")["controls"]["eps"] == 0.3
            assert two.until("controls")["controls"]["eps"] == 0.3
            two.send({"type": "step"})
            seen = one.until("frame", version=2)
            two.until("frame", id=seen["id"])


def test_upload_restart_back_and_ping(server):
    with Client(server.address) as client:
        client.read()
        client.send({"type": "set", "controls": {"playing": False, "format": "png"}}, png(77))
        client.until("frame", index=0, format="image/png")
        client.until_grey(77)
        client.send({"type": "step"})
        step = client.until("frame", index=1)
        client.send({"type": "restart", "first": 2})
        client.until("frame", index=0)
        client.send({"type": "back", "frame": step["id"]})
        client.until("frame", index=1)
        client.send({"type": "ping", "at": 12.5})
        assert client.until("pong")["at"] == 12.5


def test_record_downloads_an_mp4(server):
    import av

    with Client(server.address) as client:
        name = client.read()["session"]
        client.send({"type": "record", "on": True})
        client.until("recording", on=True)
        for _ in range(4):
            client.until("frame")
        client.send({"type": "record", "on": False})
        done = client.until("recording", on=False)
        answer = httpx.get(f"http://{server.address}/recording/{name}/{done['name']}")
        assert answer.headers["content-type"] == "video/mp4"
        with av.open(io.BytesIO(answer.content)) as container:
            assert len(list(container.decode(video=0))) == done["frames"] >= 3
        assert httpx.get(f"http://{server.address}/recording/{name}/other.mp4").status_code == 404
        assert httpx.get(f"http://{server.address}/recording/{name}/..%2f..%2fetc%2fpasswd").status_code == 404
        path = server.hall.sessions[name].recorder.find(done["name"])
        assert path.exists()
    server.hall.dismiss(server.hall.sessions[name])
    until(lambda: not path.parent.exists())


@pytest.mark.parametrize(
    ("rubbish", "sentence"),
    [
        ("not json", "not valid JSON"),
        ("[" * 3000, "not valid JSON"),
        ("[]", "JSON object"),
        ("{}", "must be ack, set"),
        ('{"type": ["set"]}', "must be ack, set"),
        ("x" * 10_000, "characters"),
        ('{"type": "restart", "first": 99}', "no first frame 100"),
        ('{"type": "restart", "first": "0"}', "whole number"),
        ('{"type": "back", "frame": null}', "whole number"),
        (b"PK\x03\x04", "PNG, JPEG, WebP or GIF"),
        (bytes(MAX_BYTES + 1), "32 MB"),
    ],
)
def test_rubbish_is_answered_with_a_sentence(server, rubbish, sentence):
    with Client(server.address) as client:
        client.read()
        client.send(rubbish)
        assert sentence in client.until("error")["text"]
        client.until("frame")


def test_a_message_beyond_all_limits_or_a_flood_ends_the_connection_only(server):
    with Client(server.address) as other:
        other.read()
        with Client(server.address) as client:
            client.read()
            with contextlib.suppress(ConnectionClosed):
                client.send(bytes(MAX_BYTES + 2**20 + 1))
            with pytest.raises(ConnectionClosed):
                client.until("nothing")
        with Client(server.address) as client:
            client.read()
            with contextlib.suppress(ConnectionClosed):
                client.send(*["{}"] * 20_000)
            with pytest.raises(ConnectionClosed):
                client.until("nothing")
        other.until("frame")


def test_the_last_seconds_are_an_mp4(server):
    import av

    with Client(server.address) as client:
        name = client.read()["session"]
        client.send({"type": "set", "controls": {"fps_cap": None}})
        while len(client.frames) < 8:
            client.read()
        client.send(
            {"type": "set", "controls": {"playing": False, "fps_cap": 1}}
        )  # so that five frames are five seconds
        client.until("controls")
        answer = httpx.get(f"http://{server.address}/clip/{name}")
        assert answer.headers["content-type"] == "video/mp4"
        with av.open(io.BytesIO(answer.content)) as container:
            assert container.streams.video[0].average_rate == 1
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        shown = [moment.pictures[0] for moment in list(server.hall.sessions[name].dream.past)[-5:]]
        assert [frame.shape for frame in frames] == [(512, 512, 3)] * 5
        for frame, picture in zip(frames, shown, strict=True):
            assert np.abs(frame[16::32, 16::32].astype(int) - picture.permute(1, 2, 0).numpy()).mean() < 30
    assert httpx.get(f"http://{server.address}/clip/nobody").status_code == 404


def test_the_page_comes_whole_and_nothing_else_does(server):
    page = httpx.get(f"http://{server.address}/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    files = {path.name for path in PAGE.iterdir()}
    assert {"main.js", "page.css", "index.html"} < files
    for name in files:
        answer = httpx.get(f"http://{server.address}/{name}")
        assert answer.status_code == 200
        kinds = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
        assert answer.headers["content-type"].startswith(kinds[Path(name).suffix])
        modules = re.findall(r'^import .* from "\./(.*)";$', answer.text, re.MULTILINE)
        assert files >= set(modules)
        assert len(modules) == answer.text.count("\nimport ")
    assert all(name in page.text for name in ("main.js", "page.css"))
    assert f'<meta property="og:image" content="http://{server.address}/preview.png">' in page.text
    assert "http://" not in page.text.replace("http://www.w3.org", "").replace(f"http://{server.address}", "")
    for path in ("/../app.py", "/..%2fapp.py", "/%2e%2e/app.py", "/docs", "/openapi.json", "/page/", "//etc/passwd"):
        assert httpx.get(f"http://{server.address}{path}").status_code in (404, 405)


def test_sessions_and_viewers_have_a_limit_and_idle_ones_make_room(server, monkeypatch):
    monkeypatch.setattr(hall_module, "SESSIONS", 2)
    monkeypatch.setattr(hall_module, "VIEWERS", 1)
    for session in list(server.hall.sessions.values()):
        server.hall.dismiss(session)
    with Client(server.address) as one, Client(server.address) as two:
        name = one.read()["session"]
        two.read()
        with Client(server.address, f"?session={name}") as third:
            assert "already has 1 viewers" in third.read()["text"]
        with Client(server.address) as third:
            assert "in use" in third.read()["text"]
        two.link.close()
        until(lambda: any(not session.viewers for session in server.hall.sessions.values()))
        with Client(server.address) as third:
            assert third.read()["type"] == "hello"
            assert len(server.hall.sessions) == 2


def test_nobody_is_let_in_before_the_model_is_warm(folders, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(hall_module, "warm_up", lambda *_: go.wait(120))
    guarded = app({"bi": folders["bi"]})
    with running(guarded, ready=False) as address:
        answer = httpx.get(f"http://{address}/healthz")
        assert (answer.status_code, answer.json()["status"]) == (503, "warming up")
        with Client(address) as client:
            assert client.read() == {"type": "wait", "text": "The model is warming up."}
            with pytest.raises(ConnectionClosed):
                client.read()
        go.set()
        until(lambda: httpx.get(f"http://{address}/healthz").status_code == 200)
        with Client(address) as client:
            assert client.read()["type"] == "hello"


def test_a_server_that_closes_waits_for_models_that_start(folders, monkeypatch):
    monkeypatch.setattr(hall_module, "warm_up", lambda served, closing: closing.wait(120) and time.sleep(0.5))
    guarded = app({"bi": folders["bi"]})
    hall = guarded.app.state.hall
    with running(guarded, ready=False):
        assert not hall.prepared.is_set()
    assert hall.prepared.is_set()
    assert not hall.ready


def test_a_model_that_cannot_be_started_is_said_without_its_path(folders, monkeypatch):
    def fail(*_):
        raise UserError(f"{folders['bi']} is broken.")

    monkeypatch.setattr(hall_module, "warm_up", fail)
    guarded = app({"bi": folders["bi"]})
    with running(guarded, ready=False) as address:
        assert guarded.app.state.hall.prepared.wait(120)
        assert httpx.get(f"http://{address}/healthz").json()["status"] == "failed"
        with Client(address) as client:
            assert client.read()["text"] == "The model cannot be started."


def test_the_page_names_every_control_with_a_label():
    text = (PAGE / "index.html").read_text()
    assert text.count("<h1") == 1
    assert 'lang="en"' in text
    assert isinstance(app({}), Guard)
    assert np.all([f'id="{name}"' in text for name in ("eps", "solver", "steps", "rtol", "fps_cap", "seed", "model")])
