"""Download a published set, when asked to and never otherwise: resumable, checked, and whole or not there."""

import difflib
import errno
import hashlib
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from biflow.data.published import DATASETS, Published
from biflow.errors import UserError

BLOCK = 1 << 20
PATIENCE = 5  # connections that may break off without a byte in between before a download gives up
ARCHIVE_MAGIC = {".zip": b"PK", ".gz": b"\x1f\x8b", ".tgz": b"\x1f\x8b"}


def fetch(name: str, dst: str | Path, *, say: Callable[[str], object] = print, progress: bool = True) -> list[Path]:
    """Download the archives of a published set (a key of `DATASETS`) into `dst`/`name`, as their owners ship them.

    Says the terms first. What is there already is kept, what was broken off is resumed. `prepare(dst / name, …)` reads
    the result as it is. Raises UserError for an unknown name, for a set that must be fetched by hand (unless the folder
    holds it) and for a download that fails or is not what it should be.
    """
    name, dst = name.lower(), Path(dst)
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, 1)
        hint = f'; did you mean "{near[0]}"?' if near else f"; there are {', '.join(DATASETS)}."
        raise UserError(f'There is no published set called "{name}"{hint}')
    published, folder = DATASETS[name], dst / name  # a folder each: shards of two sets have the same names
    say(f"{published.title}. Page: {published.page}")
    say(published.licence)
    if published.manual:
        return _by_hand(name, published, folder)
    remotes = list(published.files) or [(url, None) for url in _linked_zips(published)]
    paths = []
    for url, sha256 in remotes:
        path = folder / Path(urllib.parse.urlparse(url).path).name
        if path.exists():
            say(f"{path} is there already.")
        else:
            got = download(url, path, sha256=sha256, progress=progress)
            say(
                f"{path} has sha256 {got}"
                + ("." if sha256 else ", not verified: its owners publish none to compare with.")
            )
        paths.append(path)
    say(f"Next: biflow prepare {folder} OUT --size {published.size}")
    return paths


def download(url: str, path: str | Path, *, sha256: str | None = None, progress: bool = True) -> str:
    """Download `url` to `path` and return its sha256. The file gets its name only when it is whole and checked.

    Until then it is `.NAME.part` beside it, from which the next call goes on, if the server still has the same file.
    Raises UserError, and removes the file, if its hash is not `sha256` or if it is a web page instead of an archive.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    tag = part.with_suffix(".tag")  # the server's word for this version of the file
    if urllib.parse.urlparse(url).scheme not in ("http", "https"):
        raise UserError(f"{url} is no http or https address.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tries, last = 0, 0
        while not _receive(url, part, tag, progress):
            grown = part.stat().st_size if part.exists() else 0
            tries, last = (0 if grown > last else tries + 1), grown
            if tries == PATIENCE:
                raise UserError(f"{url} keeps breaking off at {grown:,} bytes; run the same command later to go on.")
            time.sleep(min(tries, 5))
    except urllib.error.HTTPError as error:
        raise UserError(
            f"{url} answers {error.code} {error.reason}; look at the page of the set for its address."
        ) from error
    except urllib.error.URLError as error:
        raise UserError(f"{url} cannot be reached ({error.reason}); run the same command again to go on.") from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise UserError(f"{url} could not be written to {path} ({error}).") from error
        raise UserError(f"No space left for {path}; free some and run the same command again to go on.") from error
    with open(part, "rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)
        file.seek(0)
        magic = ARCHIVE_MAGIC.get(path.suffix.lower(), b"")
        wrong = sha256 is not None and got != sha256.lower()
        if wrong or not file.read(len(magic)).startswith(magic):
            part.unlink()
            tag.unlink(missing_ok=True)
            what = f"has sha256 {got}, not {sha256}" if wrong else "is no archive, perhaps a web page with an error"
            raise UserError(f"{url} {what}; it was removed, so fetch it again or look at the page of the set.")
    part.replace(path)
    tag.unlink(missing_ok=True)
    return got


def _receive(url: str, part: Path, tag: Path, progress: bool) -> bool:
    """Receive what is missing of the file; False if the connection broke off before its end."""
    have = part.stat().st_size if part.exists() and tag.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "biflow", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag.read_text())  # the rest, if it is the same file still; else all of it
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.status != 206:
                have = 0
            version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            if version and not version.startswith("W/"):
                tag.write_text(version)
            else:
                tag.unlink(missing_ok=True)  # nothing to recognise the file by: a broken download starts over
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length else None
            bar = tqdm(desc=part.name[1:-5], total=total, initial=have, unit="B", unit_scale=True, disable=not progress)
            with bar, open(part, "ab" if have else "wb") as file:
                while block := answer.read(BLOCK):
                    file.write(block)
                    bar.update(len(block))
            return total is None or part.stat().st_size >= total
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{have}"):
            return True  # the part is the whole file: it broke off between the last byte and the rename
        part.unlink()
        return False
    except (http.client.HTTPException, ConnectionError, TimeoutError):
        return False


def _sha256(file) -> str:
    digest = hashlib.sha256()  # Python 3.10 has no hashlib.file_digest
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _linked_zips(published: Published) -> list[str]:
    """Addresses of the zips that the listing page links to."""
    assert published.listing
    failed = f"the archives are linked from {published.listing}; fetch them by hand into one folder and prepare that."
    try:
        with urllib.request.urlopen(published.listing, timeout=60) as answer:
            page = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"The listing cannot be read ({error}); {failed}") from error
    links = re.findall(r"""href\s*=\s*["']?([^"'\s>]+\.zip)["'\s>]""", page, re.IGNORECASE)
    if not links:
        raise UserError(f"The listing names no zip; {failed}")
    return sorted({urllib.parse.urljoin(published.listing, link) for link in links})


def _by_hand(name: str, published: Published, folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.zip")) if folder.is_dir() else []
    if not found:
        raise UserError(
            f"{name.upper()} lies where only a browser gets it: download the archive from {published.manual} "
            f"(page: {published.page}) and give it to `biflow prepare`, which reads it as it is."
        )
    return found
