"""The most that an input may take. Whatever claims more is refused by name, before memory or time is spent on it.

The values are beyond what people have: a panorama of 12288x6144 is a frame, and a film may last for days.
"""

import contextlib
import io
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biflow.errors import UserError

resource: Any = None
with contextlib.suppress(ImportError, FileNotFoundError):
    Path("/proc/self/statm").stat()
    import resource

    _DATA, _PAGE = resource.getrlimit(resource.RLIMIT_DATA), resource.getpagesize()

MIB, GIB = 1 << 20, 1 << 30
BLOCK = MIB  # bytes that are read at once

PIXELS, SIDE = 80_000_000, 65_535  # of one frame, and of a side of it: those that are longer take seconds to resize
# A frame of more pixels than 4K needs a file of a certain size. A frame of one colour in 8K stays below.
SMALL_PIXELS, FRAME_PER_BYTE = 9_000_000, 50_000
SCANS = 200  # of a progressive JPEG, each of which is decoded over the whole picture
CLIPS = 100_000  # in one file
# A clip may have so many frames and pixels, and so many more for each byte of its file. A black film in 8K stays below.
FRAMES, FRAMES_PER_BYTE = 10_000, 1
ALL_PIXELS, PIXELS_PER_BYTE = 5_000_000_000, 250_000
KEPT, KEPT_PER_BYTE = 100_000, 10  # frames at the rate of the set; a screen recording may hold one for a minute
REPEATS = 4  # times that a tensor may use each value of its file, as a grey film that was expanded to RGBA does

ENTRIES = 1_000_000  # of an archive
FEW_ENTRIES, ENTRY = 10_000, 16  # with more, each takes so many bytes of it
DEPTH = 4  # archives in one another
IN_MEMORY = 64 * MIB  # of a file in an archive; a larger one is unpacked into a temporary file
TENSORS = 8 * GIB  # of a .pt file that cannot be mapped
INNER = 256 * GIB  # of all archives in an archive, which are unpacked into temporary files
RATIO = 500  # of what is compressed, beyond the first gigabyte; deflate reaches 1032 for zeros
HEADERS = MIB  # of one entry of a tar

TEXT = 64 * MIB  # of a file with actions, or with names of clips
VALUES = 8_000_000  # in it

INDEX = 384 * MIB  # of memory for what the headers of a film list: 24 bytes a frame, so that a day of film fits
OPENING, READING = 120.0, 60.0  # seconds that FFmpeg waits for a file to be opened, and for a part of it


def check_regular(path: Path, name: str) -> None:
    """Raises UserError for what is not a file: a pipe, a socket or a device may never end, so it is not even opened."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise UserError(f"{name} does not exist. Check the path.") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise UserError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if not stat.S_ISREG(mode):
        kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket"}
        kind = next((kind for is_kind, kind in kinds.items() if is_kind(mode)), "a device")
        raise UserError(f"{name} is {kind}, not a file.")


def open_regular(path: Path, name: str) -> io.BufferedReader:
    """Open a file. Raises UserError if it is not one, or cannot be read."""
    check_regular(path, name)
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}. Check its permissions.") from error


def read_text(file: Any, name: str) -> bytes:
    """The text of an open file. Raises UserError for too much of it."""
    content = file.read(TEXT + 1)
    if len(content) > TEXT:
        raise UserError(f"{name} is larger than {TEXT >> 20} MiB, the most for a file of text.")
    if max(map(content.count, (b",", b";", b"\t", b"\n", b"\r"))) > VALUES:
        raise UserError(f"{name} holds more than {VALUES:,} values, the most for a file of text.")
    return content


def temporary(size: int, name: str) -> Any:
    """A temporary file for `size` bytes. Raises UserError if the disk has no room for them."""
    folder = tempfile.gettempdir()
    if size > (free := shutil.disk_usage(folder).free):
        raise UserError(f"{name} has {size:,} bytes, but {folder} has {free:,} left to unpack it. Unpack it elsewhere.")
    return tempfile.TemporaryFile()


def size_of(path: Path) -> int:
    """The bytes that a file takes on its disk, so that the holes in it do not count; 0 if that is not known."""
    with contextlib.suppress(OSError):
        found = path.stat()
        blocks = getattr(found, "st_blocks", 0)
        return min(found.st_size, 512 * blocks) if blocks else found.st_size
    return 0


class Allowance:
    """What may be decoded from a clip of `size` bytes: a few bytes must not become frames without end."""

    def __init__(self, name: str, size: int):
        self.name, self.size = name, size
        self.kept = KEPT + KEPT_PER_BYTE * size
        self.frames, self.pixels = FRAMES + FRAMES_PER_BYTE * size, ALL_PIXELS + PIXELS_PER_BYTE * size

    def take(self, height: int, width: int, frames: int = 1) -> None:
        """Count frames. Raises UserError beyond what is allowed."""
        self.frames -= frames
        self.pixels -= frames * height * width
        if self.frames < 0 or self.pixels < 0:
            raise UserError(f"{self.name} holds far more frames than its {self.size:,} bytes can. It is left out.")

    def keep(self) -> None:
        """Count a frame that is written, perhaps again. Raises UserError beyond what is allowed."""
        self.kept -= 1
        if self.kept < 0:
            raise UserError(f"{self.name} has time stamps that would repeat its frames far too often. It is left out.")


def check_pixels(name: str, width: int, height: int, size: int | None = None) -> None:
    """Raises UserError for a frame that is too large or too long, or too large for a file of `size` bytes."""
    if max(width, height) > SIDE:
        raise UserError(f"{name} has frames of {width}x{height}, longer than {SIDE:,} pixels. Make it smaller.")
    if width * height > PIXELS:
        raise UserError(f"{name} has frames of {width}x{height}, more than {PIXELS:,} pixels. Make it smaller.")
    if size is not None and width * height > most_pixels(size):
        raise UserError(f"{name} claims frames of {width}x{height}, which its {size:,} bytes cannot hold.")


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Let the process allocate only `INDEX` bytes more, where the system can do so (Linux).

    FFmpeg has no limit of its own, and a kilobyte of headers may list a billion frames. Beyond it, opening fails.
    """
    if resource is None:
        yield
        return
    with open("/proc/self/statm", "rb", buffering=0) as file:  # once per packet of a film
        used = int(file.read().split()[5]) * _PAGE
    soft, hard = _DATA
    most = [limit for limit in (used + INDEX, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(most), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, _DATA)  # as at the start: threads may be here at the same time


def most_pixels(size: int) -> int:
    """The most pixels of a frame in a file of `size` bytes."""
    return min(PIXELS, SMALL_PIXELS + FRAME_PER_BYTE * size)


def check_ratio(name: str, unpacked: int, packed: int) -> None:
    """Raises UserError for what unpacks to far more bytes than pictures do."""
    if unpacked > GIB + RATIO * packed:
        raise UserError(f"{name} unpacks to {unpacked:,} bytes, more than {RATIO} times its size. It is left out.")


def length(file: Any) -> int:
    """The bytes of an open file."""
    place = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(place)
    return end
