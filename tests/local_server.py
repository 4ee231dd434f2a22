"""A web server in a thread of a test, on loopback."""

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers without a word on the terminal."""

    def log_message(self, *_):
        pass

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def local_server(handler: Callable) -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
