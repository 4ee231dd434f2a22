"""`biflow serve`: a socket, a server on it, and a clean end."""

import contextlib
import errno
import logging
import signal
import socket
import threading
import time
import webbrowser
from functools import partial
from urllib.parse import quote

import uvicorn

from biflow.config import Serve
from biflow.errors import UserError
from biflow.interrupts import at_hang_up
from biflow.serve import accepting
from biflow.serve.app import app
from biflow.serve.guard import is_loopback, parse_origin
from biflow.serve.hall import Hall
from biflow.serve.models import find

log = logging.getLogger("biflow")
LOADING = 20  # seconds after which a model that is being loaded is not waited for


def serve(settings: Serve, *, open_page: bool = False) -> None:
    """Serve a model, or several, until SIGTERM or Ctrl-C, and print the address.

    Args:
        settings: what to serve, and where.
        open_page: open the page in a browser once the models are ready.

    Raises:
        UserError: there is no model, it cannot be started, or the address cannot be used.
    """
    host, token = settings.host, settings.token or ""
    origins = tuple(map(parse_origin, settings.origin))
    folders = find(settings.model)
    listening = _listen(host, settings.port)
    address = _address(host, listening.getsockname()[1], token)
    if not is_loopback(host) and not token:
        log.warning("Anyone who can reach %s can use this server; set a token to restrict access.", host)
    hosts = {"localhost", "127.0.0.1", "::1", host} if is_loopback(host) else None
    guarded = app(folders, first=settings.first, hosts=hosts, token=token, origins=origins)
    server = accepting.server(guarded)
    print(f"{', '.join(folders)} at {address} (Ctrl-C to stop)", flush=True)
    hall = guarded.app.state.hall
    threading.Thread(target=_when_ready, args=(server, hall, address if open_page else None), daemon=True).start()
    at_hang_up(partial(server.handle_exit, signal.SIGTERM, None))
    try:
        server.run(sockets=[listening])
    finally:
        _stop_loading(hall)
    if hall.failure:
        raise hall.failure


def _stop_loading(hall: Hall) -> None:
    """Wait for models that load, whatever else comes: OpenVINO aborts a process that ends while it compiles."""
    hall.closing.set()
    latest = time.monotonic() + LOADING
    while hall.loading and hall.loading.is_alive() and time.monotonic() < latest:
        with contextlib.suppress(KeyboardInterrupt):
            hall.loading.join(max(0.0, latest - time.monotonic()))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    # On Windows SO_REUSEADDR would let two servers, and any other program, have one port.
    listening.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR), 1)
    try:
        listening.bind((host, port))
    except OverflowError as error:
        listening.close()
        raise UserError(f"port is {port}, but must be from 0 to 65535.", setting="port") from error
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            sentence = f"Port {port} on {host} is in use; choose another one, or 0 for any free one."
            raise UserError(sentence, setting="port") from error
        raise UserError(f"Cannot listen on {host}:{port}: {error.strerror or error}.", setting="host") from error
    return listening


def _address(host: str, port: int, token: str) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={quote(token, safe='', errors='surrogateescape')}" if token else "")


def _when_ready(server: uvicorn.Server, hall: Hall, address: str | None) -> None:
    """Open the page at `address`, if given, once the models are ready; end the server if they never will be."""
    hall.prepared.wait()
    if hall.failure:
        server.should_exit = True
    elif address and not server.should_exit:
        webbrowser.open(address)
