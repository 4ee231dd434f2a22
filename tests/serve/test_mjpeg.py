import contextlib
import io
import re
import time

import httpx
import numpy as np
import pytest
from PIL import Image

from biflow.serve import hall as hall_module
from biflow.serve import mjpeg
from biflow.serve.app import app
from tests.serve.helpers import Client, running, until


class Reader:
    """What reads the stream as OBS does: part after part."""

    def __init__(self, address, query="", **headers):
        self.stack = contextlib.ExitStack()
        url = f"http://{address}/stream.mjpg{query}"
        self.answer = self.stack.enter_context(httpx.stream("GET", url, headers=headers, timeout=120))
        self.bytes, self.buffer = self.answer.iter_raw(), b""

    def picture(self):
        """The next picture, (h, w, 3)."""
        while not (found := re.search(rb"Content-Length: (\d+)\r\n\r\n", self.buffer)):
            self.buffer += next(self.bytes)
        start, length = found.end(), int(found[1])
        while len(self.buffer) < start + length + len(b"\r\n--frame\r\n"):
            self.buffer += next(self.bytes)
        data, self.buffer = self.buffer[start : start + length], self.buffer[start + length :]
        assert data.startswith(b"\xff\xd8")
        assert self.buffer.startswith(b"\r\n--frame\r\n")
        return np.asarray(Image.open(io.BytesIO(data)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()


def test_the_stream_is_jpegs_that_replace_each_other(server):
    with Reader(server.address) as reader:
        assert reader.answer.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
        pictures = [reader.picture() for _ in range(4)]
    assert all(picture.shape == (16, 16, 3) for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 4


def test_a_slow_first_picture_does_not_stop_the_stream(server, monkeypatch):
    def slow(message, part=mjpeg._part):
        time.sleep(0.2)  # in which the worker of the session looks for viewers that want a frame
        return part(message)

    monkeypatch.setattr(mjpeg, "_part", slow)
    with Reader(server.address) as reader:
        pictures = {reader.picture().tobytes() for _ in range(3)}
    assert len(pictures) == 3


def test_it_shows_the_session_of_a_page_and_leaves_it(server):
    with Client(server.address) as page:
        name = page.read()["session"]
        session = server.hall.sessions[name]
        page.send({"type": "set", "controls": {"playing": False, "format": "png"}})
        page.until("controls")
        with Reader(server.address, f"?session={name}") as reader:
            first = reader.picture()
            assert len(session.viewers) == 2
            page.send({"type": "step"})
            until(lambda: not np.array_equal(reader.picture(), first))
            page.send({"type": "set", "controls": {"two_up": True}}, {"type": "step"})
            until(lambda: reader.picture().shape == (16, 32, 3))
        until(lambda: len(session.viewers) == 1)


def test_a_reader_that_is_gone_is_noticed_in_a_pause(server, monkeypatch):
    monkeypatch.setattr(mjpeg, "PATIENCE", 0.1)
    with Client(server.address) as page:
        session = server.hall.sessions[name := page.read()["session"]]
        page.send({"type": "set", "controls": {"playing": False}})
        page.until("controls")
        with Reader(server.address, f"?session={name}") as reader:
            again = [reader.picture() for _ in range(4)]  # the last one, again and again
            assert np.array_equal(again[-2], again[-1])
        until(lambda: len(session.viewers) == 1)


def test_a_reader_that_reads_nothing_costs_two_frames_and_a_slot(server):
    with Client(server.address) as page:
        session = server.hall.sessions[name := page.read()["session"]]
        with Reader(server.address, f"?session={name}"):
            until(lambda: len(session.viewers) == 2)
            (viewer,) = [one for one in session.viewers if one.number == 2]
            before = page.until("frame")["id"]
            page.until("frame", id=before + 3)  # others are not held up
            assert len(viewer._messages) < 64


def test_the_token_stands_in_the_address(folders):
    guarded = app({"bi": folders["bi"]}, hosts={"127.0.0.1"}, token="secret")
    with running(guarded) as address:
        with Reader(address, "?token=secret") as reader:
            assert reader.picture().shape == (16, 16, 3)
        for query in ("", "?token=wrong"):
            assert httpx.get(f"http://{address}/stream.mjpg{query}").status_code == 401
        other = {"sec-fetch-site": "cross-site"}
        with Reader(address, "?token=secret", **other) as reader:
            assert reader.answer.status_code == 200


def test_other_pages_and_crowds_are_refused(server, monkeypatch):
    url = f"http://{server.address}/stream.mjpg"
    for query in ("", "?token=", "?token=made-up"):
        assert httpx.get(url + query, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    with Client(server.address) as page:
        name = page.read()["session"]
        monkeypatch.setattr(hall_module, "VIEWERS", 1)
        answer = httpx.get(f"{url}?session={name}")
        assert (answer.status_code, answer.text) == (503, "This session already has 1 viewers.")


def test_it_ends_with_its_session(server):
    with Reader(server.address) as reader:
        reader.picture()
        session = max(server.hall.sessions.values(), key=lambda one: len(one.viewers))
        server.hall.dismiss(session)
        with pytest.raises(StopIteration):
            until(lambda: reader.picture() is None)
