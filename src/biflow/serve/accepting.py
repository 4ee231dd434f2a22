"""The server process: uvicorn, with a way of its own to accept connections.

asyncio accepts as fast as clients connect, sets up every connection before anybody has looked at it, and prints a
traceback when there are no descriptors left.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from biflow.serve.images import MAX_BYTES
from biflow.serve.limits import Bucket, Crowd, Link, Quiet, Share, log
from biflow.serve.protocols import BLANK_LINE, HEAD_BYTES, Http, WebSocket

try:
    import resource
except ImportError:  # Windows
    resource = None

GRACE = 2  # seconds for connections to close; everything is over within 5
CONNECTIONS, DESCRIPTORS = 2048, 8192  # at most, however many descriptors there may be
BACKLOG, QUEUE = 1024, 256  # connections that wait in the system; of one address, that wait here
ACCEPTED, AT_ONCE = 1000.0, 16  # connections that are accepted per second; together


class Server(uvicorn.Server):
    """uvicorn's server. Connections of an address that come too fast wait, and those that say nothing make room."""

    def __init__(self, config: uvicorn.Config, most: int) -> None:
        super().__init__(config)
        self.crowd = Crowd(most)
        self._tasks: set[asyncio.Task] = set()

    def handle_exit(self, sig: int, frame: Any) -> None:
        if not self.should_exit:  # a second Ctrl-C would tear what ends by itself within seconds
            super().handle_exit(sig, frame)

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        for listening in sockets or ():
            listening.listen(BACKLOG)
            listening.setblocking(False)
        await super().startup(sockets=[])  # which listens to nothing
        for listening in sockets or ():
            self._start(self._accept(listening))
        self._start(self._sweep())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self._tasks:
            task.cancel()
        for share in self.crowd.addresses.values():
            while share.queue:
                share.queue.popleft().close()
        await super().shutdown(sockets)

    def _start(self, work) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):  # a fault of ours: never go on deaf
            log.error("The server has crashed.", exc_info=error)
            self.should_exit = True

    async def _accept(self, listening: socket.socket) -> None:
        loop, pace = asyncio.get_running_loop(), Bucket(ACCEPTED, float(AT_ONCE))
        while True:
            try:
                self._arrived(*await loop.sock_accept(listening))
                for _ in range(AT_ONCE - 1):
                    self._arrived(*listening.accept())
            except BlockingIOError:  # that were all
                pass
            except OSError as error:  # mostly no descriptors: there are too many other files
                log.warning("Cannot accept connections: %s.", error.strerror or error)
                self.crowd.everyone.evict()
                await asyncio.sleep(0.1)
            await asyncio.sleep(pace.spend(float(AT_ONCE)))

    def _arrived(self, connection: socket.socket, peer: tuple) -> None:
        connection.setblocking(False)
        share = self.crowd.share(peer[0])
        if not share.queue and share.buckets["arrivals"].take():
            self._start(self._adopt(connection, peer[0]))
            return
        share.queue.append(connection)
        if len(share.queue) == 1:
            self._admit(share, peer[0])
        elif len(share.queue) > QUEUE:
            _sift(share)
            while len(share.queue) > QUEUE * 3 // 4:
                share.queue.pop().close()

    def _admit(self, share: Share, host: str) -> None:
        """Let in those who wait, as fast as their address may arrive; who has asked for something comes first."""
        arrivals = share.buckets["arrivals"]
        _sift(share)
        while share.queue and arrivals.take():
            self._start(self._adopt(share.queue.popleft(), host))
        if share.queue:
            asyncio.get_running_loop().call_later(1 / arrivals.rate, self._admit, share, host)

    async def _adopt(self, connection: socket.socket, host: str) -> None:
        shares = (self.crowd.share(host), self.crowd.everyone)
        if not all(share.evict() for share in shares if share.full):
            connection.close()
            return
        link = Link(self.crowd, host)
        state = {**self.lifespan.state, "link": link}
        protocol = Http(config=self.config, server_state=self.server_state, app_state=state)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, connection)
        except OSError:  # it is gone already
            connection.close()
            link.leave()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.crowd.sweep()


def _asked(connection: socket.socket) -> bool | None:
    """Whether the client of a connection has sent a whole head; None if it has left."""
    try:
        data = connection.recv(HEAD_BYTES, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return bool(BLANK_LINE.search(data)) if data else None


def _sift(share: Share) -> None:
    """Put those in a queue first who have asked for something, and close those who have left."""
    asked = {connection: _asked(connection) for connection in share.queue}
    for connection, answer in asked.items():
        if answer is None:
            connection.close()
    share.queue = deque(connection for way in (True, False) for connection in asked if asked[connection] is way)


def server(guarded: ASGIApp) -> Server:
    """A server for the application. It runs with `run(sockets=[…])`."""
    config = uvicorn.Config(
        guarded,
        http=Http,
        ws=WebSocket,
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips="127.0.0.1,::1",  # proxies on this machine say for whom they speak
        ws_max_size=MAX_BYTES + 2**20,  # an upload that is a little too large is answered with a sentence
        ws_per_message_deflate=False,  # pictures are compressed already, and no message can be a zip bomb
        timeout_graceful_shutdown=GRACE,
    )
    for name in ("uvicorn.error", "asyncio"):
        quieted = logging.getLogger(name)
        if not any(isinstance(one, Quiet) for one in quieted.filters):
            quieted.addFilter(Quiet())
    return Server(config, min(CONNECTIONS, _descriptors() // 2))


def _descriptors() -> int:
    """How many files and connections this process may have open, after raising the limit as far as it may."""
    if resource is None:
        return DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
