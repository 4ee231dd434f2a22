"""How much clients may ask for: each connection, each address, and all of them together.

A budget is a bucket. Every connection has buckets of its own, which honest clients never empty. It shares others with
its address, and with everybody. While a shared bucket is empty, what a connection does costs as many times more as
there are too many connections for it, so that those who take most come to their own limit, and nobody else does.
"""

import asyncio
import ipaddress
import logging
import time
from collections import deque
from socket import socket

MIB = 2**20
# Per second, at once. An honest viewer sends up to 60 changes and 60 actions per second; acknowledgements that are due
# are free. A connection starts with less than it may save up: links that stall deliver seconds at once.
OWN = {"messages": (200.0, 1000.0), "bytes": (16.0 * MIB, 40.0 * MIB), "requests": (20.0, 60.0)}
FRESH = {"messages": 200.0, "bytes": 8.0 * MIB}
# "entries" are WebSockets that are opened, and "arrivals" connections of any kind.
ADDRESS = {"messages": (500.0, 1500.0), "bytes": (16.0 * MIB, 64.0 * MIB), "requests": (60.0, 400.0)}
ADDRESS |= {"entries": (20.0, 200.0), "arrivals": (60.0, 400.0)}
READING = (0.1, 3.0)  # seconds that reading pictures takes: beyond them, everything else comes first
EVERYONE = 4  # times what one address may take
FLOOD = 20.0  # entries that a connection costs its address if it was closed for flooding
LONGEST = 5.0  # seconds that anything is delayed
PATIENCE = 60.0  # and seconds that an address has to wait until its pictures are read in a hurry again
UNFINISHED = 128 * MIB  # bytes of unfinished messages of everyone; one address may have half of them
HEAD, BLOCKED, CLOSING = 10.0, 30.0, 5.0  # seconds for a head, without reading any of an answer, to close
FORGOTTEN = 30.0  # seconds after which an address is forgotten that has no connections, and hurries


class Quiet(logging.Filter):
    """Lets a kind of message pass once a second, so that an attack does not fill the log."""

    def __init__(self) -> None:
        super().__init__()
        self._then: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._then.get(record.msg, -1.0) < 1.0:
            return False
        if len(self._then) > 100:
            self._then.clear()
        self._then[record.msg] = now
        return True


log = logging.getLogger("biflow.serve")  # for what a flood repeats
log.addFilter(Quiet())


class Bucket:
    """A budget that fills with `rate` per second, up to `burst`. It can be overdrawn by `longest` seconds' worth."""

    def __init__(self, rate: float, burst: float, start: float | None = None, *, longest: float = LONGEST) -> None:
        self.rate, self.burst, self.longest = rate, burst, longest
        self._left, self._then = burst if start is None else start, time.monotonic()

    def take(self, cost: float = 1.0) -> bool:
        """Take `cost` if that much is there."""
        self._fill()
        if self._left < cost:
            return False
        self._left -= cost
        return True

    def spend(self, cost: float = 1.0) -> float:
        """Take `cost`, whether or not it is there. Returns after how many seconds it will have come in."""
        self._fill()
        self._left = max(self._left - cost, -self.rate * self.longest)
        return max(0.0, -self._left / self.rate) if self.rate else self.longest * (self._left < 0)

    @property
    def left(self) -> float:
        """What can be taken now; negative if it is overdrawn."""
        self._fill()
        return self._left

    def give_back(self) -> None:
        """Do not count the last one: the server itself had asked for it."""
        self._left = min(self.burst, self._left + 1)

    def _fill(self) -> None:
        now = time.monotonic()
        self._left = min(self.burst, self._left + (now - self._then) * self.rate)
        self._then = now


class Share:
    """What the connections of one address take together, or those of everyone.

    Attributes:
        links: its connections.
        held: bytes of unfinished messages.
        queue: connections that have arrived too fast, and wait.
    """

    def __init__(self, connections: int, held: int, times: int = 1) -> None:
        self.connections, self.most_held = connections, held
        self.buckets = {name: Bucket(times * rate, times * burst) for name, (rate, burst) in ADDRESS.items()}
        self.reading = Bucket(*(times * value for value in READING), longest=PATIENCE)
        self.links: dict[Link, None] = {}  # in the order in which they came
        self.held = 0
        self.queue: deque[socket] = deque()
        self.used = time.monotonic()

    @property
    def idle(self) -> bool:
        """Whether it can be forgotten."""
        gone = not self.links and not self.queue and time.monotonic() - self.used > FORGOTTEN
        return gone and self.reading.left > 0

    @property
    def full(self) -> bool:
        return len(self.links) >= self.connections

    def evict(self) -> bool:
        """Close the connection that has waited longest without a whole head, or else without another request."""
        for link in self.links:
            if link.waiting and link.transport:
                link.abort()
                return True
        return False


