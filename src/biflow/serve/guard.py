"""Who may talk to the server, and how much."""

import hmac
import ipaddress
import re
import time
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode, urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import Message, Receive, Scope, Send

from biflow.errors import UserError

COOKIE = "biflow_token"
HEADERS = {
    b"content-security-policy": b"default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-cache",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Middleware in front of `app` that refuses requests from elsewhere.

    WebSockets from pages of another origin are refused, unless it is one of `origins`; so is a POST, by which a page
    asks why. What a GET answers, browsers do not let such pages read. Also refused are requests for a Host that is not
    in `hosts` or in `origins`: a page that has rebound its own name to this machine would send one. With a `token`,
    clients give it once, as ?token=, and browsers keep it in a cookie from then on. /healthz is open to all.
    """

    def __init__(self, app: FastAPI, *, hosts: set[str] | None, token: str, origins: Sequence[str] = ()) -> None:
        self.app, self.token, self.origins = app, token, origins
        self.hosts = None if hosts is None else hosts | {_name(origin) for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        token = query.get("token", [""])[0]
        if scope["path"] != "/healthz":
            refusal = self._refusal(headers, token, reading=scope.get("method") in ("GET", "HEAD"))
            if refusal:
                await _refuse(scope, receive, send, *refusal)
                return
            stays = scope["path"] == "/stream.mjpg"  # which programs without cookies read, too
            if self.token and token and scope["type"] == "http" and not stays:  # from the address bar into a cookie
                query.pop("token")
                # Relative, since a proxy may have the page under another path.
                answer = RedirectResponse(f"?{urlencode(query, doseq=True)}", 303)
                answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
                await answer(scope, receive, send)
                return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS.items()]
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers, token: str, *, reading: bool) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self.hosts is not None and _name(f"//{host}") not in self.hosts:
            return 421, f"This server does not answer to that host name. {_allow(f'https://{host}')}"
        origin = headers.get("origin")
        foreign = origin is not None and origin not in self.origins and origin.partition("//")[2] != host
        if foreign and not reading:
            return 403, f"This server refuses pages from other addresses than its own. {_allow(str(origin))}"
        if self.token:
            expected = self.token.encode()
            if not any(hmac.compare_digest(word.encode(), expected) for word in (token, _cookie(headers))):
                return 401, "This server needs its token: open the address with ?token=… that it printed."
        return None


def parse_origin(text: str) -> str:
    """An origin as browsers write it. Raises UserError for anything but http(s)://HOST or http(s)://HOST:PORT."""
    found = re.fullmatch(r"(https?)://([\w.-]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?/?", text.lower(), re.ASCII)
    if not found or int(found[3] or 1) not in range(1, 65536):
        form = "https://HOST or https://HOST:PORT, as the browser's address bar begins"
        raise UserError(f"origin is {text!r}, but must be {form}.", setting="origin")
    scheme, host, port = found.groups()
    usual = not port or int(port) == {"http": 80, "https": 443}[scheme]
    return f"{scheme}://{host}" + ("" if usual else f":{int(port or 0)}")


def _allow(origin: str) -> str:
    """How to have pages of that origin, which may be nonsense, allowed."""
    try:
        example = parse_origin(origin)
    except UserError:
        example = "https://HOST"
    return f"To allow them, whoever runs it adds an option: biflow serve … --origin {example} (and starts it again)."


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _cookie(headers: Headers) -> str:
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie else ""


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
    if scope["type"] == "websocket":
        await receive()  # the connection request; closing before accepting answers it with 403
        await send({"type": "websocket.close", "code": 1008, "reason": sentence})
    else:
        await PlainTextResponse(sentence, status)(scope, receive, send)


class Rate:
    """A limit on the messages of one client: a bucket that fills with `rate` per second, up to `burst`."""

    def __init__(self, rate: float = 40.0, burst: float = 120.0) -> None:
        self.rate, self.burst = rate, burst
        self._left, self._then = burst, time.monotonic()
        self.refused = 0  # messages so far

    def take(self, cost: float = 1.0) -> bool:
        """Whether one more message, which counts as `cost` messages, is within the limit."""
        now = time.monotonic()
        self._left = min(self.burst, self._left + (now - self._then) * self.rate)
        self._then = now
        if self._left < cost:
            self.refused += 1
            return False
        self._left -= cost
        return True

    def give_back(self) -> None:
        """Do not count the last message: the server itself had asked for it."""
        self._left = min(self.burst, self._left + 1)

    @property
    def hopeless(self) -> bool:
        """Whether this client floods the server."""
        return self.refused > 1000
