"""The web server: the page at /, frames at /ws, health at /healthz, recordings as mp4."""

import asyncio
import contextlib
import html
import logging
import mimetypes
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import BinaryIO

from fastapi import APIRouter, FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles

from biflow import __version__
from biflow.errors import UserError
from biflow.serve import mjpeg
from biflow.serve.connection import refuse, watch
from biflow.serve.guard import Guard
from biflow.serve.hall import LINGER, Hall
from biflow.serve.limits import network
from biflow.serve.shelf import remove_leftovers

log = logging.getLogger("biflow")
PAGE = Path(__file__).parent / "page"
for suffix, kind in ((".js", "text/javascript"), (".css", "text/css")):  # Windows' registry may say text/plain
    mimetypes.add_type(kind, suffix)
STARTING = 3.0  # seconds to wait for models that are still starting when the server ends
routes = APIRouter()


def app(
    folders: Mapping[str, Path],
    *,
    first: Path | None = None,
    hosts: set[str] | None = None,
    token: str = "",
    origins: Sequence[str] = (),
) -> Guard:
    """The ASGI application for the models in `folders`.

    Args:
        folders: model folders by name.
        first: where first frames come from: an image, a film, a folder of images or a prepared set; None for each
            model's own.
        hosts: the host names by which it may be addressed; None for any.
        token: a secret that clients must give; empty for none.
        origins: those of pages that may use it besides its own, as browsers write them.
    """
    hall = Hall()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI):
        # A daemon thread, not a task: stopping the server waits for models that start, but only for a few seconds.
        hall.loading = Thread(target=hall.prepare, args=(folders, first), daemon=True)
        hall.loading.start()
        sweeping = asyncio.create_task(_sweep(hall))
        remove_leftovers()
        hall.uploads.warm()
        yield
        sweeping.cancel()
        await hall.uploads.close()
        hall.close()
        hall.loading.join(STARTING)  # a process that ends while its thread compiles a network is aborted by C++

    api = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    api.state.hall, api.state.origins, api.state.token = hall, origins, token
    api.include_router(routes)
    api.include_router(mjpeg.routes)
    api.mount("/", StaticFiles(directory=PAGE))
    return Guard(api, hosts=hosts, token=token, origins=origins)


@routes.get("/")
@routes.get("/index.html")
async def index(request: Request) -> Response:
    """The page. Where it is shared, its picture needs a whole address: that of the first allowed origin, if any."""
    origins: Sequence[str] = request.app.state.origins
    base = origins[0] + "/" if origins else str(request.base_url)
    return HTMLResponse((PAGE / "index.html").read_text("utf-8").replace("{{base}}", html.escape(base)))


@routes.get("/preview.png")
async def preview(request: Request) -> Response:
    """The picture that represents the page where it is shared: first frames of the first model."""
    served = next(iter(request.app.state.hall.models.values()), None)
    if served is None:
        return PlainTextResponse("The model is not ready.", 503)
    return Response(await asyncio.to_thread(lambda: served.preview), media_type="image/png")


@routes.get("/healthz")
async def health(request: Request) -> Response:
    """Whether the models are ready: 200 if so, 503 while they warm up or if they failed."""
    hall: Hall = request.app.state.hall
    state = "failed" if hall.failure else "ready" if hall.ready else "warming up"
    body = {"status": state, "sessions": len(hall.sessions), "models": len(hall.models), "version": __version__}
    return JSONResponse(body, status_code=200 if hall.ready else 503)


@routes.get("/recording/{session}/{name}")
async def recording(request: Request, session: str, name: str) -> Response:
    """A file of a finished recording: the mp4, or the JSON with its actions."""
    found = request.app.state.hall.sessions.get(session)
    path = found.recorder.find(name) if found else None  # compared with `name`, never built from it
    try:
        file = path and path.open("rb")  # now: it may be deleted at any moment
    except OSError:
        file = None
    if not path or not file:
        return PlainTextResponse("That recording is no longer kept.", 404)
    headers = {
        "content-length": str(os.fstat(file.fileno()).st_size),
        "content-disposition": f'attachment; filename="biflow{path.suffix}"',
    }
    kind = {".mp4": "video/mp4", ".json": "application/json"}[path.suffix]
    return StreamingResponse(_blocks(file), media_type=kind, headers=headers)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while block := file.read(2**18):
            yield block


@routes.get("/clip/{session}")
async def clip(request: Request, session: str) -> Response:
    """The last seconds of a session as an mp4."""
    hall: Hall = request.app.state.hall
    found = hall.sessions.get(session)
    if found is None or found.ended:
        return PlainTextResponse("That session has ended.", 404)
    try:
        data = await hall.clips.make(found, request.is_disconnected)
    except (UserError, OSError) as error:  # the session or the client may have gone meanwhile
        log.warning("A clip failed: %s", error)
        return PlainTextResponse("The clip could not be made; try again.", 503)
    return Response(data, media_type="video/mp4", headers={"content-disposition": 'attachment; filename="biflow.mp4"'})


@routes.websocket("/ws")
async def frames(socket: WebSocket, session: str | None = None) -> None:
    """A viewer of the session of that name, or of a new one."""
    hall: Hall = socket.app.state.hall
    await socket.accept()
    try:
        if not hall.ready:
            # The reason of a failure may contain a path, so it goes to the log only.
            raise UserError("The model cannot be started." if hall.failure else "The model is warming up.")
        entered, new = hall.enter(session, network(socket.client.host if socket.client else ""))
    except UserError as error:
        with contextlib.suppress(WebSocketDisconnect):
            await refuse(socket, str(error))
        return
    await watch(socket, hall, entered, new)


async def _sweep(hall: Hall) -> None:
    while True:
        await asyncio.sleep(LINGER / 4)
        hall.sweep()
