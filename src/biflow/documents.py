"""JSON documents and arrays that may have been sent, edited or damaged: read within limits, and checked by a schema.

The schemas are in `biflow.schemas`. What a file says is data: nothing in it is imported or evaluated.
"""

import json
import re
import stat
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from biflow.config.parsing import refusal
from biflow.errors import UserError

T = TypeVar("T")
LARGEST = 128 << 20  # bytes of a document: the index of 350,000 clips
VALUES = 7_500_000  # of a document, which take up to 200 bytes each: the same index
HEADER = 1024  # characters in the header of an array; NumPy's own have 118
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_document(path: str | Path, schema: type[T], failure: str, advice: str, *, names: bool = False) -> T:
    """The content of a JSON file that fits a schema: a TypedDict of `biflow.schemas`. Keys beside those are kept.

    Messages are "`path` `failure`: why. `advice`". `names` is for documents that hold names of files, which may be no
    Unicode.

    Raises:
        UserError: the file cannot be read, is not JSON, or does not fit.
    """
    content = parsed_json(read_bytes(path), str(path), advice, names=names)
    return checked(content, schema, f"{path} {failure}", advice)


def checked(content: Any, schema: type[T], what: str, advice: str) -> T:
    """`content` as it is, if it fits the schema. Raises UserError, "`what`: why. `advice`", if not."""
    try:
        msgspec.convert(content, schema, strict=True)
    except msgspec.ValidationError as error:
        raise UserError(f"{what}: {refusal(str(error), content)} {advice}".rstrip()) from error
    except (ValueError, RecursionError) as error:  # keys that are no Unicode
        raise UserError(f"{what}. {advice}".rstrip()) from error
    return content


def read_json(path: str | Path) -> Any:
    """The content of a JSON file. Raises UserError if it cannot be read or is not valid JSON."""
    return parsed_json(read_bytes(path), str(path))


def parsed_json(content: bytes, where: str, advice: str = "", *, names: bool = False) -> Any:
    """The JSON in the bytes of the file `where`, with or without a byte order mark. `names` is as in `read_document`.

    Raises:
        UserError: it is not valid, too large, or names a key twice.
    """
    try:
        text = content.decode("utf-8-sig")
        if len(content) > LARGEST or sum(map(text.count, ",[{")) > VALUES:
            raise ValueError("it is too large")
        found = json.loads(text, object_pairs_hook=_unique)
        if not names and SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except UnicodeError as error:
        reason = "it is not UTF-8 text"
        raise UserError(f"{where} is not valid JSON ({reason}). {advice}".rstrip()) from error
    except RecursionError as error:
        reason = "its lists or objects are nested too deeply"
        raise UserError(f"{where} is not valid JSON ({reason}). {advice}".rstrip()) from error
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON ({_plain(error)}). {advice}".rstrip()) from error


def read_bytes(path: str | Path, most: int = LARGEST) -> bytes:
    """The content of a regular file of at most so many bytes. Raises UserError."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise UserError(f"{path} cannot be read: it is a folder or a device, not a file.")
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path, and UserError itself
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if len(content) > most:
        raise UserError(f"{path} cannot be read: it has more than {most >> 10:,} KiB.")
    return content


def map_array(path: Path, dtype: Any, shape: tuple[int | None, ...], advice: str) -> np.ndarray:
    """A memory map of an .npy file that holds numbers of this type in this shape, in C order. None fits any size.

    Raises:
        UserError: the file is damaged or holds something else; "`path` `why`. `advice`".
    """
    expected = np.dtype(dtype)
    try:
        found, fortran, descr, offset = _array_header(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}. {advice}") from error
    except Exception as error:  # of the many kinds that NumPy raises for a damaged header
        raise UserError(f"{path} cannot be read: it is not an array, or damaged. {advice}") from error
    fits = len(found) == len(shape) and all(n in (None, size) for n, size in zip(shape, found, strict=True))
    if descr != expected or not descr.isnative or fortran or not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        held = f"{descr.str} of shape {found}{' in Fortran order' * fortran}"
        raise UserError(f"{path} holds {held[:80]}, not {expected.str} of shape ({wanted}). {advice}")
    if 0 in found or path.stat().st_size < offset + expected.itemsize * int(np.prod(found, dtype=object)):
        raise UserError(f"{path} ends too early. {advice}")
    return np.memmap(path, expected, "r", offset, found).view(np.ndarray)  # slices of plain arrays are faster


def _array_header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether it is in Fortran order, type and the place of the first number."""
    if not path.is_file():
        raise OSError(None, "it is not a file")
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file, max_header_size=HEADER)
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ValueError("a negative size")
        return shape, fortran, dtype, file.tell()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)[:40]!r} is given twice")
    return found


def _plain(error: Exception) -> str:
    """The message without what it advises programmers."""
    text = str(error).partition("; use sys.")[0]
    return "a number has too many digits" if "integer string conversion" in text else text
