"""Read and write files. What is written appears under its name complete and on disk, or not at all."""

import contextlib
import glob
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from biflow.errors import UserError, os_error

BLOCK = 1 << 20
ATTEMPTS = 5  # connections in a row that may break off without a byte before a download gives up
ARCHIVE_MAGIC = {".zip": b"PK", ".gz": b"\x1f\x8b", ".tgz": b"\x1f\x8b"}


@contextlib.contextmanager
def replacing(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Write a file or a folder under a temporary name, and rename it to `path` when the body has succeeded.

    Yields the temporary path, where nothing exists yet; the body creates a file or a folder there. It is in the same
    folder as `path`, hidden, and its suffix is ".partial": pass the format to a library that guesses it from the name.
    Missing parent folders are created. A file or a folder that `path` names already is replaced, a folder only by a
    folder. After any exception the temporary file is removed, and what was at `path` is unchanged.

    Several processes may write the same file at the same time: the last one to finish wins.

    With `sync`, the data is on disk before and after the rename, and so survives a power failure. False is for many
    small files that are easy to make again.

    Raises:
        UserError: an OSError in the body or the rename, as `biflow.errors.os_error` describes it.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        created = [parent for parent in path.parents if not parent.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in (partial, *_abandoned(path)) if sync else ():
            _remove(leftover)
        yield partial
        for written in (partial, *partial.rglob("*")) if sync else ():
            _sync(written)
        _rename(partial, path)
        for parent in (path.parent, *(folder.parent for folder in created)) if sync else ():
            _sync(parent)
    except OSError as error:
        raise os_error(error, path) from error
    finally:
        _remove(partial)


def _abandoned(path: Path) -> Iterator[Path]:
    """Temporary files of `path` whose processes were killed, on systems that list processes in /proc."""
    name = glob.escape(path.name)
    for leftover in (*path.parent.glob(f".{name}.*.previous"), *path.parent.glob(f".{name}.*.partial")):
        pid = leftover.suffixes[-2][1:]
        if pid.isdecimal() and os.path.exists("/proc/self") and not os.path.exists(f"/proc/{pid}"):
            if leftover.suffix == ".previous" and not path.exists():  # killed between two renames
                leftover.rename(path)
            else:
                yield leftover


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)  # does nothing to a file or a link
    with contextlib.suppress(OSError):
        path.unlink()


def _sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder where the system can do so, are on disk."""
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _rename(partial: Path, path: Path) -> None:
    previous = partial.with_suffix(".previous")
    if partial.is_dir() and path.is_dir():  # a folder that is not empty cannot be overwritten
        _remove(previous)
        path.rename(previous)
    try:
        partial.replace(path)
    except BaseException:
        if previous.exists():
            previous.rename(path)
        raise
    _remove(previous)


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
        contents = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save_file(contents, partial, metadata={"format": "pt", **(metadata or {})})
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
    with replacing(path) as partial, partial.open("wb") as file:  # given a name, NumPy would append .npy to it
        np.save(file, array, allow_pickle=False)


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


_sha256 = sha256  # `download` has an argument of that name


def cache_folder() -> Path:
    """The folder of downloads and compiled graphs: `$XDG_CACHE_HOME/biflow`, or `~/.cache/biflow`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "biflow"


def download(url: str, path: str | Path, *, sha256: str | None = None, progress: bool = True) -> str:
    """Download `url` to `path` and return its SHA-256. The file gets its name when it is complete and verified.

    An interrupted download leaves `.NAME.part` in the same folder. The next call resumes it if the server still has
    the same file.

    Args:
        url: an http or https address.
        path: the file to write.
        sha256: the expected hash, if it is known.
        progress: show a progress bar.

    Raises:
        UserError: the download failed, the file has another hash, or it is a web page instead of an archive. In the
            last two cases the file is removed.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    tag = part.with_suffix(".tag")  # the server's identifier of this version of the file
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url} is not an http or https address.")
    _receive_all(url, path, part, tag, progress)
    digest = _sha256(part)
    magic = ARCHIVE_MAGIC.get(path.suffix.lower(), b"")
    with part.open("rb") as file:
        genuine = file.read(len(magic)) == magic
    if not genuine or digest != (sha256 or digest).lower():
        _remove(part)
        _remove(tag)
        what = f"has SHA-256 {digest}, not {sha256}" if genuine else "is not an archive, perhaps a web page instead"
        raise UserError(f"{url} {what}. The download was removed. Try again, or check the address.")
    with replacing(path) as partial:
        part.replace(partial)
    _remove(tag)
    return digest


def _receive_all(url: str, path: Path, part: Path, tag: Path, progress: bool) -> None:
    attempts, size = 0, 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not _receive(url, part, tag, progress):
            before, size = size, part.stat().st_size if part.exists() else 0
            attempts = 0 if size > before else attempts + 1
            if attempts == ATTEMPTS:
                raise UserError(f"{url} keeps breaking off after {size:,} bytes. Try again later to resume.")
            time.sleep(attempts)
    except urllib.error.HTTPError as error:
        raise UserError(f"{url} answers {error.code} {error.reason}. Check the address.") from error
    except urllib.error.URLError as error:
        raise UserError(f"{url} cannot be reached ({error.reason}). Try again later to resume.") from error
    except OSError as error:
        raise os_error(error, path) from error


def _receive(url: str, part: Path, tag: Path, progress: bool) -> bool:
    """Receive what `part` still lacks of the file. False if the connection broke off before the end."""
    start = part.stat().st_size if part.exists() and tag.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "biflow", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", tag.read_text())  # the rest if the file is still the same, else all of it
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            start = start if answer.status == 206 else 0
            version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            if version and not version.startswith("W/"):
                tag.write_text(version)
            else:
                _remove(tag)  # without an identifier, an interrupted download starts over
            length = answer.headers.get("Content-Length")
            total = start + int(length) if length else None
            bar = {"desc": part.stem[1:], "total": total, "initial": start, "disable": not progress}
            with open(part, "ab" if start else "wb") as file, tqdm.wrapattr(file, "write", **bar) as counted:
                while block := answer.read(BLOCK):
                    counted.write(block)
            return total is None or part.stat().st_size >= total
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{start}"):
            return True  # the download had ended, but its file was not renamed yet
        _remove(part)
        return False
    except (http.client.HTTPException, ConnectionError, TimeoutError):
        return False
