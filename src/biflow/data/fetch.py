"""Download a published dataset, only when asked to."""

import difflib
import http.client
import re
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from biflow.data.published import DATASETS, Published
from biflow.errors import UserError
from biflow.files import download


def fetch(name: str, out: str | Path, *, say: Callable[[str], object] = print, progress: bool = True) -> list[Path]:
    """Download the archives of a dataset (a key of `DATASETS`) into the folder `out`/`name`, and return their paths.

    The terms are shown first. Archives that exist are kept, and interrupted downloads are resumed. `prepare` reads the
    folder as it is.

    Args:
        name: name of the dataset, in any case.
        out: the folder for datasets.
        say: shows a line of text to the user.
        progress: show progress bars.

    Raises:
        UserError: an unknown name, a failed download, or a dataset that only a browser can download, unless its folder
            holds a zip already.
    """
    name = name.lower()
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, 1)
        hint = f'Did you mean "{near[0]}"?' if near else f"There are {', '.join(DATASETS)}."
        raise UserError(f'There is no published dataset "{name}". {hint}', setting="name")
    published, folder = DATASETS[name], Path(out) / name  # a folder each: shards of two datasets have the same names
    say(f"{published.title}. Page: {published.page}")
    say(published.licence)
    if published.manual:
        return _downloaded_by_hand(name, published, folder)
    paths = []
    for url in published.files or _linked_zips(published):
        path = folder / Path(urllib.parse.urlparse(url).path).name
        if path.exists():
            say(f"{path} exists already.")
        else:
            digest = download(url, path, progress=progress)
            say(f"{path} has SHA-256 {digest}, not verified, because its owners publish none.")
        paths.append(path)
    say(f"Prepare it next, at {published.size}x{published.size} as in the paper: biflow prepare {folder} OUT")
    return paths


def _linked_zips(published: Published) -> list[str]:
    """Addresses of the zips that the listing page links to."""
    advice = f"Download the archives that {published.listing} links to into one folder by hand, and prepare that."
    try:
        with urllib.request.urlopen(str(published.listing), timeout=60) as answer:
            page = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"The list of archives cannot be read ({error}). {advice}") from error
    links = re.findall(r"""href\s*=\s*["']?([^"'\s>]+\.zip)["'\s>]""", page, re.IGNORECASE)
    if not links:
        raise UserError(f"The list of archives names no zip. {advice}")
    return sorted({urllib.parse.urljoin(str(published.listing), link) for link in links})


def _downloaded_by_hand(name: str, published: Published, folder: Path) -> list[Path]:
    archives = sorted(folder.glob("[!.]*.zip"))
    if not archives:
        raise UserError(
            f"{name.upper()} can only be downloaded with a browser. Get the archive from {published.manual} "
            f"(page: {published.page}) and run `biflow prepare` on it, which reads it as it is."
        )
    return archives
