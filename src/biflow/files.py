"""Read and write files. What is written appears under its name complete and on disk, or not at all."""

import contextlib
import errno
import glob
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from biflow.errors import UserError, os_error

log = logging.getLogger("biflow")

BLOCK = 1 << 20
LOCK, PREVIOUS = ".lock", ".previous"  # in private folders; the first also in a folder that a command writes in
MAKING = 2.0  # seconds in which a private folder that is still empty may be one that is being made
ATTEMPTS = 9  # at a rename, where another process renames as well
TAKEN = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)  # what then fails


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file or a folder at a temporary place, and move it to `path` when the body has succeeded.

    Yields the temporary path, which has the name of `path` and where nothing exists yet; the body creates a file or a
    folder there. It is in a hidden folder beside `path` that only this user can enter, so that nobody can put a link in
    its place. Missing parent folders are created. A file or a folder that `path` names already is replaced, a folder
    only by a folder. After any exception the hidden folder is removed, and what was at `path` is unchanged. The data is
    on disk before and after the move, and so survives a power failure.

    Several processes may write the same file at the same time: the last one to finish wins.

    Raises:
        UserError: an OSError in the body or the move, as `biflow.errors.os_error` describes it.
    """
    path = Path(path)
    try:
        with _private(path.parent, path.name) as folder:
            yield folder / path.name
            for written in (folder / path.name, *(folder / path.name).rglob("*")):
                _sync(written)
            _move(folder / path.name, path, folder)
    except OSError as error:
        raise os_error(error, path) from error


@contextlib.contextmanager
def together(out: Path, *, sync: bool = True) -> Iterator[Path]:
    """Write several files, and move them to the folder `out` when the body has succeeded.

    Yields a temporary folder in `out`. Files in folders there move to folders of the same name. What `out` holds
    already stays, except where a new file has its name. All else is as with `replacing`. Without `sync`, new files may
    be lost in a power failure: for many small ones that are easy to make again.
    """
    try:
        with _private(out, "new") as folder:
            yield folder
            files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / LOCK]
            targets = [out / path.relative_to(folder) for path in files]
            for path, target in zip(files, targets, strict=True):
                if sync:
                    _sync(path)
                if target.is_dir():
                    raise os_error(IsADirectoryError(errno.EISDIR, ""), target)
                target.parent.mkdir(parents=True, exist_ok=True)
            for path, target in zip(files, targets, strict=True):
                _move(path, target, folder)
            for parent in {target.parent for target in targets}:
                _sync(parent)
    except OSError as error:
        raise os_error(error, out) from error


@contextlib.contextmanager
def _private(out: Path, name: str) -> Iterator[Path]:
    """A folder in `out`, with `name` in its name, that no other user can enter and that is removed at the end."""
    created = _make(out)
    _tidy(out, name)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".partial", dir=out))
    lock = FileLock(folder / LOCK)
    try:
        with contextlib.suppress(NotImplementedError):  # a file system without locks
            lock.acquire(timeout=0)
        yield folder
        for parent in (out, *(new.parent for new in created)):
            _sync(parent)
    finally:
        remove_locked(folder, lock)
        with contextlib.suppress(OSError):  # as they are not empty, if all went well
            for new in created:
                new.rmdir()


def _make(folder: Path) -> list[Path]:
    """Create a folder with its parents, and return what was created, the innermost first."""
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return created


def _tidy(out: Path, name: str) -> None:
    """Remove the private folders that processes have left which were killed: those whose lock nobody holds."""
    for folder in out.glob(f".{glob.escape(name)}.????????.partial"):
        with contextlib.suppress(OSError, NotImplementedError):
            if not (folder / LOCK).is_file():  # somebody else's, or it is being made
                continue
            if len(os.listdir(folder)) < 2 and time.time() - folder.stat().st_mtime < MAKING:
                continue
            with FileLock(folder / LOCK).acquire(timeout=0):
                if (folder / PREVIOUS).exists() and not (out / name).exists():  # killed between two renames
                    (folder / PREVIOUS).rename(out / name)
                remove(folder)
            remove(folder)  # on Windows, with the lock


def is_earlier(mark: Path, holds: str = "") -> bool:
    """Whether there is a file `mark` with the text that it `holds`, by which earlier output of a command is known."""
    return mark.is_file() and (not holds or holds.encode() in mark.read_bytes())


def check_not_others(out: Path, names: Iterable[str], mark: str, holds: str = "") -> None:
    """Raise UserError if the folder `out` holds one of these files, which would be replaced, and no earlier output."""
    if is_earlier(out / mark, holds):
        return
    found = [name for name in (*names, *([mark] if holds else [])) if os.path.lexists(out / name)]
    if found:
        raise UserError(f"{out} holds another {found[0]}, which would be lost. Name a new folder.", setting="out")


def check_nothing_else(out: Path, names: Iterable[str]) -> None:
    """Raise UserError if the folder `out`, which is about to be replaced, holds something of another name."""
    if out.is_dir() and (others := sorted({path.name for path in out.iterdir()} - {*names, LOCK})):
        raise UserError(f"{out} also holds other files, such as {others[0]}, which would be lost. Name a new folder.")


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, where there is one."""
    shutil.rmtree(path, ignore_errors=True)  # does nothing to a file or a link
    with contextlib.suppress(OSError):
        path.unlink()


