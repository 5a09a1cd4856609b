"""What it takes to write Duet in the layout of a data set that others have published."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from intermoe.datasets.choreography.figure import Body
from intermoe.datasets.choreography.write import Entry
from intermoe.datasets.duet.kinds import PosedInteraction
from intermoe.places import Place


class Layout(NamedTuple):
    """How Duet lies on disk.

    Attributes:
        folders: made before anything is written.
        body: of all persons, where the layout has one body for all; None where each has its own.
        write_part: writes to a folder the interactions of a part, which has a number, as far as that can be done
            without the others.
        finish: writes the rest, once all parts are written: of the folder, of all interactions, of the parts' numbers.
    """

    folders: tuple[str, ...]
    body: Body | None
    write_part: Callable[[Path, int, Iterable[PosedInteraction]], None]
    finish: Callable[[Place, Sequence[Entry], Sequence[int]], None]
