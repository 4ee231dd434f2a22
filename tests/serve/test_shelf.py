"""How much recordings may take, and that nothing of them stays: full disks, many bytes, downloads, killed servers."""

import errno
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import av
import httpx
import pytest

from biflow.serve import shelf as shelf_module
from biflow.serve.recording import Recorder
from biflow.serve.session import Session
from biflow.serve.shelf import PREFIX, Shelf, remove_leftovers
from tests.serve.helpers import Client, Watching, play, told, until


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def record(session, frames=3):
    session.record(True)
    play(session, frames)


def last(session):
    return told(session.viewers[0], "recording")[-1]


def test_recordings_go_on_where_the_system_has_emptied_the_temporary_folder(temporary):
    shelf = Shelf()
    shutil.rmtree(shelf.folder().parent)
    again = shelf.folder()
    assert again.is_dir()
    assert [path.name for path in temporary.iterdir()] == [again.parent.name]
    shelf.close()
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("fails", ["mux", "close"])
def test_a_full_disk_ends_the_recording_and_not_the_session(session, temporary, monkeypatch, fails):
    class Full:
        def __init__(self, container):
            self.container = container

        def __getattr__(self, name):
            return self.fail if name in ("mux", "close") and fails in ("mux", name) else getattr(self.container, name)

        def fail(self, *_):
            raise OSError(errno.ENOSPC, "No space left on device")

    opened = av.open
    with monkeypatch.context() as patch:
        patch.setattr(av, "open", lambda *args, **options: Full(opened(*args, **options)))
        record(session)
        session.record(False)
        play(session, 0)
    message = last(session)
    assert (message["on"], message["name"]) == (False, None)
    assert "disk may be full" in message["text"]
    assert str(temporary) not in message["text"]
    assert not list(temporary.rglob("*.mp4*"))
    record(session)
    session.record(False)
    play(session, 2)
    assert (last(session)["frames"], last(session)["text"]) == (3, None)


def test_without_a_folder_for_temporary_files_there_is_no_recording(session, temporary, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "gone"))
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", list)
    remove_leftovers()
    record(session)
    assert "cannot write" in last(session)["text"]
    play(session, 1)
    monkeypatch.setattr(tempfile, "tempdir", None)
    remove_leftovers()


def test_a_recording_ends_when_it_is_too_large(session, monkeypatch):
    monkeypatch.setattr(shelf_module, "ONE", 2000)
    session.change({"eps": 0.5})
    record(session, 0)
    for _ in range(200):
        session.advance()
        if not session.recorder.on:
            break
    message = last(session)
    assert "no room for a larger one" in message["text"]
    path = session.recorder.find(message["name"])
    assert 2000 < path.stat().st_size < 200_000  # the encoder holds a few dozen frames back
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == message["frames"]


def test_all_recordings_have_a_limit_and_each_has_its_share(monkeypatch):
    monkeypatch.setattr(shelf_module, "ALL", 200)
    monkeypatch.setattr(shelf_module, "SHARE", 10)
    monkeypatch.setattr(shelf_module, "ONE", 90)
    shelf = Shelf()
    one, two = shelf.folder(), shelf.folder()
    assert [shelf.has_room(one, size) for size in (80, 90, 91)] == [True, True, False]
    assert [shelf.has_room(two, size) for size in (10, 11)] == [True, False]
    shelf.delete(one)
    assert shelf.has_room(two, 90)
    assert (one.exists(), two.exists()) == (False, True)
    shelf.close()
    assert not two.parent.exists()


def test_sessions_of_a_server_keep_their_recordings_on_one_shelf(models, temporary):
    shelf = Shelf()
    sessions = [Session(name, models, shelf) for name in "ab"]
    for session in sessions:
        session.join(Watching())
        record(session)
    assert len(list(temporary.iterdir())) == 1
    assert len(shelf._sizes) == 2
    for session in sessions:
        session.recorder.close()
    assert not shelf._sizes
    shelf.close()
    assert not list(temporary.iterdir())
    record(sessions[0])  # of a session that has not ended yet
    assert "cannot write" in last(sessions[0])["text"]


HOLDS = """
import sys, time, tempfile
tempfile.tempdir = sys.argv[1]
from biflow.serve.shelf import Shelf
shelf = Shelf()
(shelf.folder() / "a.mp4").write_bytes(b"frames")
print("ready", flush=True)
if sys.argv[2] == "stay":
    time.sleep(600)
"""


def test_what_a_killed_server_left_goes_at_the_next_start_and_a_running_ones_stays(temporary):
    def server(how):
        command = [sys.executable, "-c", HOLDS, str(temporary), how]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        return process

    (temporary / f"{PREFIX}file").write_text("not a folder")
    (temporary / "other").mkdir()
    (temporary / f"{PREFIX}link").symlink_to(temporary / "other")
    alive = Shelf()
    kept = alive.folder()
    with server("stay") as process:
        remove_leftovers()
        assert len(list(temporary.rglob("a.mp4"))) == 1
        process.send_signal(signal.SIGKILL)
    remove_leftovers()
    assert not list(temporary.rglob("a.mp4"))
    assert kept.exists()
    with server("end"):
        pass
    assert not list(temporary.rglob("a.mp4"))  # at a normal end nothing stays
    alive.close()
    assert sorted(path.name for path in temporary.iterdir()) == [f"{PREFIX}file", f"{PREFIX}link", "other"]


def test_a_download_that_meets_a_new_recording_is_whole_or_404(server, monkeypatch):
    with Client(server.address) as client:
        session = client.read()["session"]

        def recorded():
            client.send({"type": "record", "on": True})
            client.until("recording", on=True)
            client.until("frame")
            client.send({"type": "record", "on": False})
            return client.until("recording", on=False)["name"]

        url, recorder = f"http://{server.address}/recording/{session}/", server.hall.sessions[session].recorder
        name = recorded()
        with httpx.stream("GET", url + name) as answer:
            size = int(answer.headers["content-length"])
            another = recorded()
            assert len(b"".join(answer.iter_bytes())) == size
        assert httpx.get(url + name).status_code == 404
        path = recorder.find(another)
        monkeypatch.setattr(Recorder, "find", lambda self, name: path.with_name("gone.mp4"))
        assert httpx.get(url + another).status_code == 404


def test_a_clip_that_nobody_waits_for_is_given_up_and_a_session_has_one_at_a_time(server, monkeypatch):
    go, states = threading.Event(), []

    def clip(moments, served, controls, shelf, unwanted):
        states.append(unwanted)
        go.wait(120)
        return b"film"

    monkeypatch.setattr("biflow.serve.clips.clip", clip)
    with Client(server.address) as client, Client(server.address) as other:
        sessions = [one.read()["session"] for one in (client, other)]
        url = f"http://{server.address}/clip/"
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(url + sessions[0], timeout=1)
        until(lambda: states and states[0]())
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(httpx.get(url + sessions[0], timeout=120)))
        until(lambda: not server.hall.clips._sessions)
        waiting.start()
        until(lambda: server.hall.clips._sessions)
        assert httpx.get(url + sessions[0]).status_code == 503
        go.set()
        waiting.join(120)
        assert answers[0].content == b"film"
        assert httpx.get(url + sessions[1]).content == b"film"
