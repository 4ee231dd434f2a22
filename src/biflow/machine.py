"""The machine: its devices and precision, and how results name it."""

import functools
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from biflow.files import cache_folder


def device() -> torch.device:
    """CUDA if there is a GPU, else MPS if available, else the CPU. Of several processes each has its own GPU."""
    if torch.cuda.is_available():
        rank = os.environ.get("LOCAL_RANK")  # torchrun and accelerate set it
        return torch.device(f"cuda:{rank}" if rank else "cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def computes_in_bf16() -> bool:
    """Whether `device()` has native bf16 arithmetic, so that bf16 is faster than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def keep_compiled() -> None:
    """Let torch.compile keep compiled code in the cache folder. By default it keeps it in /tmp, until the next boot."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))


def cores() -> int:
    """CPU cores that this process may use: physical ones, within its affinity and the quota of its control group."""
    import psutil

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for path in ("cpu.max", "cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us"):
        files = [Path("/sys/fs/cgroup", name) for name in path.split()]
        quota, *period = " ".join(file.read_text() for file in files if file.exists()).split() or ["max"]
        if quota.isdecimal() and period:
            usable = min(usable, max(1, int(quota) // int(period[0])))
    return min(usable, psutil.cpu_count(logical=False) or usable)


def hardware() -> str:
    """A description of the hardware for people, such as "2 CPU cores, Intel(R) Xeon(R)"."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} CPU cores, {names[0] if names else platform.machine()}"


@functools.cache  # of the code that runs, not of what the working tree becomes meanwhile
def commit() -> str:
    """The git commit of this source tree, with "-dirty" if files differ from it; "unknown" outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed, it lies in whatever repository is around that
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def versions(*packages: str) -> dict[str, str | None]:
    """The versions of Python and of these packages; None for one that is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