class Crowd:
    """All connections of a server, at most `most` of them; one address may have three quarters."""

    def __init__(self, most: int) -> None:
        self.everyone = Share(most, UNFINISHED, EVERYONE)
        self.addresses: dict[str, Share] = {}

    def share(self, host: str) -> Share:
        """The share of an address. The 2^64 addresses of one IPv6 network have one together."""
        name = network(host)
        share = self.addresses.get(name)
        if share is None:
            share = self.addresses[name] = Share(self.everyone.connections * 3 // 4, UNFINISHED // 2)
        share.used = time.monotonic()
        return share

    def sweep(self) -> None:
        """Close what is overdue, and forget addresses that have left."""
        now = time.monotonic()
        for link in list(self.everyone.links):
            if link.overdue(now):
                link.abort()
        self.addresses = {name: share for name, share in self.addresses.items() if not share.idle}


class Link:
    """One connection: what it has used, and for what it waits.

    Attributes:
        waiting: it has no whole head, or waits for its next request.
        blocked: since when the client has read nothing of what is sent to it; None if it reads.
        held: bytes of unfinished messages.
        due: acknowledgements that the server waits for.
        closed: it is closed or about to be.
    """

    def __init__(self, crowd: Crowd, host: str) -> None:
        self.crowd, self.host = crowd, host
        self.buckets = {name: Bucket(rate, burst, FRESH.get(name)) for name, (rate, burst) in OWN.items()}
        self.transport: asyncio.Transport | None = None
        self.waiting, self.closed = True, False
        self.blocked: float | None = None
        self.held, self.due = 0, 0
        self._since = self._began = time.monotonic()  # it waits, it closes; its message began
        self.shares = (crowd.share(host), crowd.everyone)
        for share in self.shares:
            share.links[self] = None

    def move(self, host: str) -> None:
        """Count it to the address `host`, for which a proxy speaks."""
        if host == self.host:
            return
        address, everyone = self.shares
        address.links.pop(self, None)
        address.held -= self.held
        self.host, self.shares = host, (self.crowd.share(host), everyone)
        self.shares[0].held += self.held
        if not self.closed:
            self.shares[0].links[self] = None

    def leave(self) -> None:
        """It is closed."""
        self.hold(0)
        self.closed = True
        for share in self.shares:
            share.links.pop(self, None)
            share.used = time.monotonic()

    def abort(self) -> None:
        """Close it at once."""
        self.leave()
        if self.transport:
            self.transport.abort()

    def wait(self) -> None:
        """It waits for a request, from now on."""
        self.waiting, self._since = True, time.monotonic()
        for share in self.shares:
            if share.links.pop(self, self) is None:
                share.links[self] = None  # as the last one

    def overdue(self, now: float) -> bool:
        """Whether it takes too long to say what it wants, to read what it is sent, or to close."""
        if self.transport is None:
            return False
        if self.transport.is_closing() and not self.closed:
            self.closed, self._since = True, now
        limit = CLOSING if self.closed else HEAD
        stuck = self.blocked is not None and now - self.blocked > BLOCKED
        return stuck or ((self.closed or self.waiting) and now - self._since > limit)

    def message(self) -> bool:
        """Count a small message; False if there are too many. Those beyond it cost the address entries."""
        if self.due:
            self.due -= 1
            return True
        if not self._spend("messages", 1.0):
            return True
        for share in self.shares:
            share.buckets["entries"].spend(FLOOD)
        log.warning("Closed a connection of %s: too many messages.", self.host)
        return False

    def data(self, count: int) -> float:
        """Count bytes of a large message. Returns for how many seconds to read no more."""
        return self._spend("bytes", float(count))

    def request(self) -> float:
        """Count a request. Returns after how many seconds to answer it."""
        return self._spend("requests", 1.0)

    def entry(self) -> float:
        """Count a WebSocket that is opened. Returns after how many seconds to answer it."""
        return max(share.buckets["entries"].spend() for share in self.shares)

    def read_picture(self, seconds: float) -> None:
        """Count the time that a picture took."""
        for share in self.shares:
            share.reading.spend(seconds)

    @property
    def hurries(self) -> bool:
        """Whether its pictures are read at once; otherwise only while nothing else is to be done."""
        return all(share.reading.left > 0 for share in self.shares)

    def _spend(self, kind: str, cost: float) -> float:
        own, times = self.buckets[kind], 1.0
        for share in self.shares:
            common = share.buckets[kind]
            if not common.take(cost):
                times = max(times, len(share.links) * own.rate / common.rate)
        return own.spend(cost * times)

    def hold(self, count: int) -> "Link | None":
        """Say how many bytes of unfinished messages it holds. Returns who must go, if its share does not allow that.

        That is the one whose message has been unfinished for longest.
        """
        if count and not self.held:
            self._began = time.monotonic()
        for share in self.shares:
            share.held += count - self.held
        self.held = count
        for share in self.shares:
            if share.held > share.most_held:
                return min((link for link in share.links if link.held), key=lambda link: link._began, default=None)
        return None


def network(host: str) -> str:
    """What addresses have a share together: one of IPv4, or those of a network of IPv6."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host[:100]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        if not address.is_loopback:
            return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)
