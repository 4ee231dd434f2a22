"""Files that are whole or absent, and on what code and machine they were made."""

import json
import os
import platform
import re
import subprocess
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor


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


def device() -> torch.device:
    """CUDA if there is one, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def computes_in_bf16() -> bool:
    """Whether `device()` multiplies in bf16 by itself, so that bf16 is the faster way."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def keep_compiled() -> None:
    """Let torch.compile keep its work for later runs, in the cache; by itself it keeps it where a reboot clears it."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))


def hardware() -> str:
    """What this machine computes on, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} CPU cores, {names[0] if names else platform.machine()}"
