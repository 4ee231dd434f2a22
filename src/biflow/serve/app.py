"""The web server: the page at /, frames at /ws, health at /healthz, recordings as mp4."""

import asyncio
import base64
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Thread
from typing import Any

from fastapi import FastAPI, WebSocket
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from torch import Tensor

from biflow import __version__
from biflow.errors import UserError
from biflow.serve import images
from biflow.serve.controls import NEED_STEPS, RANGES, SOLVERS
from biflow.serve.guard import Guard, Rate
from biflow.serve.models import Served, load, warm_up
from biflow.serve.session import Session
from biflow.serve.viewer import CREDITS, Viewer

log = logging.getLogger("biflow")
PAGE = Path(__file__).parent / "page"
SESSIONS, VIEWERS = 64, 16  # at once; viewers a session
LINGER = 60.0  # seconds that a session waits for a viewer to come back
TEXT_BYTES = 4096  # of one message with words; pictures are binary
UPLOAD_COST = 20.0  # messages' worth


class Hall:
    """The sessions that are open, and whether the models are ready."""

    def __init__(self) -> None:
        self.models: dict[str, Served] = {}
        self.sessions: dict[str, Session] = {}
        self.ready = False
        self.failed: str | None = None
        self.decoding = asyncio.Lock()  # one picture at a time is unpacked

    def prepare(self, folders: Mapping[str, Path], first: Path | None) -> None:
        """Load the models and run each once, the way sessions will."""
        try:
            models = load(dict(folders), first)
            for served in models.values():
                warm_up(served)
            self.models, self.ready = models, True
        except Exception as error:
            self.failed = str(error) if isinstance(error, UserError) else "The model could not be started; see the log."
            log.error("%s", error, exc_info=not isinstance(error, UserError))

    def enter(self, name: str | None) -> tuple[Session, bool]:
        """The session of that name, or a new one, and whether it is new. Raises UserError where it is full."""
        found = self.sessions.get(name or "")
        if found and found.ended is None:
            if len(found.viewers) >= VIEWERS:
                raise UserError(f"This session has {VIEWERS} viewers already.")
            return found, False
        self.sweep()
        if len(self.sessions) >= SESSIONS:
            idle = [session for session in self.sessions.values() if not session.viewers]
            if not idle:
                raise UserError(f"All {SESSIONS} sessions of this server are in use; try again later.")
            self.dismiss(min(idle, key=lambda session: session.left))
        session = Session(secrets.token_urlsafe(9), self.models).start()
        self.sessions[session.name] = session
        return session, True

    def dismiss(self, session: Session, sentence: str = "The session has ended.") -> None:
        session.close(sentence)
        self.sessions.pop(session.name, None)

    def sweep(self) -> None:
        """End sessions that nobody came back to."""
        for session in list(self.sessions.values()):
            idle = not session.viewers and time.monotonic() - session.left > LINGER
            if idle or (session.ended and not session.viewers):
                self.dismiss(session)


def app(
    folders: Mapping[str, Path], *, first: Path | None = None, hosts: set[str] | None = None, token: str = ""
) -> Guard:
    """The ASGI application for the models in `folders`.

    Args:
        folders: model folders by name.
        first: where first frames come from, as for `biflow sample`; None for each model's own.
        hosts: the host names by which it may be addressed; None for any.
        token: what clients must know; none if empty.
    """
    hall = Hall()

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        # A daemon, not a task: whoever stops the server while it warms up does not wait for that.
        Thread(target=hall.prepare, args=(folders, first), daemon=True).start()
        sweeping = asyncio.create_task(_sweep(hall))
        yield
        sweeping.cancel()
        sessions = list(hall.sessions.values())
        for session in sessions:
            hall.dismiss(session, "The server is closing.")
        for session in sessions:
            session.wait_closed()

    api = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    api.state.hall = hall

    @api.get("/healthz")
    async def health() -> Response:
        state = "failed" if hall.failed else "ready" if hall.ready else "warming up"
        body = {"status": state, "sessions": len(hall.sessions), "models": len(hall.models), "version": __version__}
        return JSONResponse(body, status_code=200 if hall.ready else 503)

    @api.get("/recording/{session}/{name}")
    async def recording(session: str, name: str) -> Response:
        found = hall.sessions.get(session)
        path = found.recorder.find(name) if found else None  # never made of what was asked for
        if path is None:
            return PlainTextResponse("That recording is not kept any more.", 404)
        return FileResponse(path, media_type="video/mp4", filename="biflow.mp4")

    @api.websocket("/ws")
    async def frames(socket: WebSocket, session: str | None = None) -> None:
        await socket.accept()
        if not hall.ready:
            # What failed may name a path, which is the log's and nobody else's.
            await _refuse(socket, "The model cannot be started." if hall.failed else "The model is warming up.")
            return
        try:
            entered, new = hall.enter(session)
        except UserError as error:
            await _refuse(socket, str(error))
            return
        await _watch(socket, hall, entered, new)

    api.mount("/", StaticFiles(directory=PAGE, html=True))
    return Guard(api, hosts=hosts, token=token)


