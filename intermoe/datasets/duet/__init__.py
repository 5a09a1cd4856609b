"""Duet, the embedded data set: procedural interactions of two people, with captions and labels of who does what."""

from intermoe.datasets.duet.interx_layout import BODY_MODEL
from intermoe.datasets.duet.kinds import KINDS, make_interaction
from intermoe.datasets.duet.write import (
    DuetPart,
    LayoutName,
    PartRunner,
    WrittenPart,
    check_duet,
    in_turn,
    write_duet,
)

__all__ = [
    "BODY_MODEL",
    "KINDS",
    "DuetPart",
    "LayoutName",
    "PartRunner",
    "WrittenPart",
    "check_duet",
    "in_turn",
    "make_interaction",
    "write_duet",
]