def remove_locked(folder: Path, lock: FileLock) -> None:
    """Remove a folder with the lock in it, which is held, and release that."""
    if os.name == "nt":  # where no file is deleted that is open
        lock.release()
    remove(folder)
    lock.release()


def _sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder where the system can do so, are on disk."""
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _move(path: Path, target: Path, folder: Path) -> None:
    """Rename what a private `folder` holds. Other processes may be doing the same to the same target."""
    previous = folder / PREVIOUS
    for attempt in range(ATTEMPTS):
        try:
            if path.is_dir() and target.is_dir():  # a folder that is not empty cannot be overwritten
                target.rename(previous)
            path.replace(target)
            return
        except BaseException as error:
            with contextlib.suppress(OSError):
                previous.rename(target)
            if attempt == ATTEMPTS - 1 or getattr(error, "errno", 0) not in TAKEN:
                raise
            remove(previous)


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the folder `out`, so that no other command writes in it. The system lets go of it if this process dies.

    Raises UserError if another process holds it, or if it cannot be written.
    """
    created, lock = [], FileLock(out / LOCK)
    try:
        created = _make(out)
        lock.acquire(timeout=0)
    except Timeout:
        sentence = f"Another command is writing in {out}. Wait until it has ended, or give another folder."
        raise UserError(sentence) from None
    except NotImplementedError:
        log.warning("The file system of %s has no locks: let one command write in it at a time.", out)
    except OSError as error:
        raise os_error(error, out) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (out / LOCK).unlink()
        lock.release()
        with contextlib.suppress(OSError):
            for folder in created:  # a command that was refused leaves nothing behind
                folder.rmdir()


def write_text(path: str | Path, content: str) -> None:
    """Write `content` as UTF-8. Raises UserError."""
    with replacing(path) as partial:
        partial.write_text(content, encoding="utf-8")


def write_json(path: str | Path, content: object, *, indent: int | None = 1) -> None:
    """Write `content` as JSON. With an indent, a list of plain values stays on one line. Raises UserError."""
    text = json.dumps(content, indent=indent)
    text = re.sub(r"\[\n[^\[\]{}]*\]", lambda m: "[" + re.sub(r"\n\s*", " ", m[0][1:-1]).strip() + "]", text)
    write_text(path, text + "\n")


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, equal bytes for equal content. Raises UserError."""
    with replacing(path) as partial:
        contents, memory = {}, set()
        for name, tensor in tensors.items():  # safetensors takes none that share their memory, as tied weights do
            shared = tensor.untyped_storage().data_ptr() in memory
            contents[name] = (tensor.detach().clone() if shared else tensor.detach()).contiguous()
            memory.add(contents[name].untyped_storage().data_ptr())
        partial.touch()
        mode = partial.stat().st_mode  # as any new file has it; safetensors lets only this user read what it writes
        try:
            save_file(contents, partial, metadata={"format": "pt", **(metadata or {})})
        except SafetensorError as error:  # "I/O error: No space left on device (os error 28)"
            number = re.search(r"os error (\d+)", str(error))
            raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))) from error
        partial.chmod(mode)
        with partial.open("r+b") as file:  # safetensors writes the metadata in a random order
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            assert len(text) <= length, "the tensors would be overwritten"
            file.seek(8)
            file.write(text.ljust(length))


def write_array(path: str | Path, array: np.ndarray) -> None:
    """Write an .npy file. Raises UserError."""
    array = np.ascontiguousarray(array)
    with replacing(path) as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)  # not by np.save, whose error of a full disk is none of the system's


@contextlib.contextmanager
def reading(name: str | Path, failure: str, advice: str) -> Iterator[None]:
    """Turn any exception of the body into the UserError "`name` `failure` (its message). `advice`".

    For decoders, which raise many kinds of exception for a damaged file. A UserError is passed on as it is.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{name} does not exist. Check the path.") from error
    except Exception as error:
        raise UserError(f"{name} {failure} ({getattr(error, 'strerror', None) or error}). {advice}") from error


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()  # Python 3.10 has no hashlib.file_digest
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def cache_folder() -> Path:
    """The folder of downloads and compiled graphs: `$XDG_CACHE_HOME/biflow`, or `~/.cache/biflow`."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "biflow"
    except RuntimeError as error:
        raise UserError("This user has no home folder for the cache. Set XDG_CACHE_HOME to a folder.") from error
