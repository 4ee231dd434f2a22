"""How long `biflow --help`, `import biflow`, and the first frame of `biflow sample` take.

    python -m benchmarks.startup [--rounds 5] [--json FILE]

Each runs in a fresh process, from its start to its end, in turns. The fastest round counts, since other processes can
only slow it down. The first frame is a whole `biflow sample --frames 1` of the shipped model, with its files, and with
the graph of the network in the cache, as after any earlier stream. Goals: 0.5, 2 and 5 seconds.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import record
from biflow import shipped_model

GOALS = {"biflow --help": 0.5, "import biflow": 2.0, "first frame": 5.0}


def measure(rounds: int) -> dict:
    taken: dict[str, list[float]] = {name: [] for name in GOALS}
    model = shipped_model()
    with tempfile.TemporaryDirectory() as out:
        first = str(model / "first" / "000.png")
        sample = ["-m", "biflow.cli", "sample", str(model), "--first", first, "--frames", "1", "--out"]
        for i in range(rounds + 1):
            commands = {
                "biflow --help": ["-m", "biflow.cli", "--help"],
                "import biflow": ["-c", "import biflow"],
                "first frame": [*sample, str(Path(out) / str(i))],
            }
            for name, arguments in commands.items():
                begun = time.perf_counter()
                subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
                taken[name].append(time.perf_counter() - begun)
    best = {name: round(min(seconds[1:]), 2) for name, seconds in taken.items()}  # the first round fills caches
    return {"question": "seconds from a process's start to its end", "seconds": best, "goals": GOALS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options.rounds)
    for name, seconds in result["seconds"].items():
        print(f"{name:14} {seconds:5.2f} s  (goal {GOALS[name]:g})")
    record.write(options.json, result)


if __name__ == "__main__":
    main()
