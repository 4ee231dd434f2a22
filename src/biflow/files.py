"""Files that are whole or absent, and on what code and machine they were made."""

import json
import os
import platform
import re
import subprocess
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from biflow.errors import UserError


def commit() -> str:
    """The git commit of this source tree, with "-dirty" if it differs; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` by way of a temporary name, so that the file is never half-written."""
    partial = path.with_name(path.name + ".tmp")
    try:
        partial.write_text(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: object, *, indent: int | None = 1) -> None:
    """Write `content` as JSON like `write_text`; with an indent, a list of plain values stays on one line."""
    text = json.dumps(content, indent=indent)
    text = re.sub(r"\[\n[^\[\]{}]*\]", lambda m: "[" + re.sub(r"\n\s*", " ", m[0][1:-1]).strip() + "]", text)
    write_text(path, text + "\n")


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write safetensors to `path` by way of a temporary name."""
    partial = path.with_name(path.name + ".tmp")
    try:
        whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save_file(whole, partial, metadata={"format": "pt", **(metadata or {})})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file to `path` by way of a temporary name."""
    partial = path.with_name(path.name + ".tmp")
    try:
        with partial.open("wb") as file:  # given a name, NumPy would append .npy to it
            np.save(file, array, allow_pickle=False)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where what is fetched or built once is kept: `$XDG_CACHE_HOME/biflow`, or `~/.cache/biflow`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "biflow"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in `path`. Raises UserError if it is not a safetensors file; nothing is ever unpickled."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except Exception as error:  # safetensors raises its own SafetensorError, and OSError for folders
        raise UserError(f"{path} is not a safetensors file (a pickle is never loaded): {error}") from error


from contextlib import contextmanager  # noqa: E402
import shutil  # noqa: E402


@contextmanager
def replacing(path: Path, *, sync: bool = True):
    """temporary"""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        if path.is_dir():
            shutil.rmtree(path)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(missing_ok=True)
