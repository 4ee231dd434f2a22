import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus

from biflow.paths import Fields
from biflow.serve import app as app_module
from biflow.serve.app import app
from biflow.serve.batching import Batcher
from biflow.serve.guard import Guard, Rate
from tests.serve.helpers import Client, running, until


def png(value=200, side=16):
    file = io.BytesIO()
    Image.new("RGB", (side, side), (value,) * 3).save(file, "PNG")
    return file.getvalue()


def test_hello_then_frames_that_differ(server):
    with Client(server.address) as client:
        hello = client.read()
        assert hello["type"] == "hello"
        assert hello["new"]
        assert [model["name"] for model in hello["models"]] == ["bi", "flow", "large"]
        assert all(len(model["first"]) == 3 for model in hello["models"])
        for _ in range(5):
            client.until("frame")
        assert len({picture.tobytes() for _, (picture,) in client.frames}) == len(client.frames) == 5
        assert "/tmp" not in str(hello)


def test_a_client_that_does_not_acknowledge_gets_two_frames(server):
    with Client(server.address) as client:
        client.read()
        received = 0
        with contextlib.suppress(TimeoutError):
            while received < 9:
                received += isinstance(client.link.recv(0.7), bytes)
        assert received == 2


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
        until(lambda: int(client.frames[-1][1][0].mean()) == 77 or client.until("frame"))
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
        told = client.until("recording", on=False)
        answer = httpx.get(f"http://{server.address}/recording/{name}/{told['name']}")
        assert answer.headers["content-type"] == "video/mp4"
        with av.open(io.BytesIO(answer.content)) as container:
            assert len(list(container.decode(video=0))) == told["frames"] >= 3
        assert httpx.get(f"http://{server.address}/recording/{name}/other.mp4").status_code == 404
        assert httpx.get(f"http://{server.address}/recording/{name}/..%2f..%2fetc%2fpasswd").status_code == 404
        path = server.hall.sessions[name].recorder.find(told["name"])
        assert path.exists()
    server.hall.dismiss(server.hall.sessions[name])
    until(lambda: not path.parent.exists())


@pytest.mark.parametrize(
    ("rubbish", "told"),
    [
        ("not json", "no JSON"),
        ("[" * 3000, "no JSON"),
        ("[]", "JSON object"),
        ("{}", "type must be"),
        ('{"type": ["set"]}', "type must be"),
        ("x" * 10_000, "characters"),
        ('{"type": "restart", "first": 99}', "no first frame 100"),
        ('{"type": "restart", "first": "0"}', "whole number"),
        ('{"type": "back", "frame": null}', "whole number"),
        (b"PK\x03\x04", "PNG, JPEG, WebP or GIF"),
        (bytes(4 * 2**20 + 1), "MB"),
    ],
)
def test_rubbish_is_answered_with_a_sentence(server, rubbish, told):
    with Client(server.address) as client:
        client.read()
        client.send(rubbish)
        assert told in client.until("error")["text"]
        client.until("frame")


def test_a_message_beyond_all_limits_or_a_flood_ends_the_connection_only(server):
    with Client(server.address) as other:
        other.read()
        with Client(server.address) as client:
            client.read()
            client.send(bytes(6 * 2**20))
            with pytest.raises(ConnectionClosed):
                client.until("nothing")
        with Client(server.address) as client:
            client.read()
            with contextlib.suppress(ConnectionClosed):
                client.send(*["{}"] * 20_000)
            with pytest.raises(ConnectionClosed):
                client.until("nothing")
        other.until("frame")


def test_another_origin_or_host_is_refused(server):
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "http://127.0.0.1:1"}, {"Origin": "null"}):
        with pytest.raises(InvalidStatus):
            Client(server.address, **headers)
    assert httpx.get(f"http://{server.address}/", headers={"Host": "evil.example"}).status_code == 421
    with Client(server.address, Origin=f"http://{server.address}") as client:
        assert client.read()["type"] == "hello"


