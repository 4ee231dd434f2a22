"""`biflow serve`: a socket, a server on it, and a clean end."""

import errno
import logging
import socket
import threading
import time
import webbrowser
from pathlib import Path

import uvicorn

from biflow.errors import UserError
from biflow.serve.app import Hall, app
from biflow.serve.guard import is_loopback
from biflow.serve.images import MAX_BYTES
from biflow.serve.models import find

log = logging.getLogger("biflow")
GRACE = 2  # seconds for connections to close; all is over within 5


def serve(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    first: Path | None = None,
    open_page: bool = False,
) -> None:
    """Serve the model, or the models, in `folder` until SIGTERM or Ctrl-C.

    Prints the address. `port` 0 takes a free one. `open_page` shows the page in a browser once the model is warm.

    Raises:
        UserError: no model there, or an address that cannot be had.
    """
    folders = find(folder)
    listening = _listen(host, port)
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "")
    if not is_loopback(host) and not token:
        log.warning("Whoever reaches %s can use this server; give a --token to choose who.", host)
    hosts = {"localhost", "127.0.0.1", "::1", host} if is_loopback(host) else None
    guarded = app(folders, first=first, hosts=hosts, token=token)
    settings = uvicorn.Config(
        guarded,
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=MAX_BYTES + 2**20,  # a little more than may be uploaded is answered with a sentence
        ws_max_queue=4,
        ws_per_message_deflate=False,  # pictures are packed already, and nothing can be a bomb
        timeout_graceful_shutdown=GRACE,
    )
    server = uvicorn.Server(settings)
    print(f"{', '.join(folders)} at {address} (Ctrl-C to stop)", flush=True)
    hall = guarded.app.state.hall
    threading.Thread(target=_when_warm, args=(server, hall, address if open_page else None), daemon=True).start()
    server.run(sockets=[listening])
    if hall.failed:
        raise UserError(hall.failed)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"Port {port} of {host} is in use; choose another with --port, or 0 for any.") from error
        raise UserError(f"Cannot listen at {host}:{port}: {error.strerror or error}.") from error
    except OverflowError as error:
        raise UserError(f"port is {port}, but must be from 0 to 65535.") from error
    return listening


def _when_warm(server: uvicorn.Server, hall: Hall, address: str | None) -> None:
    """Open the page, if `address` says where, once the models are ready; end the server if they never will be."""
    while not (hall.ready or hall.failed or server.should_exit):
        time.sleep(0.1)
    if hall.failed:
        server.should_exit = True
    elif address:
        webbrowser.open(address)
