"""Map the arrays of `.npy` and `.npz` files. What the header claims must be in the file."""

import io
import mmap
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np

from biflow.data.archives import Archive
from biflow.limits import BLOCK, IN_MEMORY, check_ratio, temporary

HEADER = 1 << 16  # bytes of a header, at most; NumPy itself refuses more than 10,000 characters


def load_numpy(open_file: Callable[[], Any], name: str) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an `.npy` file, or the arrays of an `.npz` file by name.

    Raises UserError, ValueError, and whatever else a damaged header leads to.
    """
    with open_file() as file:
        zipped = file.read(2) == b"PK"
        file.seek(0)
        if not zipped:
            buffer = _buffer(file)
            return _array(buffer, 0, len(buffer))
    archive = Archive(name, open_file)
    members = dict(archive.members())
    size = sum(entry.file_size for entry in members.values())
    check_ratio(name, size, archive.size)
    unpacked = io.BytesIO() if size <= IN_MEMORY else temporary(size, name)
    starts, ends = [], []
    for part, entry in members.items():
        starts.append(unpacked.tell())
        if fault := archive.fault(part, entry):
            raise fault
        with archive.head(entry) as member:
            shutil.copyfileobj(member, unpacked, BLOCK)
        unpacked.write(bytes(-unpacked.tell() % np.lib.format.ARRAY_ALIGN))  # so that arrays are aligned
        ends.append(unpacked.tell())
    buffer = _buffer(unpacked)
    names = [part.removesuffix(".npy") for part in members]
    parts = zip(names, starts, ends, strict=True)
    magic = np.lib.format.MAGIC_PREFIX  # other files in it are not arrays
    return {part: _array(buffer, i, end) for part, i, end in parts if buffer[i : i + len(magic)] == magic}


def _buffer(file: Any) -> Any:
    """The bytes of a file; those on disk are mapped."""
    if isinstance(file, io.BytesIO):
        return memoryview(file.getvalue())
    file.flush()
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _array(buffer: Any, start: int, end: int) -> np.ndarray:
    head = io.BytesIO(buffer[start : min(end, start + HEADER)])
    version = np.lib.format.read_magic(head)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(head)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return np.ndarray(shape, dtype, buffer[start:end], head.tell(), order="F" if fortran else "C")
