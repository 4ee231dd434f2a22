"""Where a server keeps its recordings: one folder, of bounded size, which goes when the server does."""

import contextlib
import errno
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from threading import Lock

from filelock import FileLock, Timeout

PREFIX = "biflow-server-"
LOCK = "server.lock"  # in the folder, and held while its server runs
ONE = 120 * 2**20  # bytes of a recording
ALL = 2**30  # bytes of all of them
SHARE = 8 * 2**20  # bytes that a recording may always have: 64 sessions take half of ALL with it


class Shelf:
    """The recordings of a server, in the system's folder of temporary files. Any thread may call its methods."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._root: Path | None = None
        self._closed = False
        self._sizes: dict[Path, int] = {}

    def folder(self) -> Path:
        """A new folder for a recording. Raises OSError."""
        with self._lock:
            if self._closed:
                raise OSError(errno.ESHUTDOWN, "The server is shutting down")
            if self._root is None or not self._root.is_dir():  # systems remove what has lain there for days
                if self._root:
                    self._end()
                self._root, held = _locked_folder()
                self._end = weakref.finalize(self, _remove, self._root, held)  # at the latest when Python ends
            with contextlib.suppress(OSError):
                os.utime(self._root / LOCK)
            return Path(tempfile.mkdtemp(dir=self._root))

    def has_room(self, folder: Path, size: int) -> bool:
        """Whether a recording may have this many bytes. If so, they are counted until the recording is deleted."""
        with self._lock:
            others = sum(self._sizes.values()) - self._sizes.get(folder, 0)
            if size > ONE or (size > SHARE and others + size > ALL // 2):
                return False
            self._sizes[folder] = size
            return True

    def delete(self, folder: Path) -> None:
        """Delete a recording, finished or not."""
        shutil.rmtree(folder, ignore_errors=True)
        with self._lock:
            self._sizes.pop(folder, None)

    def close(self) -> None:
        """Delete all recordings."""
        with self._lock:
            self._closed = True
            if self._root:
                self._end()


def remove_leftovers() -> None:
    """Delete the recordings of servers that were killed: folders of this user whose lock nobody holds."""
    try:
        folders = [folder for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*") if _is_ours(folder)]
    except OSError:
        return  # there is no folder for temporary files
    for folder in folders:
        with contextlib.suppress(OSError, Timeout, NotImplementedError):
            with FileLock(folder / LOCK, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)  # on Windows, with the lock


def _is_ours(folder: Path) -> bool:
    real = folder.is_dir() and not folder.is_symlink()
    return real and (os.name != "posix" or folder.stat().st_uid == os.getuid())


def _locked_folder() -> tuple[Path, FileLock]:
    """A new folder, and its lock. Raises OSError."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        held = FileLock(folder / LOCK, thread_local=False)
        try:
            held.acquire(timeout=0)
        except (Timeout, FileNotFoundError):  # another server has just taken it for a leftover
            continue
        except NotImplementedError:  # a file system without locks: nobody else can hold it either
            pass
        return folder, held


def _remove(folder: Path, held: FileLock) -> None:
    held.release()
    shutil.rmtree(folder, ignore_errors=True)
