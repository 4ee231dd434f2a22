"""Many clients at once, some of them bad: the others do not notice, and nothing is left behind."""

import asyncio
import contextlib
import io
import threading
import time

import pytest
from PIL import Image
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from benchmarks.live import Server, warm, watch

SECONDS = 60


async def read_nothing(address: str, until: float) -> None:
    async with connect(f"ws://{address}/ws"):
        await asyncio.sleep(until - time.monotonic())


async def send_rubbish(address: str, until: float) -> None:
    bomb = io.BytesIO()
    Image.new("1", (14000, 14000)).save(bomb, "PNG")
    rubbish = ["{", '{"type": 3}', '{"type": "set", "controls": {"eps": [1]}}', "x" * 100_000, bomb.getvalue()]
    rubbish += [bytes(6 * 2**20), b"PK\x03\x04" * 1000, '{"type": "back", "frame": -1}', "[" * 4000]
    while time.monotonic() < until:
        with contextlib.suppress(WebSocketException, OSError):
            async with connect(f"ws://{address}/ws") as link:
                for message in rubbish:
                    await link.send(message)
                    await asyncio.sleep(0.05)


async def come_and_go(address: str) -> None:
    for _ in range(200):
        with contextlib.suppress(WebSocketException, OSError):
            async with connect(f"ws://{address}/ws") as link:
                await link.recv()


async def crowd(server: Server) -> tuple[list[dict], float, float]:
    await warm(server.address)
    await asyncio.gather(*(watch(server.address, time.monotonic() + SECONDS / 4) for _ in range(29)))
    before, until = server.rss(), time.monotonic() + SECONDS
    honest = [asyncio.create_task(watch(server.address, until)) for _ in range(29)]
    bad = [read_nothing(server.address, until), send_rubbish(server.address, until), come_and_go(server.address)]
    await asyncio.gather(*bad)
    return await asyncio.gather(*honest), before, server.rss()


@pytest.mark.slow
def test_bad_clients_cost_the_others_nothing(folders):
    threads = threading.active_count()
    with Server(folders["bi"]) as server:
        seen, before, after = asyncio.run(crowd(server))
        begun = time.monotonic()
        server.process.terminate()
        server.process.wait(10)
        assert time.monotonic() - begun < 5
    for client in seen:
        gaps = [b - a for a, b in zip(client["times"], client["times"][1:], strict=False)]
        assert len(gaps) > SECONDS / 2
        assert max(gaps) < 5
    assert after - before < 60, f"{before:.0f} MiB became {after:.0f}"
    assert threading.active_count() == threads