def test_the_page_comes_whole_and_nothing_else_does(server):
    page = httpx.get(f"http://{server.address}/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("page.js", "page.css"):
        assert name in page.text
        assert httpx.get(f"http://{server.address}/{name}").status_code == 200
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    for path in ("/../app.py", "/..%2fapp.py", "/%2e%2e/app.py", "/docs", "/openapi.json", "/page/", "//etc/passwd"):
        assert httpx.get(f"http://{server.address}{path}").status_code in (404, 405)


def test_a_token_is_said_once_and_kept_in_a_cookie(folders):
    with running(app({"bi": folders["bi"]}, token="wörd")) as address:
        with httpx.Client(base_url=f"http://{address}") as browser:
            assert browser.get("/").status_code == 401
            assert browser.get("/healthz").status_code == 200
            answer = browser.get("/?token=wörd&session=abc")
            assert (answer.status_code, answer.headers["location"]) == (303, "/?session=abc")
            assert browser.get("/page.js").status_code == 200
        for query in ("", "?token=other"):
            with pytest.raises(InvalidStatus):
                Client(address, query)
        with Client(address, "?token=w%C3%B6rd") as client:
            assert client.read()["type"] == "hello"


def test_sessions_and_viewers_have_a_limit_and_idle_ones_make_room(server, monkeypatch):
    monkeypatch.setattr(app_module, "SESSIONS", 2)
    monkeypatch.setattr(app_module, "VIEWERS", 1)
    for session in list(server.hall.sessions.values()):
        server.hall.dismiss(session)
    with Client(server.address) as one, Client(server.address) as two:
        name = one.read()["session"]
        two.read()
        with Client(server.address, f"?session={name}") as third:
            assert "viewers already" in third.read()["text"]
        with Client(server.address) as third:
            assert "in use" in third.read()["text"]
        two.link.close()
        until(lambda: any(not session.viewers for session in server.hall.sessions.values()))
        with Client(server.address) as third:
            assert third.read()["type"] == "hello"
            assert len(server.hall.sessions) == 2


def test_nobody_is_let_in_before_the_model_is_warm(folders, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(app_module, "warm_up", lambda served: go.wait(30))
    guarded = app({"bi": folders["bi"]})
    seen = []

    def look():
        while not seen:
            time.sleep(0.05)
            with Client(address_of()) as client:
                seen.append(client.read())
        go.set()

    def address_of():
        return f"127.0.0.1:{port}"

    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    looking = threading.Thread(target=lambda: (time.sleep(1), look()))
    looking.start()
    with running(guarded, port):
        looking.join(30)
        assert seen[0] == {"type": "wait", "text": "The model is warming up."}


def test_the_rate_lets_bursts_through_and_no_floods():
    rate = Rate(rate=0.0, burst=5.0)
    assert [rate.take() for _ in range(7)] == [True] * 5 + [False] * 2
    rate.give_back()
    assert rate.take()
    assert not rate.hopeless


def test_calls_that_wait_together_are_computed_together():
    sizes, busy, free = [], threading.Event(), threading.Event()

    def fields(x, t, alpha=None, condition=None):
        busy.set()
        free.wait(10)
        sizes.append(len(x))
        return Fields(x + t.reshape(-1, 1, 1, 1), None)

    batcher = Batcher(fields, limit=4)
    found = {}

    def call(i):
        found[i] = batcher(torch.full((1, 3, 2, 2), float(i)), torch.ones(1)).v

    threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    threads[0].start()
    busy.wait(10)
    for thread in threads[1:]:
        thread.start()
    until(lambda: len(batcher._waiting) == 7)
    free.set()
    for thread in threads:
        thread.join(10)
    assert sizes == [1, 4, 2, 1]
    assert all((found[i] == i + 1).all() for i in range(8))


def test_a_failing_network_fails_its_callers_only():
    def fields(x, t, alpha=None, condition=None):
        if x.isnan().any():
            raise RuntimeError("no")
        return Fields(x, None)

    batcher = Batcher(fields)
    with pytest.raises(RuntimeError):
        batcher(torch.full((1, 1), torch.nan), torch.ones(1))
    assert batcher(torch.ones(1, 1), torch.ones(1)).v == 1


@pytest.mark.parametrize(
    ("stop", "models"),
    [(signal.SIGTERM, "bi"), pytest.param(signal.SIGINT, "bi, flow, large", marks=pytest.mark.slow)],
)
def test_the_command_serves_and_ends_within_seconds(folders, stop, models):
    folder = folders["bi"] if models == "bi" else folders["bi"].parent
    command = [sys.executable, "-m", "biflow.cli", "serve", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert f"{models} at http://127.0.0.1:" in line
        address = line.split("http://")[1].split("/")[0]
        os.environ.pop("http_proxy", None)

        def ready():
            try:
                return httpx.get(f"http://{address}/healthz").status_code == 200
            except httpx.TransportError:
                return False

        until(ready, seconds=120)
        with Client(address) as client:
            client.until("frame")
            begun = time.monotonic()
            process.send_signal(stop)
            _, errors = process.communicate(timeout=30)
            assert time.monotonic() - begun < 5
            assert "Traceback" not in errors
    finally:
        process.kill()
        process.wait()


def test_bad_words_are_refused_in_a_sentence(folders, tmp_path, capsys, monkeypatch):
    from biflow import cli

    def refused(*words):
        with pytest.raises(SystemExit) as stop:
            cli.main(["serve", *map(str, words)])
        assert stop.value.code == 2
        return capsys.readouterr().err

    assert "No model in" in refused(tmp_path)
    assert "0 to 65535" in refused(folders["bi"], "--port", 70000)
    assert "Cannot listen" in refused(folders["bi"], "--host", "256.1.1.1")
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "in use" in refused(folders["bi"], "--port", taken.getsockname()[1])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    assert "No weights" in refused(tmp_path / "broken", "--port", 0)
    monkeypatch.setitem(sys.modules, "biflow.serve.server", None)
    monkeypatch.delitem(sys.modules, "biflow.serve.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert 'pip install "biflow[serve]"' in refused(folders["bi"])


def test_the_demo_goes_live_by_a_switch(monkeypatch):
    from biflow import cli
    from biflow.sampling import shipped_model

    calls = []
    monkeypatch.setattr("biflow.serve.server.serve", lambda folder, **settings: calls.append((folder, settings)))
    for words in (["--live"], ["--live", "--port", "0"], ["--port", "0", "--live", "true"]):
        cli.main(["demo", *words])
    assert [folder for folder, _ in calls] == [shipped_model()] * 3
    assert [settings["port"] for _, settings in calls] == [8000, 0, 0]
    assert all(settings["open_page"] for _, settings in calls)


def test_the_page_names_every_control_with_a_label():
    text = (app_module.PAGE / "index.html").read_text()
    assert text.count("<h1") == 1
    assert 'lang="en"' in text
    assert isinstance(app({}), Guard)
    assert np.all([f'id="{name}"' in text for name in ("eps", "solver", "steps", "rtol", "fps_cap", "seed", "model")])
