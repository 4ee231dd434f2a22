"""What tests of the server share: a viewer, a running server, and waiting for states."""

import contextlib
import io
import json
import socket
import threading
import time
from dataclasses import dataclass

import numpy as np
from PIL import Image
from websockets.sync.client import connect

from biflow.serve import accepting
from biflow.serve.hall import Hall
from biflow.serve.session import Session
from biflow.serve.viewer import Viewer
from biflow.serve.wire import unpack


def frame(message: bytes) -> tuple[dict, list[np.ndarray]]:
    """The header of a frame and its pictures, (h, w, 3) uint8."""
    header, pictures = unpack(message)
    return header, [np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) for picture in pictures]


def png(value: int = 200, side: int = 16) -> bytes:
    """A grey picture."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (value,) * 3).save(file, "PNG")
    return file.getvalue()


class Watching(Viewer):
    """A viewer that keeps what it is sent."""

    def __init__(self):
        super().__init__(lambda: None)
        self.seen, self.messages = [], []

    def read(self):
        while (taken := self.take()) is not None:
            if isinstance(taken, bytes):
                self.seen.append(frame(taken))
                self.acknowledge()
            else:
                self.messages.append(taken)


def play(session, frames=1):
    """The actions of the next frames."""
    while session._jobs:
        session.advance()
    for _ in range(frames):
        session.advance()
    return [moment.action for moment in list(session.dream.past)[-frames:]] if frames else []


def told(viewer, kind):
    viewer.read()
    return [message for message in viewer.messages if message["type"] == kind]


@contextlib.contextmanager
def running(guarded, port=0, *, ready=True):
    """The address of a server for `guarded` in a thread, once it listens, or once its models are `ready`."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    server = accepting.server(guarded)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    try:
        until(lambda: server.started and (not ready or guarded.app.state.hall.ready))
        yield address
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()


def until(condition, seconds=120.0):
    """Wait until `condition()` is true, and return it. The limit is far more than a busy machine needs."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "the state was never reached"
        time.sleep(0.02)
    return value


def idle(session: Session) -> int:
    """Wait until a session has nothing to do; the number of frames that it has solved."""
    until(lambda: session.idle)
    return session.dream.solved


@dataclass
class Server:
    """A running server: where, and its sessions."""

    address: str
    hall: Hall


class Client:
    """A browser without a page: reads, acknowledges, remembers."""

    def __init__(self, address: str, query: str = "", **headers: str):
        address = f"ws://{address}/ws{query}"
        self.link = connect(address, additional_headers=headers, max_size=None, open_timeout=120).__enter__()
        self.frames: list[tuple[dict, list[np.ndarray]]] = []
        self.messages: list[dict] = []

    def send(self, *messages: dict | bytes | str) -> None:
        for message in messages:
            self.link.send(json.dumps(message) if isinstance(message, dict) else message)

    def read(self, timeout: float = 120) -> dict:
        """The next message, or the header of the next frame, acknowledged."""
        received = self.link.recv(timeout)
        if isinstance(received, str):
            self.messages.append(json.loads(received))
            return self.messages[-1]
        self.frames.append(frame(received))
        self.send({"type": "ack"})
        return {"type": "frame", **self.frames[-1][0]}

    def until(self, kind: str, **fields) -> dict:
        """Read until a message of that type, with those fields, has come."""
        for _ in range(500):
            message = self.read()
            if message["type"] == kind and all(message.get(name) == value for name, value in fields.items()):
                return message
        raise AssertionError(f"no message of type {kind} came")

    def until_grey(self, level: int, off: int = 0) -> None:
        """Read until a frame of that grey level is shown, or the last one was."""
        for _ in range(500):
            if self.frames and abs(int(self.frames[-1][1][0].mean()) - level) <= off:
                return
            self.read()
        raise AssertionError(f"no frame of grey level {level} came")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.link.close()
