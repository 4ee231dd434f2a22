"""The one exception that means: the input was wrong, and this is how to correct it."""

import errno
import os
import re
import sys
from pathlib import Path
from types import TracebackType

REASONS = {errno.EISDIR: "it is a folder", errno.EROFS: "its file system is read-only"}
REASONS |= dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "it exists and is not a folder")

LONGEST = 1000  # characters of a message


class UserError(ValueError):
    """Bad input, described in one sentence: what was wrong, where, and how to correct it.

    The sentence is one line whatever it quotes: control characters in it are shown as escapes, and a long one is cut.

    Args:
        message: the sentence. It never names a flag of the command line.
        setting: the name of the setting that was wrong, such as "first". The command line shows it as a flag.
    """

    def __init__(self, message: str, *, setting: str | None = None) -> None:
        cut = message if len(message) <= LONGEST else f"{message[: LONGEST // 2]} … {message[-LONGEST // 2 :]}"
        super().__init__(shown(cut))
        self.setting = setting


def shown(text: str) -> str:
    """Text as messages show it: line breaks, control characters and bytes that are not UTF-8 as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def out_of_memory(error: BaseException) -> bool:
    """Whether the machine or its graphics card had no memory left, as Python, NumPy or PyTorch say it."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = "out of memory|not enough memory|(can't|cannot|unable to|failed to) allocate|bad.alloc|alloc_failed"
    words += "|^MemoryError"  # the last line of another process's traceback
    said = isinstance(error, RuntimeError) and re.search(words, str(error), re.IGNORECASE | re.MULTILINE)
    return isinstance(error, MemoryError) or bool(said)


def memory_error(settings: object) -> UserError:
    """What to change in the settings of a command that ran out of memory, as one sentence."""
    batch, accumulate = getattr(settings, "batch", 1), getattr(settings, "accumulate", 0)
    parts = 2 * accumulate
    if batch <= max(accumulate, 1):  # a sample at a time
        return UserError("There is not enough memory. Close other programs, or use smaller or fewer frames.")
    advice = "Use a smaller one"
    if parts and batch % parts == 0:
        advice += f", or accumulate={parts} to compute it in parts"
    if hasattr(settings, "feature_batch"):
        advice += ", or feature_batch=1"
    return UserError(f"There is not enough memory for this batch. {advice}.", setting="batch")


def os_error(error: OSError, path: str | Path, *, folder: Path | None = None) -> UserError:
    """The reason why `path` could not be written, as one sentence; `folder` is where it was tried, if not beside it."""
    hidden = r"\..*\.\w{8}\.partial"  # a folder of `biflow.files.replacing`
    path = Path(*(part for part in Path(path).parts if not re.fullmatch(hidden, part)))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"No space left to write {path}. Free some space, or write to another disk.")
    blocking = [parent for parent in path.parents if os.path.lexists(parent) and not os.path.isdir(parent)]
    if blocking:
        reason = f"{blocking[0]} is not a folder"
    elif isinstance(error, PermissionError):
        reason = f"you have no permission to write in {folder or path.parent}"
    else:
        reason = REASONS.get(error.errno or 0, error.strerror or str(error))
    return UserError(f"{path} cannot be written: {reason}.")


def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook` of programs beside `biflow`: a UserError as its sentence, and exit code 2, or 130 on Ctrl-C."""
    if not isinstance(error, UserError | KeyboardInterrupt):
        return sys.__excepthook__(kind, error, trace)
    print(str(error) or "Stopped.", file=sys.stderr)
    sys.exit(2 if isinstance(error, UserError) else 130)
