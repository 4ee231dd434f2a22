"""The last seconds as an mp4, of sessions that are busy or have ended."""

import threading

import httpx
import pytest

from biflow.serve.session import JOBS
from tests.serve.helpers import Client, png


@pytest.fixture
def busy(server):
    """A viewer, the session that it watches, and the event that ends what the session's worker is busy with."""
    go, started = threading.Event(), threading.Event()

    def work():
        started.set()
        go.wait(120)

    with Client(server.address) as client:
        session = server.hall.sessions[client.read()["session"]]
        client.until("frame", index=1)
        session._do(work)
        assert started.wait(120)
        yield client, session, go
        go.set()


def clip(server, session):
    return httpx.get(f"http://{server.address}/clip/{session.name}")


def test_a_busy_session_gives_its_clip_at_once_and_uploads_to_others_are_read(server, busy):
    _, session, _ = busy
    for _ in range(JOBS):
        session.go_back(0)
    answer = clip(server, session)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    with Client(server.address) as other:
        other.send(png(77))
        other.until("starts", now=-1)


def test_a_session_that_has_crashed_has_no_clip(server, busy):
    client, session, go = busy
    session._do(lambda: 1 / 0)
    go.set()
    assert "has crashed" in client.until("ended")["text"]
    assert clip(server, session).status_code == 404
