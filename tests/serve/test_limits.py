"""Floods, heads and shares: what is beyond the limits ends its own connection, and nobody else's."""

import contextlib
import logging
import socket
import time

import httpx
import pytest

from benchmarks.attacks import BAD, BINARY, CONT, PING, PONG, SET, TEXT, errors, frame, head, opened, reconnect, request
from biflow.errors import UserError
from biflow.serve import hall as hall_module
from biflow.serve import limits
from biflow.serve.app import app
from biflow.serve.hall import Hall
from biflow.serve.limits import Crowd, Link, network
from biflow.serve.protocols import HEAD_BYTES, Scan
from biflow.serve.viewer import Viewer
from tests.serve.helpers import Client, running, until


@pytest.fixture(scope="module")
def address(folders):
    with running(app({"bi": folders["bi"]}, hosts={"127.0.0.1", "localhost"})) as address:
        host, port = address.split(":")
        yield host, int(port)


def ended(link: socket.socket) -> bool:
    """Read until the server hangs up."""
    link.settimeout(30)
    try:
        while link.recv(2**16):
            pass
    except ConnectionError:
        pass
    return True


# Connections


@pytest.mark.parametrize(
    ("once", "again"),
    [
        (b"", frame(PING, bytes(4))),
        (b"", frame(PONG)),
        (frame(BINARY, last=False), frame(CONT, last=False)),
        (frame(TEXT, last=False), frame(CONT, b"a", last=False)),
        (b"", frame(TEXT, SET)),
    ],
)
def test_a_flood_ends_its_connection_and_another_viewer_streams_on(address, once, again):
    with Client(f"{address[0]}:{address[1]}") as other:
        other.until("frame")
        with opened(address) as link:
            with contextlib.suppress(ConnectionError):
                link.sendall(once + again * 20_000)
            assert ended(link)
        other.until("frame")


def test_honest_use_never_meets_the_limits(address):
    crowd = Crowd(100)
    link = Link(crowd, "10.0.0.1")
    for _ in range(60):  # frames per second, each acknowledged, and as many changes and actions
        link.due += 1
        assert all(link.message() for _ in range(3))
    with Client(f"{address[0]}:{address[1]}") as client:  # a photo of 32 MB in fragments of 16 KiB
        client.read()
        client.link.send(bytes(2**14) for _ in range(2**11))
        assert "PNG, JPEG" in client.until("error")["text"]


def test_what_is_no_websocket_or_not_utf8_is_a_line_in_the_log(address, caplog):
    with caplog.at_level(logging.INFO):
        assert errors(address, time.monotonic() + 0.01) == len(BAD)
        with opened(address) as link:
            link.sendall(frame(TEXT, b"\xff"))
            assert b"\x03\xef" in link.recv(2**16)[-200:] or ended(link)  # 1007, unless a frame came before
        bad_handshake = head(address, "/ws", "Content-Length: 5")
        for data in (bad_handshake, b"\x16\x03\x01" + bytes(50), b"GET / HTTP/9\r\n\r\n"):
            with socket.create_connection(address) as link:
                link.sendall(data)
                assert ended(link)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("line", [b"a: b\r\n", b"a: " + b"b" * 1000 + b"\r\n", b"a" * 1000])
