"""What the harnesses of the readers share: reading as `biflow prepare` does, and changing files."""

import random
import shutil
import tempfile
from pathlib import Path

from tqdm import tqdm

from biflow.config import Prepare
from biflow.data.clips import find_clips
from biflow.data.prepare import _usual_rate
from biflow.data.writer import Writer
from biflow.errors import UserError

FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
SETTINGS = Prepare(Path(FOLDER.name, "src"), Path(FOLDER.name, "dst"), size=8)
BOUNDS = [0, 1, 2, 127, 128, 255, 256, 8900, 32767, 32768, 65535, 65536, 10**6, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1]


def read(files: dict[str, bytes]) -> tuple[list[int], int]:
    """Prepare a source of these files. Return the numbers of frames of the clips, and how many were skipped.

    Whatever is raised but UserError is a fault.
    """
    shutil.rmtree(SETTINGS.src, ignore_errors=True)
    SETTINGS.src.mkdir()
    for name, data in files.items():
        (SETTINGS.src / name).write_bytes(data)
    try:
        items = find_clips(SETTINGS.src)
        fps = _usual_rate(items)
        with tqdm(disable=True) as bar, Path(FOLDER.name, "frames").open("w+b") as file:
            writer = Writer(file, (8, 8), SETTINGS, fps, bar)
            for item in items:
                writer.add(item)
        return [clip["frames"] for clip in writer.clips], len(writer.skipped)
    except UserError:
        return [], 1


def changed(data: bytes, other: bytes, source: random.Random) -> bytes:
    """`data` after a few changes: bits, numbers, cuts, repeats, and parts of another file."""
    out = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 3, 8))):
        place = source.randrange(len(out) + 1)
        if source.random() < 0.3:  # most of what headers say stands at the beginning
            place = min(place, source.randrange(200))
        length = min(source.choice((1, 4, 16, 64, 512)), len(out) - place)
        kind = source.randrange(8)
        if kind == 0 and place < len(out):
            out[place] ^= 1 << source.randrange(8)
        elif kind == 1:
            width = source.choice((1, 2, 4, 8))
            number = (source.choice(BOUNDS) + source.choice((-1, 0, 0, 1))) % 256**width
            out[place : place + width] = number.to_bytes(width, source.choice(("little", "big")))
        elif kind == 2:
            del out[place:]
        elif kind == 3:
            del out[place : place + length]
        elif kind == 4:
            out[place:place] = out[place : place + length] * source.choice((1, 2, 30))
        elif kind == 5:
            start = source.randrange(len(other) + 1)
            out[place : place + length] = other[start : start + length]
        elif kind == 6:
            out = out[:place] + other[source.randrange(len(other) + 1) :]
        elif place < len(out):
            out[place] = source.randrange(256)
    return bytes(out[: 1 << 16])
