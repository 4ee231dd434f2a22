"""The six datasets of the paper that their owners have published; `published.yaml` lists them."""

from dataclasses import dataclass
from importlib import resources

import yaml

from biflow.config import parse


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


def _read() -> dict[str, Published]:
    table = yaml.safe_load(resources.files("biflow.data").joinpath("published.yaml").read_text(encoding="utf-8"))
    return {name: parse(Published, content, f"published.yaml, {name}") for name, content in table.items()}


DATASETS = _read()
