"""The command: an address, a clean end, and what is wrong in a sentence."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import psutil
import pytest

from benchmarks import bombs
from biflow import cli
from biflow.config import Serve
from biflow.errors import UserError
from biflow.model import shipped_model
from biflow.serve import accepting
from biflow.serve import server as server_module
from biflow.serve.app import app
from biflow.serve.hall import Hall
from biflow.serve.server import serve
from tests.serve.helpers import Client, until

NO_WINDOWS = pytest.mark.skipif(sys.platform == "win32", reason="it has no such signal")


@contextlib.contextmanager
def started(folder, *before, loaded=True):
    """`biflow serve` once it lets clients in, or at once, the line that it printed, and its address."""
    command = [*before, sys.executable, "-m", "biflow.cli", "serve", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        address = line.split("http://")[1].split("/")[0]
        until(lambda: not loaded or ready(address))
        yield process, line, address
    finally:
        process.kill()
        process.wait()


def ready(address):
    try:
        return httpx.get(f"http://{address}/healthz", timeout=120).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("stop", "models"),
    [
        (signal.SIGTERM, "bi"),
        pytest.param(getattr(signal, "SIGHUP", None), "bi", marks=NO_WINDOWS),
        pytest.param(signal.SIGINT, "bi, con, flow, large", marks=pytest.mark.slow),
    ],
)
def test_the_command_serves_and_ends_within_seconds(folders, stop, models, monkeypatch, tmp_path):
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONWARNINGS", "default::ResourceWarning")
    folder = folders["bi"] if models == "bi" else folders["bi"].parent
    with started(folder) as (process, line, address):
        assert f"{models} at http://127.0.0.1:" in line
        with Client(address) as client:
            client.send({"type": "record", "on": True}, bombs.progressive_jpeg())
            client.until("recording", on=True)
            client.until("frame")
            client.until("frame")
            (recordings,) = tmp_path.glob("biflow-server-*")
            children = until(lambda: psutil.Process(process.pid).children())
            begun = time.monotonic()
            process.send_signal(stop)
            _, errors = process.communicate(timeout=30)
            assert time.monotonic() - begun < 5
            assert "Traceback" not in errors
            assert "ResourceWarning" not in errors
            assert not recordings.exists()
            assert not any(child.is_running() for child in children)


def test_ctrl_c_while_models_load_ends_cleanly_and_a_second_one_does_no_harm(folders):
    with started(folders["bi"].parent, loaded=False) as (process, _, _):
        time.sleep(1)  # the line is printed before the loading begins
        process.send_signal(signal.SIGINT)
        for pause in (0.05, 0.5, 0.05):  # to the server, and while it waits for what it has begun
            time.sleep(pause)
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (130, "biflow: Stopped.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="no limit to set")
def test_connections_that_say_nothing_keep_nobody_out_where_descriptors_are_few(folders, monkeypatch):
    monkeypatch.delenv("http_proxy", raising=False)
    with started(folders["bi"], "bash", "-c", 'ulimit -n 128; exec "$0" "$@"') as (process, _, address):
        host, port = address.split(":")
        with contextlib.ExitStack() as links:
            for _ in range(300):
                links.enter_context(socket.create_connection((host, int(port)), 10))
            assert ready(address)
            with Client(address) as client:
                client.until("frame")
        process.terminate()
        assert "Traceback" not in process.communicate(timeout=30)[1]


def test_what_is_wrong_is_said_in_a_sentence_that_names_the_setting(folders, tmp_path):
    def refused(folder, **settings):
        with pytest.raises(UserError) as refusal:
            serve(Serve(folder, **settings))
        assert "--" not in str(refusal.value)
        return str(refusal.value), refusal.value.setting

    def expect(refusal, sentence, setting):
        assert sentence in refusal[0]
        assert refusal[1] == setting

    expect(refused(tmp_path), "No model in", "model")
    expect(refused(folders["bi"], token=""), "token is empty: give a secret, or leave it out.", "token")
    expect(refused(folders["bi"], port=70000), "0 to 65535", "port")
    expect(refused(folders["bi"], host="256.1.1.1"), "Cannot listen on", "host")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        expect(refused(folders["bi"], port=taken.getsockname()[1]), "is in use", "port")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    expect(refused(tmp_path / "broken", port=0), "does not describe a biflow model", None)
    sentence, setting = refused(folders["bi"], port=0, first=tmp_path / "nowhere")
    assert (str(tmp_path / "nowhere") in sentence, setting) == (True, "first")


def test_the_command_line_shows_it_and_ends_with_2(folders, tmp_path, capsys, monkeypatch):
    def refused(*words):
        with pytest.raises(SystemExit) as stop:
            cli.main(["serve", *map(str, words)])
        assert stop.value.code == 2
        return capsys.readouterr().err

    assert "No model in" in refused(tmp_path)
    assert "0 to 65535" in refused(folders["bi"], "--port", 70000)
    assert "Cannot listen" in refused(folders["bi"], "--host", "256.1.1.1")
    monkeypatch.setitem(sys.modules, "biflow.serve.server", None)
    monkeypatch.delitem(sys.modules, "biflow.serve.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert 'pip install "biflow[serve]"' in refused(folders["bi"])


def test_the_demo_goes_live_by_a_switch(monkeypatch):
    calls = []
    monkeypatch.setattr("biflow.serve.server.serve", lambda settings, **others: calls.append((settings, others)))
    for words in (["--live"], ["racing", "--live", "--port", "0"], ["--port", "0", "--live"]):
        cli.main(["demo", *words])
    expected = [Serve(shipped_model(name), port=port) for name, port in (("maze", 8000), ("racing", 0), ("maze", 0))]
    assert [settings for settings, _ in calls] == expected
    assert all(others == {"open_page": True} for _, others in calls)


def test_origins_may_be_repeated_and_stand_before_the_model(monkeypatch, folders, capsys):
    calls = []
    monkeypatch.setattr("biflow.serve.server.serve", lambda settings, **others: calls.append(settings.origin))
    cli.main(["serve", "--origin", "https://a.example", "--origin", "https://b.example", str(folders["bi"])])
    cli.main(["demo", "--live", "--origin", "https://a.example"])
    assert calls == [("https://a.example", "https://b.example"), ("https://a.example",)]
    monkeypatch.undo()
    with pytest.raises(SystemExit) as stop:
        cli.main(["serve", str(folders["bi"]), "--origin", "a.example"])
    assert (stop.value.code, "--origin is 'a.example', but must be" in capsys.readouterr().err) == (2, True)


def test_whoever_can_reach_an_open_server_is_warned_about(monkeypatch, folders, caplog):
    monkeypatch.setattr(server_module.uvicorn.Server, "run", lambda self, sockets: [one.close() for one in sockets])
    serve(Serve(folders["bi"], host="0.0.0.0", port=0))
    assert "Anyone who can reach 0.0.0.0" in caplog.text
    caplog.clear()
    serve(Serve(folders["bi"], host="0.0.0.0", port=0, token="secret"))
    serve(Serve(folders["bi"], port=0))
    assert "Anyone" not in caplog.text


@pytest.mark.parametrize(
    ("failure", "address", "opened"), [(None, "here", ["here"]), (None, None, []), (UserError("no"), "here", [])]
)
def test_the_page_opens_once_the_models_are_ready_and_a_failure_ends_the_server(monkeypatch, failure, address, opened):
    calls = []
    monkeypatch.setattr(server_module.webbrowser, "open", calls.append)
    guarded = app({})
    hall, server = guarded.app.state.hall, accepting.server(guarded)
    waiting = threading.Thread(target=server_module._when_ready, args=(server, hall, address))
    waiting.start()
    assert not calls
    hall.failure = failure
    hall.prepared.set()
    waiting.join(120)
    assert (calls, server.should_exit) == (opened, failure is not None)


def test_a_failure_that_is_nobodys_input_is_in_the_log_only(monkeypatch, folders, caplog):
    monkeypatch.setattr("biflow.serve.hall.warm_up", lambda *_: 1 / 0)
    hall = Hall()
    hall.prepare({"bi": folders["bi"]}, None)
    assert hall.prepared.is_set()
    assert not hall.ready
    assert "see the log" in str(hall.failure)
    assert "ZeroDivisionError" in caplog.text
