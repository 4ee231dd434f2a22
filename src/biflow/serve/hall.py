"""The sessions of a server, and whether its models are ready."""

import logging
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Event, Thread

from biflow.errors import UserError
from biflow.serve.clips import Clips
from biflow.serve.models import Served, load, warm_up
from biflow.serve.session import Session
from biflow.serve.shelf import Shelf
from biflow.serve.uploads import Uploads

log = logging.getLogger("biflow")
SESSIONS, VIEWERS = 64, 16  # at once; viewers per session
SHARE = 32  # sessions of one address
SILENCE = 10.0  # seconds without acknowledging after which a session may have to make room
LINGER = 60.0  # seconds for which a session without viewers is kept


class Hall:
    """The sessions that are open, and the models that they share.

    Attributes:
        models: by name; none until they are ready.
        sessions: by name.
        ready: whether sessions may be opened.
        failure: why they never will be.
        prepared: set once one of the two is decided.
        closing: set once models that load need not go on.
        loading: the thread that prepares the models, once it has begun.
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
        self.loading: Thread | None = None
        self.closing = Event()
        self.uploads = Uploads()
        self.shelf = Shelf()
        self.clips = Clips()

    def prepare(self, folders: Mapping[str, Path], first: Path | None) -> None:
        """Load the models, and run each once as sessions will."""
        try:
            models = load(folders, first, self.closing)
            for served in models.values():
                warm_up(served, self.closing)
            if self.closing.is_set():
                return
            next(iter(models.values())).preview  # noqa: B018 — made once, before anybody asks
            self.models, self.ready = models, True
        except UserError as error:
            self.failure = error  # which ends the server, and is said there
        except Exception:
            log.exception("The model could not be started.")
            self.failure = UserError("The model could not be started; see the log.")
        finally:
            self.prepared.set()

    def enter(self, name: str | None, address: str = "") -> tuple[Session, bool]:
        """The session of that name, or a new one for that address, and whether it is new.

        If there is no room, a session makes room that has no viewers, or none that has acknowledged a frame for long.
        Otherwise the newest one of the address that has most of them does, if that is more than a quarter of all.

        Raises:
            UserError: there is no room.
        """
        session = self.sessions.get(name or "")
        if session and session.ended is None:
            if len(session.viewers) >= VIEWERS:
                raise UserError(f"This session already has {VIEWERS} viewers.")
            return session, False
        self.sweep()
        of_address = [session for session in self.sessions.values() if session.address == address]
        if len(of_address) >= SHARE and not self._vacate(of_address):
            raise UserError(f"All {SHARE} sessions that one address may have are in use; try again later.")
        if len(self.sessions) >= SESSIONS and not (self._vacate(self.sessions.values()) or self._level(address)):
            raise UserError(f"All {SESSIONS} sessions of this server are in use; try again later.")
        session = Session(secrets.token_urlsafe(9), self.models, self.shelf, address).start()
        self.sessions[session.name] = session
        return session, True

    def _vacate(self, sessions: Iterable[Session]) -> bool:
        """End one of these sessions that nobody watches, if there is one."""
        latest = time.monotonic() - SILENCE
        since = {session: session.unwatched for session in sessions}
        empty = {session: then for session, then in since.items() if not session.viewers}
        silent = {session: then for session, then in since.items() if then < latest}
        for found in (empty, silent):
            if found:
                longest = min(found, key=lambda session: found[session])
                self.dismiss(longest, "This session was not watched. Others wait.")
                return True
        return False

    def _level(self, address: str) -> bool:
        """End a session of the address that has most, for one that has fewer."""
        counts = Counter(session.address for session in self.sessions.values())
        heaviest, most = counts.most_common(1)[0]
        if most <= max(SESSIONS // 4, counts[address] + 1):
            return False
        newest = [session for session in self.sessions.values() if session.address == heaviest][-1]
        self.dismiss(newest, "The server is full, and your address has most of its sessions. Others wait.")
        return True

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
        """End all sessions, wait for their threads, and delete their recordings. Models that start need not go on."""
        self.closing.set()
        self.clips.close()
        sessions = list(self.sessions.values())
        for session in sessions:
            self.dismiss(session, "The server is shutting down.")
        for session in sessions:
            session.wait_closed()
        self.shelf.close()
