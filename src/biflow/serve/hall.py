"""The sessions of a server, and whether its models are ready."""

import logging
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Event

from biflow.errors import UserError
from biflow.serve.clips import Clips
from biflow.serve.models import Served, load, warm_up
from biflow.serve.session import Session
from biflow.serve.shelf import Shelf
from biflow.serve.uploads import Uploads

log = logging.getLogger("biflow")
SESSIONS, VIEWERS = 64, 16  # at once; viewers per session
LINGER = 60.0  # seconds for which a session without viewers is kept


class Hall:
    """The sessions that are open, and the models that they share.

    Attributes:
        models: by name; none until they are ready.
        sessions: by name.
        ready: whether sessions may be opened.
        failure: why they never will be.
        prepared: set once one of the two is decided.
        uploads: reads the pictures of clients.
        shelf: keeps their recordings.
        clips: makes clips of the last seconds.
    """

    def __init__(self) -> None:
        self.models: dict[str, Served] = {}
        self.sessions: dict[str, Session] = {}
        self.ready = False
        self.failure: UserError | None = None
        self.prepared = Event()
        self.uploads = Uploads()
        self.shelf = Shelf()
        self.clips = Clips()

    def prepare(self, folders: Mapping[str, Path], first: Path | None) -> None:
        """Load the models, and run each once as sessions will."""
        try:
            models = load(folders, first)
            for served in models.values():
                warm_up(served)
            self.models, self.ready = models, True
        except UserError as error:
            log.error("%s", error)
            self.failure = error
        except Exception:
            log.exception("The model could not be started.")
            self.failure = UserError("The model could not be started; see the log.")
        finally:
            self.prepared.set()

    def enter(self, name: str | None) -> tuple[Session, bool]:
        """The session of that name, or a new one, and whether it is new. Raises UserError if there is no room."""
        session = self.sessions.get(name or "")
        if session and session.ended is None:
            if len(session.viewers) >= VIEWERS:
                raise UserError(f"This session already has {VIEWERS} viewers.")
            return session, False
        self.sweep()
        if len(self.sessions) >= SESSIONS:
            idle = [session for session in self.sessions.values() if not session.viewers]
            if not idle:
                raise UserError(f"All {SESSIONS} sessions of this server are in use; try again later.")
            self.dismiss(min(idle, key=lambda session: session.left))
        session = Session(secrets.token_urlsafe(9), self.models, self.shelf).start()
        self.sessions[session.name] = session
        return session, True

    def dismiss(self, session: Session, sentence: str = "The session has ended.") -> None:
        """End a session; its viewers are told the sentence."""
        session.close(sentence)
        self.sessions.pop(session.name, None)

    def sweep(self) -> None:
        """End sessions that have been without viewers for LINGER seconds."""
        for session in list(self.sessions.values()):
            idle = not session.viewers and time.monotonic() - session.left > LINGER
            if idle or (session.ended and not session.viewers):
                self.dismiss(session)

    def close(self) -> None:
        """End all sessions, wait for their threads, and delete their recordings."""
        self.clips.close()
        sessions = list(self.sessions.values())
        for session in sessions:
            self.dismiss(session, "The server is shutting down.")
        for session in sessions:
            session.wait_closed()
        self.shelf.close()
