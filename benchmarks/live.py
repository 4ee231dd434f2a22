"""How live is `biflow serve`: frames, pace, reaction and overhead, for 1, 8 and 32 clients?

    python -m benchmarks.live [--seconds 15] [--model FOLDER] [--json FILE]

The server runs in a process of its own. Real WebSocket clients on loopback acknowledge every frame. "sessions": each
client streams its own session; "viewers": all watch the same one; their frame rate is uncapped. "served": one client at
the server's default rate, that of the model's videos. Overhead is the time of an uncapped frame beyond its solve. A
reaction is the time from sending a change of eps to receiving the first frame solved with it, in intervals between
frames; "gap" is the longest time between frames meanwhile. For a model with actions, the same is measured for a key.
The last table is the cost of a network call by the number of samples in it, which shows when sessions should share
calls (BATCH in biflow.serve.models).
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import IO

import numpy as np
import torch
from websockets.asyncio.client import ClientConnection, connect

from benchmarks import record
from biflow.data.starts import first_frames
from biflow.engines import with_engine
from biflow.engines.queries import example
from biflow.machine import device
from biflow.model import load_model, shipped_model
from biflow.rollout import drain, sample_generators, stream
from biflow.serve.wire import unpack
from biflow.video import to_float


def eps_at(value: float) -> dict:
    """The message that sets the noise level."""
    return {"type": "set", "controls": {"eps": value}}


class Server:
    """`biflow serve` in a process of its own; `log` is a file for what it prints to stderr."""

    def __init__(self, model: Path, log: IO | None = None):
        command = [sys.executable, "-m", "biflow.cli", "serve", str(model), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        found = re.search(r"http://([\d.]+:\d+)", self.process.stdout.readline())
        assert found, "the server did not start"
        self.address = found[1]

    def rss(self) -> float:
        """Its resident memory in MiB (Linux)."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait(10)


