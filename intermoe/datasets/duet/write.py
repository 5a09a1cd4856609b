"""Duet on disk, in the layout of InterHuman's files or Inter-X's: the readers of these read it."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypedDict

from intermoe.datasets.duet.interhuman_layout import INTERHUMAN
from intermoe.datasets.duet.interx_layout import INTERX
from intermoe.datasets.duet.kinds import pose_interaction
from intermoe.datasets.duet.layout import Entry, Layout
from intermoe.errors import UserError
from intermoe.files import local_draft, whole_folder
from intermoe.places import Place, is_remote, read_bytes

LayoutName = Literal["interhuman", "interx"]
"""The data set in whose layout Duet is written; with "interx" in that of its benchmark, with 55 joints."""

_LAYOUTS: Mapping[LayoutName, Layout] = MappingProxyType({"interhuman": INTERHUMAN, "interx": INTERX})
# Interactions of one task: half a second.
_PER_PART = 32
# What a folder was made with: its count, its seed and its layout.
_NOTE = "duet.json"


class DuetPart(TypedDict):
    """Interactions of the data set, by their numbers: ``first`` to ``end - 1``."""

    first: int
    end: int


class WrittenPart(TypedDict):
    """The recordings of a part, in the order of their numbers."""

    recordings: list[Entry]


PartRunner = Callable[[Callable[[DuetPart], WrittenPart], Sequence[DuetPart]], Sequence[WrittenPart]]
"""Runs a task on every part, wherever it likes, and gives the results in the order of the parts."""


def in_turn(task: Callable[[DuetPart], WrittenPart], parts: Sequence[DuetPart]) -> Sequence[WrittenPart]:
    """Run the task on one part after the other."""
    return [task(part) for part in parts]


def write_duet(
    root: Place, *, count: int, seed: int, layout: LayoutName = "interhuman", run: PartRunner = in_turn
) -> None:
    """Write ``count`` interactions to the new folder ``root``, whole or not at all.

    Interaction i depends on ``seed`` and i alone, so a larger data set begins with the smaller one. In all layouts it
    has the same id, split, captions and roles.

    Args:
        root: the new folder.
        count: how many interactions.
        seed: of the data set.
        layout: of which data set.
        run: runs the tasks that make the interactions and write them; where those run, the folder must be seen.

    Raises:
        UserError: where ``root`` is taken or cannot be made, or ``count`` or ``seed`` is out of range.
    """
    if count < 1:
        raise UserError(f"count {count}", where="duet", allowed="1 or more")
    if seed < 0:
        raise UserError(f"seed {seed}", where="duet", allowed="0 or more")
    starts = range(0, count, _PER_PART)
    parts: list[DuetPart] = [{"first": first, "end": min(first + _PER_PART, count)} for first in starts]
    with whole_folder(root, seal=_NOTE) as folder:
        if not is_remote(folder):
            # Here and not in a task: one that outlives a command which was interrupted is to make nothing anew.
            _make_folders(folder, layout)
        written = run(partial(_write_part, folder=folder, seed=seed, layout=layout, root=root), parts)
        entries = [entry for part in written for entry in part["recordings"]]
        _LAYOUTS[layout].finish(folder, entries, starts)
        (folder / _NOTE).write_text(
            json.dumps({"layout": layout, "count": count, "seed": seed}) + "\n", encoding="utf-8"
        )


def check_duet(root: Place, *, count: int, seed: int, layout: LayoutName = "interhuman") -> None:
    """Raise ``UserError`` where the folder ``root`` is not what ``write_duet`` would make of the same arguments."""
    try:
        note = json.loads(read_bytes(root / _NOTE))
    except FileNotFoundError:
        raise UserError(
            "was not made by duet", where=root, allowed="another --root, or a folder made by duet"
        ) from None
    except (OSError, ValueError):
        note = None
    if not isinstance(note, dict):
        raise UserError("cannot be read", where=root / _NOTE, allowed="what duet has written there")
    # Folders that were made before there was another layout do not name it.
    made, asked = {"layout": "interhuman", **note}, {"layout": layout, "count": count, "seed": seed}
    if made != asked:
        named = [name for name in made if name != "layout" or made["layout"] != layout]
        was, now = (_told({name: values.get(name) for name in named}) for values in (made, asked))
        raise UserError(f"was made with {was}, not with {now}", where=root, allowed=f"{was}, or another --root")


def _told(values: Mapping[str, Any]) -> str:
    *most, last = (f"{name} {value}" for name, value in values.items())
    return f"{', '.join(most)} and {last}" if most else last


def _make_folders(root: Path, layout: LayoutName) -> None:
    for folder in _LAYOUTS[layout].folders:
        (root / folder).mkdir(parents=True, exist_ok=True)


def _write_part(part: DuetPart, folder: Place, seed: int, layout: LayoutName, root: Place) -> WrittenPart:
    """Make the interactions of a part, and write their motions and captions to what will be the folder ``root``."""
    try:
        with local_draft(folder) as draft:
            if is_remote(folder):
                _make_folders(draft, layout)
            body = _LAYOUTS[layout].body
            made = [pose_interaction(seed, index, body) for index in range(part["first"], part["end"])]
            _LAYOUTS[layout].write_part(draft, part["first"], made)
            return {"recordings": [{"id": one.id, "split": one.split, "label": dict(one.label)} for one in made]}
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=root) from error
