"""Seeded damages of files."""

import os
import random
import re
from itertools import islice
from pathlib import Path

_NOISE = (
    b"[" * 1000, b"&a [*a]", b"\xcb", b"\xff\xfe", b"!!int x", b"!!timestamp x", b'"\\ud800"', b"9" * 400, b"\0", b"\n",
    b"1e309", b"-1", b"NaN", b"{}", "\u202e\U0001f483\u0301".encode(), b"'", b'"', b"../../x", b"<<: *a", b"\x1b[2J",
)  # fmt: skip
_NUMBERS = (b"0", b"-1", b"1000000000", b"9" * 30, b"9" * 400, b"1e309", b".5", b"65536", b"2147483648")
_NUMBER = re.compile(rb"[0-9]+")


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The content with one to three damages."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        # Most of what a format means stands in its first bytes, and in its last.
        place = draw.randrange(min(len(changed), draw.choice((128, 128, 1 << 30))) + 1)
        if draw.random() < 0.2:
            place = len(changed) - place
        length = draw.choice((1, 4, 64, 1000))
        piece = changed[place : place + length]
        match draw.choice(("flip", "cut", "insert", "delete", "duplicate", "swap", "append", "number")):
            case "flip" if place < len(changed):
                changed[place] ^= 1 << draw.randrange(8)
            case "cut":
                del changed[place:]
            case "insert":
                changed[place:place] = draw.choice((*_NOISE, draw.randbytes(3)))
            case "delete":
                del changed[place : place + length]
            case "duplicate":
                changed[place:place] = piece * draw.choice((1, 1, 300))
            case "swap":
                other = draw.randrange(len(changed) + 1)
                changed[place : place + length] = changed[other : other + length]
                changed[other : other + length] = piece
            case "number":
                places = [match.span() for match in islice(_NUMBER.finditer(changed), 500)]
                if places:
                    start, end = draw.choice(places)
                    changed[start:end] = draw.choice(_NUMBERS)
            case _:
                changed += draw.choice(_NOISE)
    return bytes(changed)


def unfit_file(file: Path, draw: random.Random) -> None:
    """Put something in a file's place that is none: a pipe, a folder, a device, a link out of the data set."""
    match draw.choice(("pipe", "folder", "device", "link")):
        case "pipe":
            os.mkfifo(file)
        case "folder":
            file.mkdir()
        case "device":
            file.symlink_to("/dev/zero")
        case _:
            file.symlink_to(__file__)
