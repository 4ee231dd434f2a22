"""Bounds on the pickles in `.pt` files, before PyTorch executes them: how long they are, and how large what they build.

PyTorch's restricted unpickler runs no code of others. But tuples that hold an earlier tuple twice, again and again, are
small in a file, and take for ever once such a tuple is the key of a dictionary.
"""

import pickletools
from collections.abc import Iterator
from typing import Any

from biflow.errors import UserError

OPERATIONS = 1_000_000  # of a pickle; a list of 10,000 tensors has 280,000
PARTS = 10_000_000  # of an object that a pickle builds, parts of its parts included
PUTS, GETS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), ("GET", "BINGET", "LONG_BINGET")


def check_pickle(file: Any, name: str) -> None:
    """Read a pickle from a file of bytes, up to its end.

    Raises UserError for one that takes too long, and other exceptions where it is damaged.
    """
    stack: list[int] = []  # parts of the objects there
    marks: list[int] = []
    memo: dict[int, int] = {}
    steps: Iterator[tuple[Any, Any, Any]] = pickletools.genops(file)
    for count, (operation, value, _) in enumerate(steps):
        before, after = operation.stack_before, operation.stack_after
        if operation.name in PUTS:
            memo[len(memo) if operation.name == "MEMOIZE" else int(value)] = stack[-1]
            continue
        if operation.name in GETS:
            stack.append(memo[int(value)])
            continue
        if operation.name == "MARK":
            marks.append(len(stack))
            continue
        taken = len(before)
        if pickletools.markobject in before:  # all from the last mark on, and what is named before it
            taken = before.index(pickletools.markobject)
            taken += len(stack) - marks.pop()
        parts = 1 + sum(stack[len(stack) - taken :])
        del stack[len(stack) - taken :]
        stack += [parts] * len(after)
        if count > OPERATIONS or parts > PARTS:
            raise UserError(f"{name} holds more Python objects than a file of tensors needs. Save its tensors alone.")
