"""Bounds on the pickles in `.pt` files, before PyTorch executes them: how long they are, and how large what they build.

PyTorch's restricted unpickler runs no code of others. But tuples and lists that hold an earlier one twice, again and
again, are small in a file, and take for ever once one is hashed as the key of a dictionary, or printed in an error.
"""

import pickletools
from collections.abc import Iterator
from typing import Any

from biflow.errors import UserError

OPERATIONS = 500_000  # of a pickle; a list of 10,000 tensors has 280,000
PARTS = 20_000_000  # of all objects that it builds, parts of their parts included; that list has 2,000,000
PUTS, GETS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), ("GET", "BINGET", "LONG_BINGET")
GROW = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")  # the first object that they take


class _Object:
    """An object of a pickle: how many parts it has, and whether it is done, since another one holds it."""

    def __init__(self, parts: int) -> None:
        self.parts, self.done = parts, False


def check_pickle(file: Any, name: str) -> None:
    """Read a pickle from a file of bytes, up to its end.

    Raises UserError for one that takes too long, and other exceptions where it is damaged.
    """
    stack: list[_Object] = []
    marks: list[int] = []
    memo: dict[int, _Object] = {}
    total = 0
    steps: Iterator[tuple[Any, Any, Any]] = pickletools.genops(file)
    for count, (operation, value, _) in enumerate(steps):
        if operation.name in PUTS:
            memo[len(memo) if operation.name == "MEMOIZE" else int(value)] = stack[-1]
        elif operation.name in GETS:
            stack.append(memo[int(value)])
            stack[-1].done = True
        elif operation.name == "MARK":
            marks.append(len(stack))
        else:
            taken = _taken(operation, stack, marks)
            grows = operation.name in GROW
            target = taken.pop(0) if grows else _Object(1)
            # Pickles put an object into another one once it is whole, unless it is a part of itself.
            endless = grows and target.done
            for part in taken:
                target.parts += part.parts
                total += part.parts
                part.done = True
            stack += [target] * len(operation.stack_after)
            total += 1
            if endless or count > OPERATIONS or total > PARTS:
                raise UserError(
                    f"{name} holds more Python objects than a file of tensors needs. Save its tensors alone."
                )


def _taken(operation: Any, stack: list[_Object], marks: list[int]) -> list[_Object]:
    """Take what an operation takes from the stack."""
    before = operation.stack_before
    count = len(before)
    if pickletools.markobject in before:  # all from the last mark on, and what is named before it
        count = before.index(pickletools.markobject) + len(stack) - marks.pop()
    taken = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return taken
