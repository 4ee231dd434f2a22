"""Download files and read pages over http, within bounds of size and time. No message shows more of an address than its
host and path: the rest may be a password.
"""

import base64
import contextlib
import http.client
import os
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from tqdm import tqdm

from biflow import files
from biflow.errors import UserError, os_error
from biflow.files import LOCK, replacing, write_text

Result = TypeVar("Result")
SCHEMES = ("http", "https")
ATTEMPTS = 5  # connections in a row that may break off without news before a download gives up
PATIENCE = 60.0  # seconds in which a server has to send something
SLOWEST = 1000  # bytes a second that it has to send on average in that time
BLOCK = 1 << 16  # bytes that are read at once, at most
PAGE = 4 << 20  # bytes of a page
MOST = 1 << 38  # bytes of a file whose size nobody has stated
ARCHIVE_MAGIC = {".zip": b"PK", ".gz": b"\x1f\x8b", ".tgz": b"\x1f\x8b"}
# What identifies a version of a file: an entity tag that is not weak, or a date.
VERSION = re.compile(r'"[!#-~]{1,200}"|[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT')


def shown(url: str) -> str:
    """An address for people, without user name, password, query and fragment, in printable characters."""
    plain = re.sub(r"//[^/?#]*@", "//", url)
    scheme, separator, rest = re.split(r"[?#]", plain)[0].partition("://")
    if not re.fullmatch(r"([\w.-]*|\[[\w.:]+\])(:\d*)?", rest.partition("/")[0]):  # such as half of a password
        rest = "…"
    return re.sub(r"[^!-~…]", "?", scheme.rpartition("@")[2] + separator + rest)


def read_page(url: str) -> str:
    """The text of a page of at most PAGE bytes. Raises UserError."""

    def read(line: "_Line") -> str:
        text = b""
        with _open(url) as answer:
            while len(text) <= PAGE and (block := answer.read1(BLOCK)) and not line.stopped:
                text += block
                line.received += len(block)
        if len(text) > PAGE:
            raise UserError(f"{shown(url)} has more than {PAGE:,} bytes, so it is not read.")
        return text.decode(errors="replace")

    with _explained(url):
        return _watched(read, url)


def download(url: str, path: str | Path, *, sha256: str | None = None, progress: bool = True, most: int = MOST) -> str:
    """Download `url` to `path` and return its SHA-256. The file gets its name when it is complete and verified.

    An interrupted download leaves a folder `.NAME.part` beside `path`. The next call resumes it if the server still has
    the same file.

    Args:
        url: an http or https address, perhaps with user name and password.
        path: the file to write.
        sha256: the expected hash, if it is known.
        progress: show a progress bar.
        most: bytes that it may have.

    Raises:
        UserError: the download failed, the file has another hash, is too large, or is a web page instead of an archive.
            In the last three cases what was downloaded is removed.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    lock = FileLock(part / LOCK)
    try:
        _own_folder(part)
        with contextlib.suppress(NotImplementedError):  # a file system without locks
            lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"Another command is downloading {path}. Wait until it has ended.") from None
    except OSError as error:
        raise os_error(error, path) from error
    try:
        _receive_all(url, part / "body", progress, most)
        return _verified(url, part, path, sha256)
    except OSError as error:
        raise os_error(error, path) from error
    finally:
        if (part / "body").exists():
            lock.release()
        else:
            files.remove_locked(part, lock)


def _own_folder(part: Path) -> None:
    """Create a folder that only this user can enter. What is there but is no such folder, as a link, is removed."""
    part.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        owner = part.lstat().st_uid
        if part.is_symlink() or not part.is_dir() or owner != getattr(os, "geteuid", lambda: owner)():
            files.remove(part)
    part.mkdir(mode=0o700, exist_ok=True)


def _verified(url: str, part: Path, path: Path, expected: str | None) -> str:
    digest, magic = files.sha256(part / "body"), ARCHIVE_MAGIC.get(path.suffix.lower(), b"")
    with (part / "body").open("rb") as file:
        genuine = file.read(len(magic)) == magic
    if not genuine or digest != (expected or digest).lower():
        files.remove(part)
        what = f"has SHA-256 {digest}, not {expected}" if genuine else "is not an archive, perhaps a web page instead"
        raise UserError(f"{shown(url)} {what}. The download was removed. Try again, or check the address.")
    with replacing(path) as partial:
        (part / "body").replace(partial)
    files.remove(part)
    return digest


def _receive_all(url: str, body: Path, progress: bool, most: int) -> None:
    attempts, longest = 0, 0
    with _explained(url):
        while True:
            with contextlib.suppress(http.client.HTTPException, ConnectionError, TimeoutError):  # it breaks off
                if _watched(lambda line: _receive(url, body, line, progress, most), url):
                    return
            size = body.stat().st_size if body.exists() else 0
            attempts = 0 if size > longest else attempts + 1
            longest = max(longest, size)
            if attempts == ATTEMPTS:
                raise UserError(f"{shown(url)} keeps breaking off after {size:,} bytes. Try again later to resume.")
            time.sleep(attempts)


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what urllib raises into a UserError that holds nothing of what the server or the address says."""
    try:
        yield
    except urllib.error.HTTPError as error:
        phrase = http.client.responses.get(error.code, "")
        raise UserError(f"{shown(url)} answers {error.code} {phrase}".rstrip() + ". Check the address.") from None
    except urllib.error.URLError as error:
        cause = error.reason
        reason = "timed out" if isinstance(cause, TimeoutError) else getattr(cause, "strerror", None) or str(cause)
        reason = re.sub(r"[^ -~]", "?", reason)[:200]
        raise UserError(f"{shown(url)} cannot be reached ({reason}). Try again later to resume.") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise UserError(f"{shown(url)} breaks off ({type(error).__name__}). Try again later.") from None
    except UserError:
        raise
    except ValueError:  # urllib's, for an address that it cannot parse
        raise UserError(f"{shown(url)} is not an address, or leads to something that is none. Check it.") from None