def test_a_head_is_bounded_with_and_without_its_end(address, line):
    for many, end in ((2 * HEAD_BYTES, b""), (HEAD_BYTES + 1000, b"\r\n\r\n")):
        with socket.create_connection(address) as link:
            link.sendall(b"GET / HTTP/1.1\r\n" + line * (many // len(line)) + end)
            link.settimeout(30)
            assert link.recv(2**10).startswith(b"HTTP/1.1 431")


def test_a_body_is_refused_unread(address):
    with socket.create_connection(address) as link:
        link.sendall(request(address, "/", "Content-Length: 999999999"))
        link.settimeout(30)
        assert link.recv(2**10).startswith(b"HTTP/1.1 413")
        assert ended(link)


def test_slow_heads_are_overdue_and_make_room(monkeypatch, address):
    monkeypatch.setattr(limits, "HEAD", 0.3)
    with socket.create_connection(address) as link, Client(f"{address[0]}:{address[1]}") as client:
        link.sendall(b"GET / HTTP/1.1\r\n")
        assert ended(link)
        client.until("frame")


class Closing:
    def __init__(self):
        self.closing = False

    def is_closing(self):
        return self.closing


def test_who_does_not_read_and_who_does_not_close_is_overdue():
    link = Link(Crowd(100), "10.0.0.1")
    link.transport = Closing()
    assert not link.overdue(1000.0)
    link.blocked = 1000.0
    assert not link.overdue(1000.0 + limits.BLOCKED)
    assert link.overdue(1000.1 + limits.BLOCKED)
    link.blocked, link.transport.closing = None, True
    assert not link.overdue(2000.0)
    assert not link.overdue(2000.0 + limits.CLOSING)
    assert link.overdue(2000.1 + limits.CLOSING)


def test_the_longest_waiting_makes_room_when_there_are_too_many_connections(folders, monkeypatch):
    monkeypatch.setattr("biflow.serve.accepting.CONNECTIONS", 8)
    with running(app({"bi": folders["bi"]})) as address:
        host, port = address.split(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(20)]
        for _ in range(3):
            assert httpx.get(f"http://{address}/healthz", timeout=30).status_code == 200
        assert ended(silent[0])
        with Client(address) as client:
            client.until("frame")
        for link in silent:
            link.close()


def test_sequential_reconnects_all_get_in(address):
    assert reconnect(address, time.monotonic() + 0.3, request(address)) > 5
    for _ in range(5):
        assert httpx.get(f"http://{address[0]}:{address[1]}/healthz", timeout=30).status_code == 200


def test_frames_are_found_however_they_are_cut():
    sizes = [0, 1, 125, 126, 3, 0]
    data = b"".join(frame(TEXT, bytes(size)) for size in sizes) + frame(PING, b"ab")
    for step in (1, 2, 7, len(data)):
        scan = Scan()
        found = [one for at in range(0, len(data), step) for one in scan.frames(data[at : at + step])]
        assert found == [*((size, False) for size in sizes), (2, True)]


# Budgets


def test_who_takes_most_of_a_common_budget_meets_the_limit_first():
    crowd = Crowd(1000)
    links = [Link(crowd, "10.0.0.1") for _ in range(50)]
    modest = Link(crowd, "10.0.0.1")
    assert sum(link.message() for _ in range(80) for link in links) < 80 * 50  # alone, each could send 200
    assert all(modest.message() for _ in range(5))
    assert all(Link(crowd, "10.0.0.2").message() for _ in range(100))


def test_connections_have_a_share_by_address():
    crowd = Crowd(8)
    links = [Link(crowd, "10.0.0.1") for _ in range(6)]
    share = crowd.share("10.0.0.1")
    assert (share.full, crowd.everyone.full) == (True, False)
    links[0].hold(3)
    links[0].move("10.0.0.2")  # a proxy speaks for it
    assert not share.full
    assert (share.held, crowd.share("10.0.0.2").held) == (0, 3)
    links[0].hold(0)
    for link in links:
        link.leave()
    assert not crowd.everyone.links
    assert crowd.everyone.held == 0


def test_the_oldest_unfinished_message_goes_when_an_address_holds_too_much():
    crowd = Crowd(100)
    links = [Link(crowd, "10.0.0.1") for _ in range(3)]
    assert links[0].hold(30 * 2**20) is None
    assert links[1].hold(30 * 2**20) is None
    assert Link(crowd, "10.0.0.2").hold(30 * 2**20) is None
    assert links[2].hold(30 * 2**20) is links[0]
    links[0].leave()
    assert links[2].hold(31 * 2**20) is None


def test_unfinished_messages_end_with_a_reason(folders, monkeypatch):
    monkeypatch.setattr(limits, "UNFINISHED", 2**20)  # read when a server starts
    with running(app({"bi": folders["bi"]})) as address:
        host, port = address.split(":")
        with opened((host, int(port))) as link:
            link.settimeout(30)
            link.sendall(frame(BINARY, last=False))
            received = b""
            with contextlib.suppress(ConnectionError):
                for _ in range(12):  # 768 KiB; one address may have half of the limit
                    link.sendall(frame(CONT, bytes(2**16), last=False))
                while more := link.recv(2**16):
                    received += more
            assert (1013).to_bytes(2, "big") + b"Too many large messages at once." in received


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
        ("unknown", "unknown"),
    ],
)
def test_a_network_of_ipv6_has_one_share(host, name):
    assert network(host) == name


# Sessions


def visitor(session, *, silent=False):
    viewer = Viewer(lambda: None)
    if silent:
        viewer.silent = time.monotonic() - 100
    session.join(viewer)
    return session


@pytest.fixture
def hall(models, monkeypatch):
    monkeypatch.setattr(hall_module, "SESSIONS", 4)
    monkeypatch.setattr(hall_module, "SHARE", 3)
    hall = Hall()
    hall.models = models
    yield hall
    hall.close()


def test_an_address_has_a_share_of_the_sessions(hall):
    for _ in range(3):
        visitor(hall.enter(None, "a")[0])
    with pytest.raises(UserError, match="one address"):
        hall.enter(None, "a")
    visitor(hall.enter(None, "b")[0])
    newest = [session for session in hall.sessions.values() if session.address == "a"][-1]
    visitor(hall.enter(None, "c")[0])  # all are in use, and a has most
    assert "Others wait" in newest.ended
    with pytest.raises(UserError, match="in use"):
        hall.enter(None, "b")


def test_a_session_that_nobody_watches_makes_room(hall):
    silent = visitor(hall.enter(None, "a")[0], silent=True)
    others = [visitor(hall.enter(None, "a")[0]) for _ in range(2)]
    hall.enter(None, "a")
    assert silent.ended
    assert not any(session.ended for session in others)


def test_a_proxy_on_this_machine_says_for_whom_it_speaks(folders, monkeypatch):
    monkeypatch.setattr(hall_module, "SHARE", 1)
    with running(app({"bi": folders["bi"]})) as address, Client(address, **{"X-Forwarded-For": "10.0.0.1"}) as one:
        until(lambda: one.read()["type"] == "hello")
        with Client(address, **{"X-Forwarded-For": "6.6.6.6, 10.0.0.1"}) as two:
            assert "one address" in two.read()["text"]
        with Client(address, **{"X-Forwarded-For": "10.0.0.2"}) as three:
            assert three.read()["type"] == "hello"


def test_who_has_long_pictures_read_no_longer_hurries(monkeypatch):
    now = 0.0
    monkeypatch.setattr(limits.time, "monotonic", lambda: now)
    crowd = Crowd(100)
    first, second, other = Link(crowd, "192.0.2.1"), Link(crowd, "192.0.2.1"), Link(crowd, "192.0.2.2")
    assert first.hurries
    first.read_picture(10.0)
    assert [link.hurries for link in (first, second, other)] == [False, False, True]
    for link in (first, second, other):
        link.leave()
    now = limits.PATIENCE - 1.0
    crowd.sweep()
    assert [Link(crowd, link.host).hurries for link in (first, other)] == [False, True]
    now = limits.PATIENCE + 1.0
    assert second.hurries
