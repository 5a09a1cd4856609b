"""Duet on disk, in the layout of InterHuman's files or Inter-X's: the readers of these read it."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from intermoe.datasets.choreography.write import Entry, Part, PartRunner, Recipe, check_made, in_turn, write_made
from intermoe.datasets.duet.interhuman_layout import INTERHUMAN
from intermoe.datasets.duet.interx_layout import INTERX
from intermoe.datasets.duet.kinds import pose_interaction
from intermoe.datasets.duet.layout import Layout
from intermoe.places import Place

LayoutName = Literal["interhuman", "interx"]
"""The data set in whose layout Duet is written; with "interx" in that of its benchmark, with 55 joints."""

_LAYOUTS: Mapping[LayoutName, Layout] = MappingProxyType({"interhuman": INTERHUMAN, "interx": INTERX})
_NAME = "duet"


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
    write_part = partial(_write_part, seed=seed, layout=layout)
    recipe = Recipe(_NAME, _LAYOUTS[layout].folders, write_part, _LAYOUTS[layout].finish)
    write_made(root, recipe, {"layout": layout, "count": count, "seed": seed}, run=run)


def check_duet(root: Place, *, count: int, seed: int, layout: LayoutName = "interhuman") -> None:
    """Raise ``UserError`` where the folder ``root`` is not what ``write_duet`` would make of the same arguments."""
    # Folders that were made before there was another layout do not name it.
    check_made(root, _NAME, {"layout": layout, "count": count, "seed": seed}, {"layout": "interhuman"})


def _write_part(draft: Path, part: Part, seed: int, layout: LayoutName) -> list[Entry]:
    body = _LAYOUTS[layout].body
    made = [pose_interaction(seed, index, body) for index in range(part["first"], part["end"])]
    _LAYOUTS[layout].write_part(draft, part["first"], made)
    return [{"id": one.id, "split": one.split, "label": dict(one.label)} for one in made]
