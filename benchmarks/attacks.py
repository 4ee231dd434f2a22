"""Attacks on `biflow serve`, each in a process of its own: python -m benchmarks.attacks NAME HOST PORT SECONDS

An attack is a function of the address and of when to end (time.monotonic). It does as much as it can with one thread,
and returns how often it tried. Prints that, and the seconds of CPU that this process took. Attacks stand in ATTACKS.
"""

import contextlib
import json
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable

from benchmarks import bombs

Address = tuple[str, int]
CONT, TEXT, BINARY, PING, PONG = 0, 1, 2, 9, 10
RECORD = b'{"type": "record", "on": %s}'
ACK, SET = b'{"type": "ack"}', b'{"type": "set", "controls": {"eps": 0.2}}'


def frame(opcode: int, payload: bytes = b"", *, last: bool = True) -> bytes:
    """A frame of a client, with a mask of zeros."""
    size = len(payload)
    length = bytes([128 | size]) if size < 126 else b"\xff" + size.to_bytes(8, "big")
    return bytes([128 * last | opcode]) + length + bytes(4) + payload


def head(address: Address, path: str = "/ws", *lines: str) -> bytes:
    """A WebSocket's first request."""
    fixed = "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    host = f"Host: {address[0]}:{address[1]}"
    return "\r\n".join((f"GET {path} HTTP/1.1", host, *fixed, key, *lines, "", "")).encode()


def request(address: Address, path: str = "/healthz", *lines: str) -> bytes:
    """A GET."""
    return "\r\n".join((f"GET {path} HTTP/1.1", f"Host: {address[0]}:{address[1]}", *lines, "", "")).encode()


def opened(address: Address, timeout: float = 10) -> socket.socket:
    """A WebSocket that the server has accepted."""
    link = socket.create_connection(address, timeout)
    link.sendall(head(address))
    if not link.recv(4096).startswith(b"HTTP/1.1 101"):
        link.close()
        raise ConnectionError("refused")
    return link


def drained(link: socket.socket) -> int:
    """Read what has come; how many bytes. Raises ConnectionError at the end."""
    count = 0
    while select.select([link], [], [], 0)[0]:
        data = link.recv(2**18)
        if not data:
            raise ConnectionError("closed")
        count += len(data)
    return count


def flood(address: Address, until: float, once: bytes, again: bytes) -> int:
    """Send `once`, then `again` as fast as it is taken; connect anew when the server hangs up."""
    tried, many = 0, again * max(1, 2**16 // len(again))
    while time.monotonic() < until:
        with contextlib.suppress(OSError), opened(address) as link:
            link.sendall(once)
            while time.monotonic() < until:
                link.sendall(many)
                tried += len(many) // len(again)
                drained(link)
    return tried


def flooding(once: bytes, again: bytes) -> Callable[[Address, float], int]:
    return lambda address, until: flood(address, until, once, again)


def reconnect(address: Address, until: float, first: bytes, *, wait: bool = True) -> int:
    """Connect, say something, leave; again and again."""
    tried = 0
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(address, 5) as link:
            link.sendall(first)
            tried += 1
            if wait:
                link.recv(4096)
    return tried


def requests(address: Address, until: float, depth: int, path: str = "/healthz") -> int:
    """Requests over a connection that stays open, `depth` at a time."""
    tried, many = 0, request(address, path) * depth
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(address, 5) as link:
            while time.monotonic() < until:
                link.sendall(many)
                tried += depth
                if not link.recv(2**18):
                    break
    return tried


def hold(
    address: Address, until: float, count: int, first: bytes, *, more: bytes = b"", websocket: bool = False
) -> int:
    """Many connections at once that say `first`, and then `more` once a second."""
    links, tried = [], 0
    while time.monotonic() < until:
        while len(links) < count and time.monotonic() < until:
            try:
                link = opened(address, 2) if websocket else socket.create_connection(address, 2)
                link.setblocking(False)
                links.append(link)
                tried += 1
                link.send(first)
            except OSError:
                break
        for link in list(links):
            try:
                if more:
                    link.send(more)
            except BlockingIOError:
                pass
            except OSError:
                links.remove(link)
        time.sleep(1 if len(links) >= count else 0.05)
    return tried


def pour(address: Address, until: float, first: bytes, again: bytes) -> int:
    """One connection that begins with `first` and never ends; connect anew when the server hangs up."""
    tried = 0
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(address, 5) as link:
            link.sendall(first)
            while time.monotonic() < until:
                link.sendall(again)
                tried += 1
    return tried


def unfinished(address: Address, until: float, links: int = 20, size: int = 30 * 2**20) -> int:
    """Messages of `size` bytes that lack their last fragment, all at once."""
    open_links, tried, part = [], 0, frame(CONT, bytes(2**16), last=False)
    while time.monotonic() < until:
        if len(open_links) < links:
            with contextlib.suppress(OSError):
                link = opened(address, 2)
                open_links.append([link, frame(BINARY, last=False), size])
                tried += 1
        for entry in list(open_links):
            link, rest, left = entry
            try:
                link.setblocking(False)
                rest = rest[link.send(rest) :] if rest else b""
                entry[1:] = (rest or (part if left > 0 else b"")), left - (0 if rest else len(part))
            except BlockingIOError:
                pass
            except OSError:
                open_links.remove(entry)
        time.sleep(0.002)
    return tried


def in_turn(address: Address, until: float, messages: list[bytes], links: int = 8, every: float = 0.2) -> int:
    """Several WebSockets at once, as many as are let in, each of which sends a message every `every` seconds."""
    open_links, tried = [], 0
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            while len(open_links) < links and time.monotonic() < until:
                open_links.append(opened(address, 2))
        for link in list(open_links):
            try:
                link.sendall(messages[tried % len(messages)])
                drained(link)
                tried += 1
            except OSError:
                open_links.remove(link)
        time.sleep(every)
    return tried


def burn(share: float, until: float) -> int:
    """Take `share` of one core: what an attack costs in CPU, without the attack."""
    while time.monotonic() < until:
        end = time.monotonic() + share * 0.02
        while time.monotonic() < end:
            pass
        time.sleep(max(0.0, 0.02 * (1 - share)))
    return 0


BAD = [frame(TEXT, b"\xff\xfe"), frame(3), frame(PING, last=False), b"\x81\x01a", b"\xff" * 20, frame(CONT, b"a")]
BAD += [frame(TEXT, b"["), frame(8, b"\x00"), frame(8, b"\x03\xe8\xff"), frame(BINARY, b"", last=False) + frame(TEXT)]


def errors(address: Address, until: float, bad: Iterable[bytes] = BAD) -> int:
    """What is no WebSocket, no UTF-8, no HTTP; and connections that are reset."""
    tried = 0
    while time.monotonic() < until:
        for data in bad:
            with contextlib.suppress(OSError), opened(address) as link:
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))  # reset
                link.sendall(data)
                link.recv(2**16)
                tried += 1
    return tried


