"""The server process: uvicorn, with a way of its own to accept connections.

asyncio accepts as fast as clients connect, sets up every connection before anybody has looked at it, and prints a
traceback when there are no descriptors left.
"""

import asyncio
import logging
import socket
from collections.abc import Sequence

import uvicorn

from biflow.serve.guard import Guard
from biflow.serve.images import MAX_BYTES
from biflow.serve.limits import Crowd, Link, Quiet, Share, log
from biflow.serve.protocols import Http, WebSocket

try:
    import resource
except ImportError:  # Windows
    resource = None

GRACE = 2  # seconds for connections to close; everything is over within 5
CONNECTIONS, DESCRIPTORS = 2048, 8192  # at most, however many descriptors there may be
BACKLOG, QUEUE = 1024, 256  # connections that wait in the system; of one address, that wait here


class Server(uvicorn.Server):
    """uvicorn's server. Connections of an address that come too fast wait, and those that say nothing make room."""

    def __init__(self, config: uvicorn.Config, most: int) -> None:
        super().__init__(config)
        self.crowd = Crowd(most)
        self._tasks: set[asyncio.Task] = set()

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
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket) -> None:
        loop, pace = asyncio.get_running_loop(), self.crowd.everyone.buckets["arrivals"]
        while True:
            try:
                connection, peer = await loop.sock_accept(listening)
            except OSError as error:  # mostly no descriptors: there are too many other files
                log.warning("Cannot accept connections: %s.", error.strerror or error)
                self.crowd.everyone.evict()
                await asyncio.sleep(0.1)
                continue
            share = self.crowd.share(peer[0])
            if len(share.queue) >= QUEUE:
                _thin(share)
            share.queue.append(connection)
            if len(share.queue) == 1:
                self._admit(share, peer[0])
            await asyncio.sleep(pace.spend())

    def _admit(self, share: Share, host: str) -> None:
        """Let in those who wait, as fast as their address may arrive."""
        arrivals = share.buckets["arrivals"]
        while share.queue:
            if _left(share.queue[0]):
                share.queue.popleft().close()
            elif arrivals.take():
                self._start(self._adopt(share.queue.popleft(), host))
            else:
                asyncio.get_running_loop().call_later(1 / arrivals.rate, self._admit, share, host)
                return

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


def _left(connection: socket.socket) -> bool:
    """Whether the client of a connection has closed it already."""
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _thin(share: Share) -> None:
    """Make room in a queue: close those whose clients have left, or else the one that has waited longest."""
    there = [connection for connection in share.queue if not _left(connection)]
    kept = there[1:] if len(there) >= QUEUE else there
    for connection in set(share.queue) - set(kept):
        connection.close()
    share.queue.clear()
    share.queue.extend(kept)


def server(guarded: Guard) -> Server:
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
