"""Seeded damages of the files below a folder, as bad disks, broken copies and hands in the wrong place leave them."""

import json
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = ("flip", "cut", "empty", "delete", "swap", "append")


@dataclass(frozen=True)
class Damage:
    """What was done to some files.

    Attributes:
        kind: one of ``KINDS``.
        before: what each file held.
        after: what it holds now; None where it is gone.
    """

    kind: str
    before: dict[Path, bytes]
    after: dict[Path, bytes | None]

    @property
    def files(self) -> list[Path]:
        """The files that say something else than before: to a JSON document, spaces are nothing."""
        return [file for file, content in self.before.items() if meaning(content) != meaning(self.after[file])]

    def __str__(self) -> str:
        return f"{self.kind} {', '.join('/'.join(file.parts[-3:]) for file in self.before)}"


def meaning(content: bytes | None) -> object:
    """What a file says: of a JSON document its value, of any other its bytes."""
    try:
        return ("json", json.dumps(json.loads(content or b""), sort_keys=True))
    except (ValueError, RecursionError):
        return content


def damage(files: Sequence[Path], draw: random.Random) -> Damage:
    """Damage one of some files, or two."""
    kind = draw.choice(KINDS)
    chosen = draw.sample(list(files), 2 if kind == "swap" else 1)
    before = {file: file.read_bytes() for file in chosen}
    file, content = chosen[0], bytearray(before[chosen[0]])
    if kind == "swap":
        for one, other in (chosen, reversed(chosen)):
            one.write_bytes(before[other])
    elif kind == "delete":
        file.unlink()
    else:
        if kind == "flip" and content:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del content[draw.randrange(len(content) or 1) :]
        elif kind == "empty":
            content.clear()
        else:
            content += draw.randbytes(draw.randint(1, 40))
        file.write_bytes(content)
    return Damage(kind, before, {file: file.read_bytes() if file.exists() else None for file in chosen})


def damaged_copies(
    whole: Path, below: Path, count: int, *, files: Callable[[Path], Sequence[Path]]
) -> Iterator[tuple[Path, Damage]]:
    """Copies of a folder, each with a damage of its own; a copy is gone when the next one comes.

    Args:
        whole: the folder.
        below: where the copies are made.
        count: of them.
        files: what may be damaged of a copy.
    """
    for number in range(count):
        # Under a name of its own: what was learned of the last one's files counts for nothing here.
        copy = below / f"damaged-{number}"
        shutil.copytree(whole, copy)
        yield copy, damage(sorted(files(copy)), random.Random(f"{whole.name} {number}"))
        shutil.rmtree(copy)


@dataclass
class Outcomes:
    """What became of damages.

    Attributes:
        counts: by outcome.
        faults: those that were used silently, or were more than a line.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, damage: Damage, outcome: Callable[..., str], *arguments: Any) -> None:
        """Count what becomes of a damage; whatever else a function raises than its outcome is a fault."""
        try:
            self.counts[outcome(*arguments)] += 1
        except Exception as error:
            self.counts["fault"] += 1
            at = traceback.extract_tb(error.__traceback__)[-1]
            self.faults.append(f"{damage}: {type(error).__name__} at {at.filename}:{at.lineno}: {str(error)[:600]}")

    def check(self, count: int) -> str:
        """Assert that so many damages were tried and none is a fault; the counts as a line."""
        assert not self.faults, "\n".join(self.faults)
        assert self.counts.total() == count
        return ", ".join(f"{outcome}: {number}" for outcome, number in sorted(self.counts.items()))
