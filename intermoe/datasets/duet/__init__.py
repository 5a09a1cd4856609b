"""Duet, the embedded data set: procedural interactions of two people, with captions and labels of who does what."""

from intermoe.datasets.duet.kinds import KINDS, make_interaction
from intermoe.datasets.duet.write import check_duet, write_duet

__all__ = ["KINDS", "check_duet", "make_interaction", "write_duet"]
