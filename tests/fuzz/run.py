"""Feed changed files to the readers: `python -m tests.fuzz.run [--seconds N] [READER ...]`, or `make fuzz`.

A reader runs in a process of its own, under atheris, which keeps changes that reach new lines of it; without atheris,
changes are random. A case may end in a UserError only, within 2 seconds of processor time and 1 GiB. What does not is
written to `fuzz-findings/`, and a table comes at the end.
"""

import argparse
import importlib
import importlib.util
import json
import logging
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from hashlib import sha256
from pathlib import Path

READERS = ("image", "film", "array", "archive")
SECONDS, MIB = 2.0, 1024  # a case may take
FINDINGS = Path("fuzz-findings")


class Cases:
    """Runs cases of a reader and counts them, in the file `report`, which is there after a crash too."""

    def __init__(self, reader: str, report: Path):
        self.harness = importlib.import_module(f"tests.fuzz.{reader}")
        self.reader, self.report = reader, report
        self.count = self.slow = 0
        self.slowest, self.peak = 0.0, 0
        self.traces: dict[str, int] = {}
        self.seeds: list[bytes] = self.harness.seeds()
        self.said = 0.0

    def run(self, data: bytes) -> None:
        self.count += 1
        before = time.process_time()
        try:
            self.harness.one(data)
        except Exception as error:
            place = "; ".join(
                f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-3:]
            )
            what = f"{type(error).__name__} at {place}"
            if what not in self.traces:
                self.keep(data, traceback.format_exc())
            self.traces[what] = self.traces.get(what, 0) + 1
        taken = time.process_time() - before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform != "darwin" else 1 << 20)
        if taken > SECONDS:
            self.slow += 1
        if taken > max(SECONDS, self.slowest) or peak > max(MIB, self.peak):
            self.keep(data, f"{taken:.1f} s, {peak} MiB")
        self.slowest, self.peak = max(self.slowest, taken), max(self.peak, peak)
        if time.monotonic() > self.said + 1:
            self.write()

    def change(self, data: bytes, size: int, seed: int) -> bytes:
        """A changed file, from the one that is given or from a seed."""
        from tests.fuzz.reading import changed

        source = random.Random(seed)
        if not data or source.random() < 0.3:
            data = source.choice(self.seeds)
        data = changed(data, source.choice(self.seeds), source)
        return self.harness.mend(data) if source.random() < 0.7 else data

    def keep(self, data: bytes, why: str) -> None:
        FINDINGS.mkdir(exist_ok=True)
        name = f"{self.reader}-{sha256(data).hexdigest()[:12]}"
        (FINDINGS / name).write_bytes(data)
        (FINDINGS / f"{name}.txt").write_text(why)

    def write(self) -> None:
        self.said = time.monotonic()
        content = {"cases": self.count, "traces": self.traces, "slow": self.slow}
        self.report.write_text(json.dumps({**content, "slowest": self.slowest, "peak": self.peak}))


def feed(reader: str, seconds: float, report: Path) -> None:
    """Run cases in this process until the time is over. The seeds come first, as they are."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    if importlib.util.find_spec("atheris"):
        import atheris

        with atheris.instrument_imports(include=["biflow.data", "biflow.films", "biflow.film_filters", "biflow.video"]):
            cases = Cases(reader, report)
    else:
        cases = Cases(reader, report)
    for data in cases.seeds:
        cases.run(data)
    cases.write()
    if not importlib.util.find_spec("atheris"):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            cases.run(cases.change(b"", 0, random.getrandbits(32)))
        cases.write()
        return
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(cases.seeds):
            Path(corpus, str(number)).write_bytes(data)
        limits = [f"-max_total_time={max(1, int(seconds))}", "-timeout=30", "-rss_limit_mb=2048", "-max_len=65536"]
        FINDINGS.mkdir(exist_ok=True)
        prefix = f"-artifact_prefix={FINDINGS}/{reader}-"
        atheris.Setup([reader, *limits, prefix, corpus], cases.run, custom_mutator=cases.change)
        atheris.Fuzz()


def watch(reader: str, seconds: float) -> dict:
    """Run cases in a process of their own, and in a new one after a crash. Return the sum of what happened."""
    end, total = (
        time.monotonic() + seconds,
        {"cases": 0, "traces": {}, "slow": 0, "slowest": 0.0, "peak": 0, "crashes": 0},
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while (left := end - time.monotonic()) > 1 or not total["cases"]:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder, "report.json")
            command = [
                sys.executable,
                "-m",
                "tests.fuzz.run",
                reader,
                "--seconds",
                f"{left:.0f}",
                "--report",
                str(report),
            ]
            ended = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
            found = json.loads(report.read_text()) if report.exists() else {}
        total["cases"] += found.get("cases", 0)
        total["slow"] += found.get("slow", 0)
        for what, count in found.get("traces", {}).items():
            total["traces"][what] = total["traces"].get(what, 0) + count
        for name in ("slowest", "peak"):
            total[name] = max(total[name], found.get(name, 0))
        if ended.returncode:
            total["crashes"] += 1
            print(f"{reader} crashed:\n{ended.stderr[-1500:]}", flush=True)
            if not found:
                break
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", default=READERS)
    parser.add_argument("--seconds", type=float, default=110, help="for each reader")
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.report:
        feed(given.readers[0], given.seconds, given.report)
        return 0
    rows = {reader: watch(reader, given.seconds) for reader in given.readers}
    print(f"{'reader':10}{'cases':>10}{'tracebacks':>12}{'crashes':>9}{'slow':>6}{'slowest':>10}{'peak memory':>13}")
    for reader, row in rows.items():
        numbers = f"{sum(row['traces'].values()):>12}{row['crashes']:>9}{row['slow']:>6}"
        print(f"{reader:10}{row['cases']:>10,}{numbers}{row['slowest']:>8.2f} s{row['peak']:>9} MiB")
        for what, count in row["traces"].items():
            print(f"    {count} of {what}")
    bad = False
    if given.readers == READERS and importlib.util.find_spec("tests.fuzz.documents"):  # it prints a table of its own
        command = [sys.executable, "-m", "tests.fuzz.documents", f"{given.seconds:.0f}"]
        bad = bool(subprocess.run(command, check=False).returncode)
    bad |= any(row["traces"] or row["crashes"] or row["slow"] or row["peak"] > MIB for row in rows.values())
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
