"""Damage to files: of values in a document, of bytes, of the headers of arrays and tensors."""

import copy
import json
from pathlib import Path
from random import Random
from typing import Any

DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]
NUMBERS = [0, -1, 1, 3, 10**6, 2**40, 2**63, 2**64, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308]
NUMBERS += [float("nan"), float("inf"), float("-inf")]
TEXTS = [
    "",
    "1",
    "nan",
    "../../etc/passwd",
    "/dev/zero",
    "a\nb",
    "\0",
    "é",
    "\ud800",
    "x" * 10_000,
    "$x^$",
    "os.system",
]
LISTS = [[], {}, [None], [[]], {"class_path": "os.system"}, DEEP, [1] * 999]
VALUES = [None, True, False, *NUMBERS, *TEXTS, *LISTS]
BLOBS = [b"", b"null", b"[" * 100_000, b"{" * 1000, b"9" * 5000, b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b"\0" * 300]
BLOBS += [b'{"a":1,"a":2}', b"[NaN]", b"!!python/object:os.system {}", b"\x80\x04cos\nsystem\n."]
BLOBS += [b"\x93NUMPY\x01\0v\0{", b"a: &a [1]\nb: *a"]


def document(random: Random, content: Any) -> bytes:
    """JSON of the content after one to three changes, or its bytes damaged."""
    content = copy.deepcopy(content)
    for _ in range(random.choice((1, 1, 2, 3))):
        content = value(random, content)
    text = json.dumps(content, indent=random.choice((None, 1))).encode()
    return blob(random, text) if random.random() < 0.2 else text


def value(random: Random, content: Any) -> Any:
    """The content with one value replaced, left out, added, repeated, or exchanged for another."""
    places = list(_places(content))
    if not places or random.random() < 0.02:
        return _any(random)
    holder, key = random.choice(places)
    change = random.randrange(6)
    if change == 0:
        del holder[key]
    elif change == 1 and isinstance(holder[key], list):
        holder[key] = holder[key][: len(holder[key]) // 2]
    elif change == 2 and isinstance(holder, dict):
        holder[random.choice(("new", "class_path", "a.b", "", "\ud800", "a\nb"))] = _any(random)
    elif change == 3:
        other, place = random.choice(places)
        holder[key] = copy.deepcopy(other[place])
    elif change == 4 and isinstance(holder[key], int | float) and abs(holder[key]) < 2**70:
        holder[key] = holder[key] * random.choice((-1, 2, 1000, 1e-9, 1.5)) + random.choice((-1, 0, 1))
    else:
        holder[key] = _any(random)
    return content


def blob(random: Random, content: bytes) -> bytes:
    """Bytes with some of them flipped, cut off, repeated or replaced."""
    change, place = random.randrange(5), random.randrange(len(content) + 1)
    if change == 0:
        return content[:place]
    if change == 1:
        return random.choice(BLOBS)
    if change == 2:
        return content[:place] + content[place // 2 : place] + content[place:]
    damaged = bytearray(content)
    for _ in range(random.choice((1, 1, 4, 30))):
        if damaged:
            where = random.randrange(len(damaged) if change == 3 else min(len(damaged), 300))
            damaged[where] = (
                random.randrange(256) if random.random() < 0.5 else damaged[where] ^ 1 << random.randrange(8)
            )
    return bytes(damaged)


def array(random: Random, content: bytes) -> bytes:
    """An .npy file with another header, or damaged."""
    if random.random() < 0.4:
        return blob(random, content)
    header = bytearray(content[10:128].rstrip())
    words = [
        b"|u1",
        b"<f4",
        b">f4",
        b"<i8",
        b"|O",
        b"False",
        b"True",
        b"3",
        b"0",
        b"-1",
        b"9" * 20,
        b"(" * 90,
        b"[1" * 200,
    ]
    found = random.choice([word for word in words if word in header] or [b"("])
    header = header.replace(found, random.choice(words), 1)
    text = bytes(header).ljust(117) + b"\n"
    return content[:8] + len(text).to_bytes(2, "little") + text + content[128:]


def tensors(random: Random, content: bytes) -> bytes:
    """A safetensors file with another header or other numbers, or damaged."""
    if random.random() < 0.3:
        return blob(random, content)
    length = int.from_bytes(content[:8], "little")
    header, numbers = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    if random.random() < 0.2 and numbers:
        place = 4 * random.randrange(len(numbers) // 4)
        numbers[place : place + 4] = random.choice((b"\0\0\xc0\x7f", b"\0\0\x80\xff", b"\xff\xff\xff\x7f", b"\1\0\0\0"))
    elif random.random() < 0.5:
        name = random.choice([name for name in header if name != "__metadata__"])
        header[random.choice(("x", "../x", "a\nb", name + "/y", name[::-1]))] = header.pop(name)
    else:
        header = value(random, header)
        for entry in header.values() if isinstance(header, dict) else ():
            if isinstance(entry, dict) and "dtype" in entry and random.random() < 0.1:
                entry["dtype"] = random.choice(("I32", "F16", "BF16", "F64", "U8", "F8_E4M3", "BOOL", "C64"))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(numbers)


def damage(random: Random, path: Path) -> None:
    """Replace a file by a damaged one of its kind."""
    content = path.read_bytes()
    if path.suffix == ".npy":
        damaged = array(random, content)
    elif path.suffix == ".safetensors":
        damaged = tensors(random, content)
    elif path.suffix == ".json" and random.random() < 0.9:
        damaged = document(random, json.loads(content))
    else:
        damaged = blob(random, content)
    path.write_bytes(damaged)


def _places(content: Any):
    """(list or dictionary, index or key) of every value in it."""
    for key, inside in (
        content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    ):
        yield content, key
        yield from _places(inside)


def _any(random: Random) -> Any:
    return copy.deepcopy(random.choice(VALUES))