class _Line:
    """What a thread has received, and whether it is to stop."""

    received, stopped = 0, False


def _watched(work: Callable[[_Line], Result], url: str) -> Result:
    """The result of `work` in a thread that receives something all the time.

    A server that sends a byte now and then meets every time limit of a socket, also within the head of an answer.

    Raises:
        TimeoutError: nothing came for PATIENCE seconds.
        UserError: less than SLOWEST bytes a second came.
    """
    line, results, errors = _Line(), [], []

    def run() -> None:
        try:
            results.append(work(line))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            before = line.received
            thread.join(PATIENCE)
            if thread.is_alive() and not line.received - before:
                raise TimeoutError
            if thread.is_alive() and line.received - before < SLOWEST * PATIENCE:
                raise UserError(f"{shown(url)} sends less than {SLOWEST:,} bytes a second. Try again later to resume.")
    finally:
        line.stopped = True
    for error in errors:
        raise error
    return results[0]


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to an address of the same scheme, and from http to https."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if new.scheme not in (old.scheme, "https"):
            raise UserError(f"{shown(req.full_url)} redirects to {shown(newurl)}, which is not followed.")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request and (old.scheme, old.netloc) == (new.scheme, new.netloc):
            request.unredirected_hdrs |= req.unredirected_hdrs  # the password, to the same host only
        return request


def _open(url: str, headers: dict[str, str] | None = None) -> Any:
    """The answer of a server. User name and password of the address go to the host that it names, to no other one."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.hostname or parts.port == 0:
        raise UserError(f"{shown(url)} is not an http or https address.")
    user, _, host = parts.netloc.rpartition("@")
    usual = {"User-Agent": "biflow", "Accept-Encoding": "identity"}
    request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)), headers=usual)
    for name, value in (headers or {}).items():
        request.add_header(name, value)
    if user:
        secret = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    try:
        return urllib.request.build_opener(_Redirects).open(request, timeout=PATIENCE)
    except http.client.InvalidURL as error:  # no reason to try again, as after other exceptions of that kind
        raise ValueError from error


def _receive(url: str, body: Path, line: _Line, progress: bool, most: int) -> bool:
    """Receive what `body` still lacks of the file. False if the connection broke off before the end."""
    tag = body.with_name("tag")  # the server's identifier of this version of the file
    version = tag.read_text(errors="replace") if tag.is_file() else ""
    start = body.stat().st_size if body.exists() and VERSION.fullmatch(version) else 0
    headers = {"Range": f"bytes={start}-", "If-Range": version} if start else {}  # all of it if the file has changed
    try:
        answer = _open(url, headers)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        if error.headers.get("Content-Range", "") == f"bytes */{start}":
            return True  # the download had ended, but its file was not renamed yet
        files.remove(body)
        return False
    with answer:
        if line.stopped:  # another connection has taken over
            return False
        total = _total(answer, start)
        if answer.status == http.client.PARTIAL_CONTENT and (not start or total is None):
            files.remove(body)  # not what was asked for: start over
            return False
        start = start if answer.status == http.client.PARTIAL_CONTENT else 0
        limit = most if total is None else total
        if limit > most:
            raise UserError(f"{shown(url)} has {limit:,} bytes. At most {most:,} are downloaded.")
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if VERSION.fullmatch(version):
            write_text(tag, version)
        else:
            files.remove(tag)  # without an identifier, an interrupted download starts over
        bar = {"desc": body.parent.name[1:].removesuffix(".part"), "total": total, "initial": start, "unit": "B"}
        with (
            open(body, "ab" if start else "wb") as file,
            tqdm(**bar, unit_scale=True, unit_divisor=1024, disable=not progress) as counted,
        ):
            while (block := answer.read1(BLOCK)) and not line.stopped:
                start += len(block)
                if start > limit:
                    files.remove(body)
                    raise UserError(f"{shown(url)} sends more than {limit:,} bytes. The download was removed.")
                file.write(block)
                line.received += len(block)
                counted.update(len(block))
        return total is None or body.stat().st_size >= total


def _total(answer: Any, start: int) -> int | None:
    """The size of the whole file by the answer's header, None where it does not say it, or not in a form to trust."""
    if answer.status == http.client.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", answer.headers.get("Content-Range", ""))
        first, last, total = map(int, found.groups()) if found else (0, 0, 0)
        return total if first == start and last == total - 1 else None
    length = answer.headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"\d{1,18}", length) else None
