"""Pictures of clients are read in processes with limits, and keep nobody but who sends them waiting."""

import asyncio
import contextlib
import os
import subprocess
import sys

import pytest
import torch

from benchmarks import bombs
from biflow.errors import UserError
from biflow.serve import uploads
from biflow.serve.reader import TOO_MUCH
from biflow.serve.uploads import MAX_BYTES, READERS, Sender, Uploads
from tests.serve.helpers import Client, Watching, png, told, until

SLOW = bombs.progressive_jpeg(6000)  # about a minute


def decode(data):
    async def reading():
        reader = Uploads()
        try:
            return await reader.decode(data, (8, 6))
        finally:
            await reader.close()

    return asyncio.run(reading())


@pytest.fixture
def processes(monkeypatch):
    """Those that were started."""
    started, start = [], uploads._start_process
    monkeypatch.setattr(uploads, "_start_process", lambda: started.append(start()) or started[-1])
    return started


def ended(processes):
    return all(process.poll() is not None for process in processes)


def test_a_picture_becomes_a_frame_or_a_sentence_and_no_process_is_left(processes):
    assert torch.equal(decode(png(77)), torch.full((3, 8, 6), 77, dtype=torch.uint8))
    with pytest.raises(UserError, match="is not a PNG, JPEG, WebP or GIF"):
        decode(b"rest")
    assert len(processes) == 4  # each with one that was ready for the next picture
    assert ended(processes)


SHORT = {
    "iCCP": lambda: bombs.png_of_chunks(b"iCCP", 4000),
    "zTXt": lambda: bombs.png_of_chunks(b"zTXt", 400),
    "iTXt": lambda: bombs.png_of_chunks(b"iTXt", 400),
    "Exif": lambda: bombs.jpeg_of_exif(20_000),
    "profiles": bombs.jpeg_of_profiles,
    "circle": bombs.jpeg_of_circling_exif,
    "huge GIF": bombs.huge_gif,
    "GIF of frames": bombs.gif_of_frames,
    "WebP": lambda: bombs.truncated(bombs.large_webp(500)),
    "narrow": bombs.narrow_png,
    "zeros": lambda: bombs.png_of_zeros(2**24),
    "PNG": lambda: bombs.truncated(png(77, 64)),
}


REFUSED = {"huge GIF": "more than 16 million pixels", "WebP": "is damaged", "PNG": "is damaged"}


@pytest.mark.parametrize("name", SHORT)
def test_a_hostile_picture_becomes_a_frame_or_a_sentence(name, monkeypatch, processes):
    monkeypatch.setattr(uploads, "CPU_SECONDS", 1)
    try:
        found = str(tuple(decode(SHORT[name]()).shape))
    except UserError as error:
        found = str(error)
    assert REFUSED.get(name, "(3, 8, 6)") in found or found == TOO_MUCH  # which depends on the machine
    assert ended(processes)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on memory")
def test_memory_has_a_limit(monkeypatch):
    data = bombs.wide_png(4000)  # 48 MB as RGB
    assert decode(data).shape == (3, 8, 6)
    less = "sys.path[:] = sys.argv[1:]; from biflow.serve import reader; reader.MEMORY = 2**26; reader.main()"
    monkeypatch.setattr(uploads, "_RUN", "import sys; " + less)
    with pytest.raises(UserError, match="too much memory"):
        decode(data)


def test_the_clock_is_a_limit_too(monkeypatch, processes):
    monkeypatch.setattr(uploads, "SECONDS", 0.1)
    with pytest.raises(UserError, match="takes too long"):
        decode(SLOW)
    assert ended(processes)


def test_a_reader_starts_without_torch_and_numpy():
    program = "import sys; sys.path[:] = sys.argv[1:]; import biflow.serve.reader; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", program, *filter(None, sys.path)]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "PIL.WebPImagePlugin" in modules
    assert not {"torch", "numpy", "jaxtyping"} & set(modules)


def test_who_sends_a_bomb_and_everybody_else_goes_on(server, monkeypatch, processes):
    monkeypatch.setattr(uploads, "CPU_SECONDS", 1)
    with Client(server.address) as attacker, Client(server.address) as other:
        attacker.send(SLOW)
        until(lambda: server.hall.uploads.reading)
        attacker.send({"type": "ping", "at": 1})
        attacker.until("pong")
        other.send(png(77))
        other.until("starts", now=-1)
        assert attacker.until("error")["text"] == TOO_MUCH
        attacker.send(png(77))
        attacker.until("starts", now=-1)
        attacker.send(bytes(MAX_BYTES + 1))
        assert "more than 32 MB" in attacker.until("error")["text"]
        with Client(server.address) as leaving:
            leaving.send(SLOW)
            until(lambda: server.hall.uploads.reading)
        until(lambda: not server.hall.uploads.reading)
        until(lambda: ended(processes[:-1]))  # the last one waits for a picture


