"""Does one hostile visitor of `biflow serve` stop another? And does the server survive?

    python -m benchmarks.faults [--seconds 10] [--rounds 1] [--only NAME …] [--model FOLDER] [--json FILE]

For each attack of `benchmarks.attacks`, a server of its own. An honest viewer streams at the highest rate, from the
same address as the attack. Then the same again beside a process that takes as much CPU as the attack did, and nothing
else: an attack on the same machine also takes its CPU. "kept" is the first frame rate over the second; with several
rounds, both are the mean over all, in turns. Meanwhile /healthz is asked over new connections. At the end SIGTERM comes
while the attack lasts.

A row says: how often the attack tried; whether the server survived (it ended within 5 s, with no traceback in its log,
and the viewer saw frames until the end); both frame rates; the median and worst latency of /healthz; the peak memory.
"""

import argparse
import asyncio
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median

import httpx

from benchmarks import record
from benchmarks.attacks import ATTACKS
from benchmarks.live import Server, warm, watch
from biflow.model import shipped_model


class Attack:
    """An attack in a process of its own, by name; or a number, for a share of a core."""

    def __init__(self, name: str, address: str, seconds: float) -> None:
        command = [sys.executable, "-m", "benchmarks.attacks", name, *address.split(":"), str(seconds)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def result(self) -> dict:
        """How often it tried, and the seconds of CPU that it took."""
        return json.loads(self.process.communicate(timeout=120)[0])

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


async def ask(address: str, until: float) -> list[float]:
    """The latencies of /healthz in seconds; those that were refused count as until they were answered."""
    latencies = []
    while time.monotonic() < until:
        begun = time.monotonic()
        for _ in range(20):
            with contextlib.suppress(httpx.HTTPError):
                async with httpx.AsyncClient(timeout=30) as client:
                    if (await client.get(f"http://{address}/healthz")).status_code == 200:
                        break
        latencies.append(time.monotonic() - begun)
        await asyncio.sleep(0.25)
    return latencies


async def meanwhile(address: str, seconds: float, name: str) -> dict:
    """Frame rate and latency beside an attack, or beside a load, and what the attack says."""
    until = time.monotonic() + seconds + 1
    watching = asyncio.create_task(watch(address, until))
    await asyncio.sleep(1)
    attack = Attack(name, address, seconds)
    begun = time.monotonic()
    latencies = await ask(address, until)
    try:
        times = [moment for moment in (await watching)["times"] if moment > begun]
    except Exception as error:  # the viewer was thrown out: that is a result
        print(f"{name}: {error!r}", file=sys.stderr)
        times = []
    result = await asyncio.to_thread(attack.result)
    rate = len(times) / (until - begun)
    return {**result, "rate": rate, "latencies": latencies, "until_the_end": bool(times) and until - times[-1] < 2}


def peak(server: Server) -> float:
    """The most memory that a server has had, in MiB (Linux)."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else float("nan")


def measure(model: Path, name: str, seconds: float, rounds: int) -> dict:
    attacks, loads = [], []
    with tempfile.TemporaryFile("w+") as log, Server(model, log=log) as server:
        asyncio.run(warm(server.address))
        for _ in range(rounds):
            attacks.append(asyncio.run(meanwhile(server.address, seconds, name)))
            share = min(0.999, attacks[-1]["cpu_s"] / seconds)
            loads.append(asyncio.run(meanwhile(server.address, seconds, f"{share:.3f}")))
        attack = Attack(name, server.address, 20)
        time.sleep(2)
        memory, stopping = peak(server), time.monotonic()
        server.process.terminate()
        server.process.wait(30)
        stopped = time.monotonic() - stopping
        attack.stop()
        log.seek(0)
        lines = log.read().splitlines()
    beside, without = (mean(part["rate"] for part in parts) for parts in (attacks, loads))
    latencies = [value for part in attacks for value in part["latencies"]]
    traces = sum(line.startswith("Traceback") for line in lines)
    return {
        "attack": name,
        "seconds": rounds * seconds,
        "tried": sum(part["tried"] for part in attacks),
        "survived": traces == 0 and stopped < 5 and all(part["until_the_end"] for part in attacks),
        "frames_per_s": round(beside, 2),
        "beside_equal_load": round(without, 2),
        "kept": round(beside / without, 2) if without else float("nan"),
        "healthz_ms": [round(1000 * value) for value in (median(latencies), max(latencies))],
        "peak_mib": round(memory),
        "attack_cpu": round(sum(part["cpu_s"] for part in attacks) / seconds / rounds, 2),
        "sigterm_s": round(stopped, 2),
        "log_lines": len(lines),
        "tracebacks": traces,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--model", type=Path, default=shipped_model())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict] = []
    for name in options.only:
        rows.append(measure(options.model, name, options.seconds, options.rounds))
        if len(rows) == 1:
            print("\t".join(rows[0]))
        print("\t".join(str(value) for value in rows[-1].values()), flush=True)
    record.write(options.json, {"question": "does one hostile visitor of biflow serve stop another?", "rows": rows})


if __name__ == "__main__":
    main()
