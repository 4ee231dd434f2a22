"""One client's WebSocket: what the server sends, and what it does about the client's messages."""

import asyncio
import contextlib
import json
from dataclasses import asdict
from typing import Any

from fastapi import WebSocket

from biflow.errors import UserError
from biflow.serve.hall import Hall
from biflow.serve.hello import hello
from biflow.serve.limits import Bucket
from biflow.serve.session import Session
from biflow.serve.uploads import Sender, Uploads
from biflow.serve.viewer import Viewer

TEXT_BYTES = 4096  # of one message of text; pictures are binary
RATE, BURST = 40.0, 120.0  # messages that are handled, per second and at once; others are ignored
UPLOAD_COST = 20.0  # an uploaded picture counts as this many messages


async def refuse(socket: WebSocket, sentence: str) -> None:
    """Tell a client to try again later, and close its connection."""
    await socket.send_json({"type": "wait", "text": sentence})
    await socket.close(1013)


async def watch(socket: WebSocket, hall: Hall, session: Session, new: bool) -> None:
    """Serve one viewer of a session until it leaves or the session ends."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has ended, and this viewer with it
            loop.call_soon_threadsafe(event.set)

    viewer = Viewer(wake, next(session.numbers))
    viewer.tell({**_hello(hall, session, new), "viewer": viewer.number})
    session.join(viewer)
    sending = asyncio.create_task(_send(socket, session, viewer, event))
    sender = Sender(session, viewer, socket.scope.get("state", {}).get("link"))
    receiving = asyncio.create_task(_receive(socket, hall.uploads, sender))
    try:
        await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        session.leave(viewer)
        for task in (sending, receiving):
            task.cancel()
        await asyncio.gather(sending, receiving, return_exceptions=True)
        await hall.uploads.leave(sender)


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


async def _receive(socket: WebSocket, uploads: Uploads, sender: Sender) -> None:
    rate, told = Bucket(RATE, BURST), Bucket(1.0, 1.0)
    while await _take(socket, uploads, sender, rate, told):
        pass


async def _take(socket: WebSocket, uploads: Uploads, sender: Sender, rate: Bucket, told: Bucket) -> bool:
    """Receive a message and do what it asks for; False at the end. Nothing holds it while the next is waited for."""
    received = await socket.receive()
    if received["type"] == "websocket.disconnect":
        return False
    text, data, viewer = received.get("text"), received.get("bytes"), sender.viewer
    if not rate.take(UPLOAD_COST if data is not None else 1.0):
        if told.take():
            viewer.tell({"type": "error", "text": "Too many messages at once: some of them were ignored."})
        return True
    try:
        if data is not None:
            uploads.put(sender, data)
        elif act(sender.session, viewer, text or ""):
            rate.give_back()
    except UserError as error:
        viewer.tell({"type": "error", "text": str(error)})
    return True


def act(session: Session, viewer: Viewer, text: str) -> bool:
    """Do what a message asks for; True for an acknowledgement that was due. Raises UserError, a sentence to send back.

    {"type": "ack"} | {"type": "set", "controls": {…}} | {"type": "step"} | {"type": "restart"}
    | {"type": "restart", "first": 0} | {"type": "back", "frame": 17} | {"type": "record", "on": true}
    | {"type": "ping", "at": 1234.5} | {"type": "act", "action": {"move": 1, "turn": -0.5}}

    An action is held until another one is sent. Columns that it does not name are neutral, and so is {}.
    """
    message = _parse(text)
    kind = message.get("type")
    if kind == "ack":
        due = viewer.acknowledge()
        session.taken()
        return due
    if kind == "set":
        notes = session.change(message.get("controls"))
        viewer.tell({"type": "told", "text": " ".join(notes)[:1000]})
    elif kind == "act":
        if notes := session.act(viewer, message.get("action")):
            viewer.tell({"type": "note", "text": " ".join(notes)[:1000]})
    elif kind == "step":
        session.step()
    elif kind == "restart":
        session.restart(_whole(message, "first") if "first" in message else None)
    elif kind == "back":
        session.go_back(_whole(message, "frame"))
    elif kind == "record":
        session.record(message.get("on") is True)
    elif kind == "ping":
        at = message.get("at")
        viewer.tell({"type": "pong", "at": at if isinstance(at, int | float) else None})
    else:
        raise UserError("The type of a message must be ack, set, act, step, restart, back, record or ping.")
    return False


def _parse(text: str) -> dict[str, Any]:
    if len(text) > TEXT_BYTES:
        raise UserError(f"A message has more than {TEXT_BYTES} characters.")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError("A message is not valid JSON.") from None
    if not isinstance(message, dict):
        raise UserError("A message must be a JSON object.")
    return message


def _whole(message: dict, name: str) -> int:
    value = message.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{name} must be a whole number.")
    return value


def _hello(hall: Hall, session: Session, new: bool) -> dict:
    return {
        **hello(hall.models.values()),
        "session": session.name,
        "new": new,
        "recording": session.recorder.on,
        "version": session.version,
        "controls": asdict(session.controls),
        "starts": session.starts.message,
    }
