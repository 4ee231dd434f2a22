"""Download the datasets of the paper that their owners have published, only when asked to.

`published.yaml` lists them.
"""

import difflib
import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml

from biflow.config import parse
from biflow.downloads import download, read_page
from biflow.errors import UserError


@dataclass(frozen=True)
class Published:
    """A published dataset. Exactly one of `files`, `listing` and `manual` is given.

    Attributes:
        title: name and origin.
        page: web page of the dataset.
        licence: terms of use, in one sentence.
        size: side of the square frames that the paper uses.
        files: addresses of the archives.
        listing: a web page that links to the archives, which are zips.
        manual: an address that only a browser can download from.
    """

    title: str
    page: str
    licence: str
    size: int
    files: tuple[str, ...] = ()
    listing: str | None = None
    manual: str | None = None


_TABLE = yaml.safe_load(resources.files("biflow.data").joinpath("published.yaml").read_text(encoding="utf-8"))
DATASETS = {name: parse(Published, content, f"published.yaml, {name}") for name, content in _TABLE.items()}


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
    listing = str(published.listing)
    advice = f"Download the archives that {listing} links to into one folder by hand, and prepare that."
    try:
        text = read_page(listing)
    except UserError as error:
        raise UserError(f"The list of archives cannot be read. {error} {advice}") from error
    links = re.findall(r"""href\s*=\s*["']?([!#-&(-=?-~]+\.zip)["'\s>]""", text, re.IGNORECASE)
    if not links:
        raise UserError(f"The list of archives names no zip. {advice}")
    return sorted({urllib.parse.urljoin(listing, link) for link in links})


def _downloaded_by_hand(name: str, published: Published, folder: Path) -> list[Path]:
    archives = sorted(folder.glob("[!.]*.zip"))
    if not archives:
        raise UserError(
            f"{name.upper()} can only be downloaded with a browser. Get the archive from {published.manual} "
            f"(page: {published.page}) and run `biflow prepare` on it, which reads it as it is."
        )
    return archives
