"""Kill commands at random moments, run them again, and compare what they write with that of a run that nobody killed.

    python -m benchmarks.kills --tries 5

Prints a table: what was killed, how often, how often it was killed before its end, and how often all was well: no file
but whole ones under its name after the kill, and after the second run the bytes of the reference and nothing else.
"""

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BIFLOW = [sys.executable, "-m", "biflow.cli"]
TINY = "--network.channels 32 --network.attention [] --batch 2 --preview-every 0 --save-every 5 --processes 1"
COMMANDS = {
    "prepare": "prepare clips {out} --size 32 --fps 10 --force",
    "train": f"train --data data --out {{out}} --steps 40 {TINY}",
    "sample": "sample run --frames 24 --samples 4 --png --engine torch --solver euler --steps 1 --out {out}",
    "export": "export run {out}",
}
TIMES = ("stats.json", "sheet.png", "log.jsonl", "state.json", "evidence.json", "README.md")  # hold times, or rates
DATED = ("tensorboard", "checkpoints", "data", ".lock")  # of a run: its checkpoints are compared through its model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    chance = random.Random(settings.seed)
    print("| killed | tried | killed before its end | survived |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _clips(root / "clips")
        _run(root, COMMANDS["prepare"].format(out="data"))
        _run(root, COMMANDS["train"].format(out="run"))
        for name, command in COMMANDS.items():
            begun = time.monotonic()
            _run(root, command.format(out="reference"))
            seconds, expected = time.monotonic() - begun, _contents(root / "reference")
            results = [
                _attack(root, command, expected, chance.uniform(0.2, 1) * seconds) for _ in range(settings.tries)
            ]
            killed, well = (sum(column) for column in zip(*results, strict=True))
            print(f"| {name} | {settings.tries} | {killed} | {well} |", flush=True)
            shutil.rmtree(root / "reference")


def _attack(root: Path, command: str, expected: dict[str, str], after: float) -> tuple[bool, bool]:
    """Whether the command was killed before its end, and whether all was well."""
    words, quiet = [*BIFLOW, *command.format(out="out").split()], subprocess.DEVNULL
    process = subprocess.Popen(words, cwd=root, stderr=quiet, stdout=quiet)
    time.sleep(after)
    process.kill()
    killed = process.wait() == -signal.SIGKILL
    left = _contents(root / "out")
    whole = command.startswith("train") or all(left[name] == expected[name] for name in left.keys() & expected.keys())
    _run(root, command.format(out="out"))
    same, hidden = _contents(root / "out") == expected, list((root / "out").glob(".*")) + list(root.glob(".out*"))
    shutil.rmtree(root / "out")
    return killed, whole and same and not hidden


def _run(root: Path, command: str) -> None:
    subprocess.run([*BIFLOW, *command.split()], cwd=root, check=True, capture_output=True)


def _contents(folder: Path) -> dict[str, str]:
    """Checksums of the files below a folder, of those that hold no times; for a run, of its model."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {path: path.relative_to(folder).as_posix() for path in paths}
    return {
        name: hashlib.sha256(_undated(path)).hexdigest()
        for path, name in names.items()
        if path.name not in TIMES and name.split("/")[0] not in DATED and not name.startswith(".")
    }


def _undated(path: Path) -> bytes:
    """The bytes of a file, without the commit that weights name: work on the checkout may go on meanwhile."""
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return data
    tensors = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:tensors])
    header.get("__metadata__", {}).pop("commit", None)
    return json.dumps(header).encode() + data[tensors:]


def _clips(folder: Path) -> None:
    folder.mkdir()
    for clip in range(8):
        film = np.full((24, 64, 64, 3), 40, np.uint8)
        for i in range(24):
            film[i, 8:24, 2 * i : 2 * i + 8] = (220, 180, 30 * clip)
        np.save(folder / f"{clip}.npy", film)


if __name__ == "__main__":
    main()
