"""The writing of an embedded data set: its motions made in parts, wherever one likes, and published as one folder."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from intermoe.errors import UserError
from intermoe.files import local_draft, whole_folder
from intermoe.places import Place, is_remote, read_bytes

# Motions of one task: half a second.
_PER_PART = 32


class Entry(TypedDict):
    """A recording in the lists of a data set."""

    id: str
    split: str
    label: dict[str, Any]


class Part(TypedDict):
    """Motions of the data set, by their numbers: ``first`` to ``end - 1``."""

    first: int
    end: int


class WrittenPart(TypedDict):
    """The recordings of a part, in the order of their numbers."""

    recordings: list[Entry]


PartRunner = Callable[[Callable[[Part], WrittenPart], Sequence[Part]], Sequence[WrittenPart]]
"""Runs a task on every part, wherever it likes, and gives the results in the order of the parts."""


class Recipe(NamedTuple):
    """How a data set is made. All functions pass between processes.

    Attributes:
        name: of the data set, in messages.
        folders: made before anything is written.
        write_part: writes to a folder what can be written of a part without the others; its recordings.
        finish: writes the rest, once all parts are written: of the folder, of all recordings, of the parts' numbers.
    """

    name: str
    folders: tuple[str, ...]
    write_part: Callable[[Path, Part], list[Entry]]
    finish: Callable[[Place, Sequence[Entry], Sequence[int]], None]


def in_turn(task: Callable[[Part], WrittenPart], parts: Sequence[Part]) -> Sequence[WrittenPart]:
    """Run the task on one part after the other."""
    return [task(part) for part in parts]


def write_made(root: Place, recipe: Recipe, note: Mapping[str, Any], *, run: PartRunner) -> None:
    """Write a data set to the new folder ``root``, whole or not at all.

    Args:
        root: the new folder.
        recipe: how it is made.
        note: what it is made with; its ``count`` says how many motions, its ``seed`` which.
        run: runs the tasks that make the motions and write them; where those run, the folder must be seen.

    Raises:
        UserError: where ``root`` is taken or cannot be made, or count or seed is out of range.
    """
    count, seed = note["count"], note["seed"]
    if count < 1:
        raise UserError(f"count {count}", where=recipe.name, allowed="1 or more")
    if seed < 0:
        raise UserError(f"seed {seed}", where=recipe.name, allowed="0 or more")
    starts = range(0, count, _PER_PART)
    parts: list[Part] = [{"first": first, "end": min(first + _PER_PART, count)} for first in starts]
    with whole_folder(root, seal=_note_of(recipe.name)) as folder:
        if not is_remote(folder):
            # Here and not in a task: one that outlives a command which was interrupted is to make nothing anew.
            _make_folders(folder, recipe)
        written = run(partial(_write_part, folder=folder, recipe=recipe, root=root), parts)
        entries = [entry for part in written for entry in part["recordings"]]
        recipe.finish(folder, entries, starts)
        (folder / _note_of(recipe.name)).write_text(json.dumps(note) + "\n", encoding="utf-8")


def check_made(root: Place, name: str, asked: Mapping[str, Any], unnoted: Mapping[str, Any] | None = None) -> None:
    """Raise ``UserError`` where the folder ``root`` is not what ``write_made`` would make.

    Args:
        root: the folder.
        name: of the data set.
        asked: the note of what it is to be made with.
        unnoted: what folders that do not name it were made with.
    """
    try:
        note = json.loads(read_bytes(root / _note_of(name)))
    except FileNotFoundError:
        raise UserError(
            f"was not made by {name}", where=root, allowed=f"another --root, or a folder made by {name}"
        ) from None
    except (OSError, ValueError):
        note = None
    if not isinstance(note, dict):
        raise UserError("cannot be read", where=root / _note_of(name), allowed=f"what {name} has written there")
    made = {**(unnoted or {}), **note}
    if made != asked:
        told = [key for key in made if key in ("count", "seed") or made[key] != asked.get(key)]
        was, now = (_told({key: values.get(key) for key in told}) for values in (made, asked))
        raise UserError(f"was made with {was}, not with {now}", where=root, allowed=f"{was}, or another --root")


def _note_of(name: str) -> str:
    """The file that says what a folder was made with."""
    return f"{name}.json"


def _told(values: Mapping[str, Any]) -> str:
    *most, last = (f"{name} {value}" for name, value in values.items())
    return f"{', '.join(most)} and {last}" if most else last


def _make_folders(root: Path, recipe: Recipe) -> None:
    for folder in recipe.folders:
        (root / folder).mkdir(parents=True, exist_ok=True)


def _write_part(part: Part, folder: Place, recipe: Recipe, root: Place) -> WrittenPart:
    """Make the motions of a part, and write them to what will be the folder ``root``."""
    try:
        with local_draft(folder) as draft:
            if is_remote(folder):
                _make_folders(draft, recipe)
            return {"recordings": recipe.write_part(draft, part)}
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=root) from error
