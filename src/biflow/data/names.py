"""Names of files: which are not content, and in which order they come."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import PurePosixPath
from typing import TypeVar

T = TypeVar("T")

# What systems and network storage add to folders, apart from names that begin with a dot. In lower case.
CLUTTER = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "lost+found", "system volume information"}
CLUTTER |= {"$recycle.bin", "recycler", "#recycle", "@recycle", "network trash folder", "temporary items"}
CLUTTER |= {"@eadir", "@tmp", "@sharebin", "@recently-snapshot", "#snapshot", "~snapshot", "__pycache__"}

RUN = re.compile(r"(\d+(?:\.\d+)*)")  # digits, and further ones behind single dots


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is not content: hidden, or added by a system. "." and ".." are neither."""
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in CLUTTER


def natural(name: str, decimals: bool = True) -> list[tuple[int, str, str]]:
    """A sort key that compares digits as numbers: "2.png" comes before "10.png".

    Two numbers with one dot between them are a decimal one, as time stamps are: "1.25" comes before "1.5". With more
    dots, or without `decimals`, each is a number of its own: "1.2.9" comes before "1.2.10".
    """
    key = []
    for part in RUN.split(name):
        if not part[:1].isdecimal():
            key += [(-1, part, "")] if part else []
        elif decimals and part.count(".") == 1:
            whole, fraction = part.split(".")
            key.append((*_number(whole), fraction.rstrip("0")))
        else:
            key += [(*_number(digits), "") for digits in part.split(".")]
    return key


def in_order(items: Iterable[T], name: Callable[[T], str]) -> list[T]:
    """The items in the natural order of their names. Those with equal numbers, such as 1 and 01, are sorted as text.

    Names that count up behind the dot, as "shot_1.9" and "shot_1.10" do, hold no decimal numbers: the second one would
    have been written "shot_1.1".
    """
    items = list(items)
    fractions = [run.partition(".")[2] for item in items for run in RUN.findall(name(item)) if run.count(".") == 1]
    shortest = min(map(len, fractions), default=0)
    decimals = not any(fraction.endswith("0") and len(fraction) > shortest for fraction in fractions)
    return sorted(items, key=lambda item: (natural(name(item), decimals), name(item)))


def gaps(names: Iterable[str]) -> int:
    """How often the numbers in names that count in equal steps, as most do, skip some: once in 1, 2, 3, 50, 51."""
    runs = [re.findall(r"\d{1,18}", PurePosixPath(name).stem) for name in names]
    if not all(runs):
        return 0
    steps = Counter(b - a for a, b in pairwise(int(run[-1]) for run in runs))
    usual, times = steps.most_common(1)[0] if steps else (0, 0)
    return sum(n for step, n in steps.items() if step >= 2 * usual) if usual > 0 and 2 * times > steps.total() else 0


def _number(digits: str) -> tuple[int, str]:
    """A key for whole numbers of any length, which `int` would refuse."""
    digits = digits.lstrip("0")
    return len(digits), digits