class Gate(Uploads):
    """Pictures are read once it is told to, by their first byte."""

    def __init__(self):
        super().__init__()
        self.begun, self.events = [], {}

    async def decode(self, data, size, *, hurry):
        self.begun.append(data[0])
        await self.events.setdefault(data[0], asyncio.Event()).wait()
        return torch.full((3, *size), data[0], dtype=torch.uint8)


@contextlib.asynccontextmanager
async def gate(session, clients):
    """A Gate, and that many clients of a session."""
    gate = Gate()
    senders = [Sender(session, Watching()) for _ in range(clients)]
    yield gate, senders
    await gate.close()
    assert not gate.reading


async def turn():
    """Have all tasks that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_of_a_client_one_picture_is_read_and_the_newest_waits(session):
    async def sending():
        async with gate(session, 1) as (reader, (sender,)):
            for number in (1, 2, 3):
                reader.put(sender, bytes([number]))
                await turn()
            assert reader.begun == [1]
            reader.events[1].set()
            await turn()
            assert reader.begun == [1, 3]
            reader.events[3].set()
            await turn()
            assert not reader.reading

    asyncio.run(sending())
    assert [int(picture[0, 0, 0]) for picture in session.starts._own.values()] == [1, 3]


def test_next_is_the_client_whose_pictures_took_least(session):
    async def sending():
        async with gate(session, READERS + 3) as (reader, senders):
            for number, sender in enumerate(senders):
                sender.seconds = 9.0 if number == READERS else 0.0
                reader.put(sender, bytes([number]))
            await turn()
            assert reader.begun == [0, 1]
            reader.put(senders[0], bytes([9]))
            for number in (0, 1):
                senders[number].seconds = 5.0
                reader.events[number].set()
            await turn()
            assert reader.begun == [0, 1, 3, 4]
            await reader.leave(senders[3])
            await turn()
            assert reader.begun == [0, 1, 3, 4, 9]

    asyncio.run(sending())


def test_pictures_that_wait_have_a_limit_and_the_largest_goes(session, monkeypatch):
    monkeypatch.setattr(uploads, "WAITING", 100)

    async def sending():
        async with gate(session, READERS + 3) as (reader, senders):
            for number, sender in enumerate(senders):
                reader.put(sender, bytes([number]) * (60 if number == READERS else 30))
            assert list(reader.waiting) == senders[READERS + 1 :]
            return senders

    senders = asyncio.run(sending())
    assert "Too many pictures" in told(senders[READERS].viewer, "error")[0]["text"]
    assert not any(told(sender.viewer, "error") for sender in senders if sender is not senders[READERS])


def test_without_another_process_there_is_a_sentence(monkeypatch):
    def fail(*arguments, **options):
        raise BlockingIOError("too many processes")

    monkeypatch.setattr(uploads, "Popen", fail)
    with pytest.raises(UserError, match="cannot read pictures now"):
        decode(png(77))


class Linked:
    """A connection whose pictures are read while nothing else is to be done."""

    hurries = False
    seconds = None

    def read_picture(self, seconds):
        self.seconds = seconds


def test_one_reader_is_left_to_those_who_hurry(session):
    async def sending():
        async with gate(session, 3) as (reader, (one, two, honest)):
            one.link = two.link = Linked()
            for number, sender in enumerate((one, two, honest)):
                reader.put(sender, bytes([number]))
                await turn()
            assert reader.begun == [0, 2]
            for number in (0, 2):
                reader.events[number].set()
            await turn()
            assert reader.begun == [0, 2, 1]
            assert one.link.seconds is not None

    asyncio.run(sending())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such class")
def test_without_hurry_a_picture_is_read_while_nothing_else_is_to_be_done(processes):
    async def reading():
        reader = Uploads()
        task = asyncio.create_task(reader.decode(SLOW, (8, 6), hurry=False))
        try:
            while not processes or os.sched_getscheduler(processes[0].pid) != os.SCHED_IDLE:
                await asyncio.sleep(0.01)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await reader.close()

    asyncio.run(asyncio.wait_for(reading(), 30))
