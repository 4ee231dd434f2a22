"""uvicorn's HTTP and WebSocket protocols, within the limits of `biflow.serve.limits`.

Both parse nothing before it is counted, since parsing is what a flood is made of.
"""

import asyncio
import re
import time
from collections.abc import Iterator
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from biflow.serve.limits import Link

HEAD_BYTES, HEAD_LINES = 32 * 2**10, 128
BLANK_LINE = re.compile(rb"\n\r?\n")
SMALL = 1024  # bytes of a frame that counts as a message; larger ones are counted in bytes
OVERHEAD = 4096  # bytes that parsing a larger frame is worth
TEXT_BYTES = 64 * 2**10  # of one message of text, which as a string may take four times as much
TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Limited:
    """What both protocols have in common: the link, and that neither a slow reader nor the server's end is an error."""

    app_state: dict
    transport: asyncio.Transport

    @property
    def link(self) -> Link:
        return self.app_state["link"]

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        self.app, self.link.transport = self.answer, self.transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.link.leave()
        super().connection_lost(exc)  # type: ignore[misc]

    def pause_writing(self) -> None:
        self.link.blocked = time.monotonic()
        super().pause_writing()  # type: ignore[misc]

    def resume_writing(self) -> None:
        self.link.blocked = None
        super().resume_writing()  # type: ignore[misc]

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.config.loaded_app(scope, receive, send)  # type: ignore[attr-defined]
        except asyncio.CancelledError:  # the server ends, and has waited long enough
            self.transport.abort()


class Http(Limited, H11Protocol):
    """HTTP whose heads are given to the parser whole, one at a time, and no bodies at all: there are no honest ones."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._rest = bytearray()

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        self._rest += data
        self._next()

    def _next(self) -> None:
        """Give the next head to the parser, unless it is not whole yet or another request is being answered."""
        if self._busy:  # browsers wait for the answer before they send another request
            self.flow.pause_reading()
            if len(self._rest) > HEAD_BYTES:
                self._rest.clear()
                self.cycle.keep_alive = False
            return
        if not self._rest or self.transport.is_closing():
            return
        found = BLANK_LINE.search(self._rest, 0, HEAD_BYTES)
        whole = found.end() if found else len(self._rest)
        if whole > HEAD_BYTES or self._rest.count(b"\n", 0, whole) > HEAD_LINES:
            self.transport.write(TOO_LONG)
            self.transport.close()
        elif found or self._rest[0] <= 0x20:  # the parser can tell that the latter is no request
            head = bytes(self._rest[:whole])
            del self._rest[:whole]
            self.link.waiting = False
            super().data_received(head)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.link.wait()
        self._next()


class Scan:
    """Finds the frames in what a client sends, at a tenth of the cost of parsing them."""

    def __init__(self) -> None:
        self._head, self._left = bytearray(), 0  # of a frame that is not whole: its first bytes, and those to come

    def frames(self, data: bytes) -> Iterator[tuple[int, bool]]:
        """The size of each frame that begins in `data`, and whether it is for control."""
        at = 0
        while True:
            step = min(self._left, len(data) - at)
            at, self._left = at + step, self._left - step
            if self._left or at == len(data):
                return
            needed = 2
            if len(self._head) >= 2:
                needed += {126: 2, 127: 8}.get(self._head[1] & 127, 0) + (4 if self._head[1] & 128 else 0)
            if (lacking := needed - len(self._head)) > 0:
                self._head += data[at : at + lacking]
                at += lacking
                if len(self._head) < needed:
                    return
                if needed == 2:
                    continue
            length, more = self._head[1] & 127, len(self._head) - (4 if self._head[1] & 128 else 0)
            self._left = length if length < 126 else int.from_bytes(self._head[2:more], "big")
            yield self._left, bool(self._head[0] & 8)
            self._head.clear()


class WebSocket(Limited, WebSocketsSansIOProtocol):
    """WebSockets whose messages and bytes are counted, and whose errors are a line in the log."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._scan = Scan()
        self._queued = 0  # bytes of whole messages that nobody has taken yet
        self._resting: asyncio.TimerHandle | None = None  # until when nothing is read

    def connection_lost(self, exc: Exception | None) -> None:
        if self._resting:
            self._resting.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        rest = 0.0
        for size, control in self._scan.frames(data) if self.handshake_initiated else ():
            if size >= SMALL and not control:
                rest = max(rest, self.link.data(size + OVERHEAD))
            elif not self.link.message():
                self.link.abort()
                return
        super().data_received(data)
        if not self.handshake_initiated:  # the head is whole, but not a handshake
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()
        if self.transport.is_closing():
            return
        if rest and not self._resting:
            self.transport.pause_reading()
            self._resting = self.loop.call_later(rest, self._rested)
        self._hold()

    def _rested(self) -> None:
        self._resting = None
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _hold(self) -> None:
        count = len(self.conn.reader.buffer) + sum(map(len, self.frames)) + self._queued
        if (link := self.link.hold(count)) and link.transport:
            protocol = link.transport.get_protocol()
            if isinstance(protocol, WebSocket):
                protocol.fail(1013, "Too many large messages at once. Try again later.")

    def fail(self, code: int, reason: str) -> None:
        """Close the connection for what the client has sent."""
        self.frames = []
        self.link.hold(0)
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text":
            text = b"".join(self.frames)
            if len(text) > TEXT_BYTES:
                self.fail(1009, f"A message of text has more than {TEXT_BYTES} bytes.")
                return
            try:
                text.decode()
            except UnicodeDecodeError:
                self.fail(1007, "A message of text is not valid UTF-8.")
                return
        if not self.close_sent:
            self._queued += sum(map(len, self.frames))
        super().send_receive_event_to_app()

    async def receive(self) -> Any:
        message = await self.queue.get()
        if self.queue.empty():
            self._queued = 0
            self._hold()
            if self.read_paused:
                self.read_paused = False
                if not self._resting:
                    self.transport.resume_reading()
        return message

    async def send(self, message: Any) -> None:
        if self.close_sent and self.handshake_complete:
            raise ClientDisconnected
        if message.get("bytes") is not None:
            self.link.due = min(self.link.due + 1, 8)  # an acknowledgement
        await super().send(message)
