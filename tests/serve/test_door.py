"""Requests of any bytes: an answer below 500, no way to another address, and no traceback."""

import socket
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biflow.serve.app import app
from biflow.serve.server import _address
from tests.serve.helpers import Client, running

TOKEN = "a+b%c&d#€ ü=/?\\\"';"


@pytest.fixture(scope="module")
def guarded(folders):
    with running(app({"bi": folders["bi"]}, token=TOKEN)) as address:
        yield address


@pytest.fixture(scope="module")
def unguarded(folders):
    with running(app({"bi": folders["bi"]})) as address:
        yield address


def answer(address: str, data: bytes) -> bytes:
    """The first bytes that the server sends back, or none."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), 30) as link:
        link.sendall(data)
        try:
            return link.recv(2**16)
        except ConnectionError:
            return b""


def test_the_printed_address_works_for_any_token(guarded):
    host, port = guarded.split(":")
    printed = _address(host, int(port), TOKEN)
    assert printed.isascii()
    with httpx.Client(timeout=30) as browser:
        assert browser.get(printed).status_code == 303
        assert browser.get(f"http://{guarded}/").status_code == 200  # by the cookie
        assert TOKEN not in str(browser.cookies)
    query = printed.partition("?")[2]
    with Client(guarded, f"?{query}") as client:
        assert client.read()["type"] == "hello"
    assert httpx.get(f"http://{guarded}/?token=other", timeout=30).status_code == 401


@pytest.mark.parametrize(
    "path", ["//evil.example/", "//evil.example/..", "/\\evil.example", "/%2F/evil.example/", "/.", "/%5Cevil", "//"]
)
@pytest.mark.parametrize("host", ["Host: 127.0.0.1\r\n", ""])
def test_no_path_leads_elsewhere(guarded, path, host):
    query = _address("127.0.0.1", 1, TOKEN).partition("?")[2]
    version = "1.1" if host else "1.0"
    text = answer(guarded, f"GET {path}?{query} HTTP/{version}\r\n{host}\r\n".encode()).decode("latin-1")
    status, *lines = text.partition("\r\n\r\n")[0].split("\r\n")
    assert int(status.split()[1]) < 500
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "location":
            assert urlsplit(urljoin("http://127.0.0.1/", value)).hostname == "127.0.0.1"
            assert not value.startswith(("/", "\\"))


NASTY = [b"http://[", b"[", b"[::1", b"a b", b"\xff", b"http://[::1]:x", b"a" * 3000, b"%", b"=;=", b'"']
VALUE = st.one_of(st.sampled_from(NASTY), st.binary(max_size=40))
NAMES = [b"Host", b"Origin", b"Cookie", b"Content-Length", b"Transfer-Encoding", b"Range", b"If-None-Match"]
NAMES += [b"X-Forwarded-For", b"X-Forwarded-Proto", b"Upgrade", b"Connection", b"Sec-WebSocket-Key"]
FIXED = b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
FIXED += b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.one_of(st.sampled_from([b"", b"ws", b"healthz", b"main.js", b"recording/a/b", b"clip/a"]), VALUE),
    query=st.one_of(st.just(b"token="), VALUE),
    headers=st.lists(st.tuples(st.sampled_from(NAMES), VALUE), max_size=4),
    websocket=st.booleans(),
)
def test_a_request_of_any_bytes_is_answered_below_500(guarded, unguarded, caplog, path, query, headers, websocket):
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    if not any(name == b"Host" for name, _ in headers):
        lines = b"Host: 127.0.0.1\r\n" + lines
    data = b"GET /" + path + b"?" + query + b" HTTP/1.1\r\n" + lines + FIXED * websocket + b"\r\n"
    for address in (guarded, unguarded):
        text = answer(address, data)
        assert not text or int(text.split()[1]) < 500
    assert not [record for record in caplog.records if record.exc_info]
