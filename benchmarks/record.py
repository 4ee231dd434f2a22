"""What every benchmark's result carries: date, machine, versions, commit."""

import json
import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from biflow.files import write_json
from biflow.machine import commit, hardware

PACKAGES = ("torch", "diffusers", "openvino", "torchode", "numpy", "pillow")


def provenance() -> dict:
    """Date, commit, machine and versions of this run."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {
            "system": platform.platform(),
            "hardware": hardware(),
            "threads": torch.get_num_threads(),
            "load": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def write(path: Path | None, result: dict) -> None:
    """Write `result` with its provenance to `path`, if there is one."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**result, **provenance()})
        print(json.dumps({"written": str(path)}))
