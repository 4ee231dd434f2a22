"""The frames of a session as /stream.mjpg, for OBS and other programs that show a picture which changes."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator

import numpy as np
import torch
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from PIL import Image

from biflow.errors import UserError
from biflow.serve.hall import Hall
from biflow.serve.images import encode
from biflow.serve.limits import network
from biflow.serve.session import Session
from biflow.serve.viewer import Viewer
from biflow.serve.wire import unpack

BOUNDARY = "frame"
PATIENCE = 5.0  # seconds without a frame, as in a pause, after which the last one is sent again
routes = APIRouter()


@routes.get("/stream.mjpg")
async def stream(request: Request, session: str | None = None) -> Response:
    """JPEGs without an end, each in place of the one before: those of the session of that name, or of a new one."""
    hall: Hall = request.app.state.hall
    given, token = request.query_params.get("token"), request.app.state.token  # Guard has compared them
    if request.headers.get("sec-fetch-site") == "cross-site" and not (token and given):
        what = "Pages of another site can show this stream only from a server with a token, with it in the address."
        return PlainTextResponse(what, 403)
    if not hall.ready:
        return PlainTextResponse("The model is not ready.", 503)
    try:
        entered, _ = hall.enter(session, network(request.client.host if request.client else ""))
    except UserError as error:
        return PlainTextResponse(str(error), 503)
    return StreamingResponse(_parts(entered), media_type=f"multipart/x-mixed-replace; boundary={BOUNDARY}")


async def _parts(session: Session) -> AsyncIterator[bytes]:
    """The parts of the answer. It is a viewer like any other, which returns a credit once a frame has been sent."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has ended, and this viewer with it
            loop.call_soon_threadsafe(event.set)

    viewer, last = Viewer(wake, next(session.numbers)), b""
    session.join(viewer)
    try:
        if session.ended is not None:  # since the request came, which it would not be told any more
            return
        yield f"--{BOUNDARY}\r\n".encode()
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(event.wait(), PATIENCE)
            waited = not event.is_set()
            event.clear()
            while (message := viewer.take()) is not None:
                if isinstance(message, bytes):
                    session.taken()  # the next frame is solved while this one is on its way
                    last = _part(message)
                    yield last
                    viewer.acknowledge()
                    session.taken()  # of a viewer that has just come, no frame was solved before its first answer
                elif message["type"] == "ended":
                    return
            if waited:
                yield last  # by which a connection that is gone is noticed
    finally:
        session.leave(viewer)


def _part(message: bytes) -> bytes:
    """A frame as a part. The boundary after it is sent with it, since browsers show a picture once that has come."""
    header, pictures = unpack(message)
    data = pictures[0] if header["format"] == "image/jpeg" and len(pictures) == 1 else _jpeg(pictures)
    head = f"Content-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data + f"\r\n--{BOUNDARY}\r\n".encode()


def _jpeg(pictures: list[bytes]) -> bytes:
    """Pictures of any format, of two streams side by side, as one JPEG."""
    images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    height = images[0].height
    images = [image.resize((image.width * height // image.height, height)) for image in images]
    pixels = np.concatenate([np.asarray(image) for image in images], axis=1)
    return encode(torch.from_numpy(pixels).permute(2, 0, 1), "jpeg")