async def _sweep(hall: Hall) -> None:
    while True:
        await asyncio.sleep(LINGER / 4)
        hall.sweep()


async def _refuse(socket: WebSocket, sentence: str) -> None:
    await socket.send_json({"type": "wait", "text": sentence})
    await socket.close(1013)


async def _watch(socket: WebSocket, hall: Hall, session: Session, new: bool) -> None:
    """One viewer, from hello to goodbye."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and this viewer with it
            loop.call_soon_threadsafe(event.set)

    viewer = Viewer(wake)
    viewer.tell(_hello(hall, session, new))
    session.join(viewer)
    sending = asyncio.create_task(_send(socket, session, viewer, event))
    receiving = asyncio.create_task(_receive(socket, hall, session, viewer))
    try:
        await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        session.leave(viewer)
        for task in (sending, receiving):
            task.cancel()
        await asyncio.gather(sending, receiving, return_exceptions=True)


async def _send(socket: WebSocket, session: Session, viewer: Viewer, event: asyncio.Event) -> None:
    while True:
        await event.wait()
        event.clear()
        while (message := viewer.take()) is not None:
            if isinstance(message, bytes):
                session.taken()  # the next frame is solved while this one is on its way
                await socket.send_bytes(message)
            else:
                await socket.send_text(json.dumps(message))
                if message["type"] == "ended":
                    await socket.close(1001)
                    return


async def _receive(socket: WebSocket, hall: Hall, session: Session, viewer: Viewer) -> None:
    rate = Rate()
    while True:
        received = await socket.receive()
        if received["type"] == "websocket.disconnect":
            return
        text, data = received.get("text"), received.get("bytes")
        try:
            if not rate.take(UPLOAD_COST if data is not None else 1.0):
                if rate.hopeless:
                    await socket.close(1008)
                    return
                if rate.refused % 100 == 1:
                    viewer.tell({"type": "error", "text": "Too much at once: some of it was left out."})
                continue
            if data is not None:
                async with hall.decoding:
                    size = session.models[session.controls.model].size
                    session.restart_from(await asyncio.to_thread(images.decode, data, size))
            elif act(session, viewer, text or ""):
                rate.give_back()
        except UserError as error:
            viewer.tell({"type": "error", "text": str(error)})


def act(session: Session, viewer: Viewer, text: str) -> bool:
    """Do what a message asks for; True for an acknowledgement that was due. Raises UserError, a sentence to send back.

    {"type": "ack"} | {"type": "set", "controls": {…}} | {"type": "step"} | {"type": "restart", "first": 0}
    | {"type": "back", "frame": 17} | {"type": "record", "on": true} | {"type": "ping", "at": 1234.5}
    """
    if len(text) > TEXT_BYTES:
        raise UserError(f"A message has more than {TEXT_BYTES} characters.")
    try:
        message: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError("A message is no JSON.") from None
    if not isinstance(message, dict):
        raise UserError("A message must be a JSON object.")
    kind = message.get("type")
    if kind == "ack":
        return viewer.acknowledge()
    if kind == "set":
        told = session.change(message.get("controls"))
        viewer.tell({"type": "told", "text": " ".join(told)[:1000]})
    elif kind == "step":
        session.step()
    elif kind == "restart":
        session.restart(_whole(message, "first"))
    elif kind == "back":
        session.go_back(_whole(message, "frame"))
    elif kind == "record":
        session.record(message.get("on") is True)
    elif kind == "ping":
        at = message.get("at")
        viewer.tell({"type": "pong", "at": at if isinstance(at, int | float) else None})
    else:
        raise UserError("A message's type must be ack, set, step, restart, back, record or ping.")
    return False


def _whole(message: dict, name: str) -> int:
    value = message.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{name} must be a whole number.")
    return value


def _hello(hall: Hall, session: Session, new: bool) -> dict:
    return {
        "type": "hello",
        "session": session.name,
        "new": new,
        "recording": session.recorder.on,
        "version": session.version,
        "controls": asdict(session.controls),
        "ranges": RANGES,
        "solvers": SOLVERS,
        "need_steps": NEED_STEPS,
        "credits": CREDITS,
        "upload_bytes": images.MAX_BYTES,
        "models": [
            {
                "name": served.name,
                "title": served.title,
                "method": served.model.method,
                "eps": served.eps,
                "fps": served.fps,
                "size": served.size,
                "first": [_data_url(picture) for picture in served.first],
            }
            for served in hall.models.values()
        ],
    }


def _data_url(picture: Tensor) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(images.encode(picture, "jpeg")).decode()