async def watch(
    address: str,
    until: float,
    *,
    session: str = "",
    change_every: float = 0,
    changes: Sequence[dict] = (eps_at(0.11), eps_at(0.1)),
    uncapped: bool = True,
) -> dict:
    """Be a client until `until` (time.monotonic).

    With `change_every`, `changes` are sent in turn, about every that many seconds.

    Returns the times at which frames came, their headers, the reactions to changes in seconds, and the server's hello.
    """
    seen: dict = {"times": [], "headers": [], "reactions": [], "hello": {}}
    query = f"?session={session}" if session else ""
    async with connect(f"ws://{address}/ws{query}", max_size=None, compression=None) as link:
        sent, version, change, next_change = 0.0, None, {}, time.monotonic() + 2
        while (left := until - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(link.recv(), left)
            except asyncio.TimeoutError:
                break
            now = time.monotonic()
            if isinstance(message, bytes):
                header, _ = unpack(message)
                seen["times"].append(now)
                seen["headers"].append(header)
                await link.send('{"type": "ack"}')
                acted = change.get("action") and change["action"] == header["action"]
                if acted or (version is not None and header["version"] >= version):
                    seen["reactions"].append(now - sent)
                    version, change = None, {}
                if change_every and now > next_change:
                    next_change, change = now + change_every, changes[len(seen["reactions"]) % len(changes)]
                    sent = await send(link, change, within=float(np.median(np.diff(seen["times"][-20:]))))
                continue
            content = json.loads(message)
            if content["type"] == "hello":
                seen["hello"] = content
                if uncapped:
                    await link.send('{"type": "set", "controls": {"fps_cap": null}}')
            elif content["type"] == "wait":
                raise ConnectionError(content["text"])
            elif content["type"] == "controls" and sent:
                version = content["version"]
    return seen


async def send(link: ClientConnection, change: dict, *, within: float) -> float:
    """Send a change, not always just after a frame, when the reaction is fastest. Returns when it was sent."""
    await asyncio.sleep(random.uniform(0, within))
    sent = time.monotonic()
    await link.send(json.dumps(change))
    return sent


async def warm(address: str) -> None:
    """Wait until the server lets clients in."""
    for _ in range(1200):
        try:
            await watch(address, time.monotonic() + 0.5)
            return
        except ConnectionError:
            await asyncio.sleep(0.2)
    raise TimeoutError("the models never became ready")


async def crowd(server: Server, clients: int, seconds: float, *, shared: bool) -> dict:
    """Many clients at once, each with a session of its own, or all with the same one if `shared`."""
    before, until = server.rss(), time.monotonic() + seconds
    name = ""
    if shared:
        async with connect(f"ws://{server.address}/ws") as link:
            name = json.loads(await link.recv())["session"]  # it is kept for viewers to come back
    tasks = [watch(server.address, until, session=name) for _ in range(clients)]
    seen = await asyncio.gather(*tasks)
    gaps = [np.diff(one["times"][2:]) for one in seen]  # without the first frame and the stream's first step
    every = np.concatenate(gaps) if any(len(gap) for gap in gaps) else np.array([np.nan])
    solves = [header["solve_ms"] for one in seen for header in one["headers"][2:]] or [float("nan")]
    rates = [len(gap) / gap.sum() if len(gap) else 0.0 for gap in gaps]
    return {
        "clients": clients,
        "kind": "viewers" if shared else "sessions",
        "frames_per_s_each": round(median(rates), 3),
        "frames_per_s_slowest": round(min(rates), 3),
        "median_ms": round(1000 * float(np.median(every)), 1),
        "p95_over_median": round(float(np.percentile(every, 95) / np.median(every)), 3),
        "solve_ms": round(median(solves), 1),
        "rss_mib": [round(before, 1), round(server.rss(), 1)],
    }


def pace(times: list[float]) -> dict:
    """Median and 95th percentile between frames, without the first frame and the stream's first step."""
    gaps = np.diff(times[2:])
    return {
        "median_ms": round(1000 * float(np.median(gaps)), 1),
        "p95_over_median": round(float(np.percentile(gaps, 95) / np.median(gaps)), 3),
    }


async def alone(server: Server, seconds: float) -> dict:
    """One client: overhead of uncapped frames; pace and reaction at the server's default rate."""
    steady = await watch(server.address, time.monotonic() + seconds)
    gaps = np.diff(steady["times"][2:])
    solves = np.array([header["solve_ms"] for header in steady["headers"][3:]]) / 1000
    served = await watch(server.address, time.monotonic() + seconds, uncapped=False)
    reactions = {"change": await reaction(server, seconds, (eps_at(0.11), eps_at(0.1)))}
    if actions := steady["hello"]["models"][0]["actions"]:
        one, other, *_ = actions["keys"].values()
        keys = [{"type": "act", "action": action} for action in (one, other)]
        reactions["key"] = await reaction(server, seconds, keys)
    return {
        "overhead_percent": round(100 * float(np.median(gaps - solves) / np.median(solves)), 2),
        "encode_ms": round(median(header["encode_ms"] for header in steady["headers"][1:]), 2),
        "nfe": round(float(np.mean([header["nfe"][0] for header in steady["headers"][3:]])), 2),
        "served": pace(served["times"]),
        "reaction_frames": reactions,
    }


async def reaction(server: Server, seconds: float, changes: Sequence[dict]) -> dict:
    """How long until a change is seen, at the server's default rate and uncapped, in intervals between frames."""
    rows = {}
    for name, uncapped in (("served", False), ("uncapped", True)):
        until = time.monotonic() + seconds
        steered = await watch(server.address, until, change_every=0.6, changes=changes, uncapped=uncapped)
        gaps = np.diff(steered["times"][2:])
        frame = float(np.median(gaps))
        rows[name] = {
            "median": round(median(steered["reactions"]) / frame, 2),
            "worst": round(max(steered["reactions"]) / frame, 2),
            "gap": round(float(gaps.max()) / frame, 2),
            "changes": len(steered["reactions"]),
        }
    return rows


def bare(folder: Path, seconds: float) -> dict:
    """The pace of the same frames in this process, without a server, for comparison."""
    model = with_engine(load_model(folder, device=device()))
    first = to_float(first_frames(folder / "first", model.size, 1, 0)).to(model.device)
    times, until = [], time.monotonic() + seconds
    for _ in drain(stream(model, first, generators=sample_generators(0, [0]))):
        times.append(time.monotonic())
        if times[-1] > until:
            break
    return pace(times)


def batches(folder: Path, repeats: int = 12) -> list[dict]:
    """Milliseconds per network call, and per sample of it, by the number of samples."""
    model = with_engine(load_model(folder, device=device()))
    rows = []
    for samples in (1, 2, 4, 8, 16):
        query = example(model, samples)
        times = []
        for _ in range(repeats + 2):
            begun = time.perf_counter()
            with torch.inference_mode():
                model.network(query).v.cpu()
            times.append(1000 * (time.perf_counter() - begun))
        each = median(times[2:]) / samples
        row = {"samples": samples, "call_ms": round(each * samples, 2), "sample_ms": round(each, 2)}
        rows.append({"engine": model.engine, **row})
    return rows


async def measure(model: Path, seconds: float) -> dict:
    with Server(model) as server:
        await warm(server.address)
        first = await alone(server, seconds)
        rows = [
            await crowd(server, clients, seconds * (1 if clients < 32 else 2), shared=shared)
            for clients, shared in ((1, False), (8, False), (8, True), (32, False))
        ]
        stopping = time.perf_counter()
        server.process.terminate()
        server.process.wait(10)
        first["sigterm_s"] = round(time.perf_counter() - stopping, 2)
    return {"alone": first, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--model", type=Path, default=shipped_model())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = asyncio.run(measure(options.model, options.seconds))
    result["bare"] = bare(options.model, options.seconds)
    result["batches"] = batches(options.model)
    for part in (result["rows"], result["batches"]):
        print("\t".join(part[0]))
        for row in part:
            print("\t".join(str(value) for value in row.values()))
    print(json.dumps({"alone": result["alone"], "bare": result["bare"]}))
    record.write(options.json, {"question": "frames, pace, reaction and overhead of biflow serve", **result})


if __name__ == "__main__":
    main()