def pictures() -> list[bytes]:
    """Messages of pictures that each take a reader more than a second."""
    slow = bombs.progressive_jpeg(), bombs.png_of_chunks(), bombs.jpeg_of_exif()
    return [frame(BINARY, picture) for picture in slow]


ATTACKS: dict[str, Callable[[Address, float], int]] = {
    "pings": flooding(b"", frame(PING, bytes(4))),
    "pongs": flooding(b"", frame(PONG)),
    "empty frames": flooding(frame(BINARY, last=False), frame(CONT, last=False)),
    "1-byte frames": flooding(frame(TEXT, last=False), frame(CONT, b"a", last=False)),
    "texts": flooding(b"", frame(TEXT, b"{}")),
    "acks": flooding(b"", frame(TEXT, ACK)),
    "sets": flooding(b"", frame(TEXT, SET)),
    "large frames": flooding(b"", frame(BINARY, bytes(2**20))),
    "sets over 60 links": lambda address, until: 15 * in_turn(address, until, [frame(TEXT, SET) * 15], 60, 0.1),
    "errors": errors,
    "WebSockets, come and go": lambda address, until: reconnect(address, until, head(address)),
    "connections, come and go": lambda address, until: reconnect(address, until, b"", wait=False),
    "requests": lambda address, until: requests(address, until, 1, "/main.js"),
    "pipelined requests": lambda address, until: requests(address, until, 1000),
    "endless head": lambda address, until: pour(address, until, b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 10_000),
    "endless WebSocket head": lambda address, until: pour(address, until, head(address)[:-2], b"a: b\r\n" * 10_000),
    "endless body": lambda address, until: pour(
        address, until, b"POST /ws HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n", bytes(2**16)
    ),
    "1,000 slow heads": lambda address, until: hold(address, until, 1000, b"GET / HTTP/1.1\r\n", more=b"a: b\r\n"),
    "1,000 silent connections": lambda address, until: hold(address, until, 1000, b""),
    "64 sessions": lambda address, until: hold(address, until, 64, b"", websocket=True),
    "unfinished messages": unfinished,
    "pictures": lambda address, until: in_turn(address, until, pictures()),
    "recordings": lambda address, until: in_turn(
        address, until, [frame(TEXT, RECORD % b) for b in (b"true", b"false")]
    ),
    "30 that record": lambda address, until: in_turn(address, until, [frame(TEXT, RECORD % b"true")], 30, 1.0),
    "unread answers": lambda address, until: hold(address, until, 200, request(address, "/preview.png") * 20),
}


def main() -> None:
    name, host, port, seconds = sys.argv[1:5]
    until = time.monotonic() + float(seconds)
    tried = (
        burn(float(name), until)
        if name[0].isdigit() and name not in ATTACKS
        else ATTACKS[name]((host, int(port)), until)
    )
    print(json.dumps({"tried": tried, "cpu_s": round(time.process_time(), 3)}))


if __name__ == "__main__":
    main()
