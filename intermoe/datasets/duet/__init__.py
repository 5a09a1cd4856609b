"""Duet, the embedded data set: procedural interactions of two people, with captions and labels of who does what."""

from intermoe.datasets.duet.interx_layout import BODY_MODEL
from intermoe.datasets.duet.kinds import KINDS, make_interaction
from intermoe.datasets.duet.write import LayoutName, check_duet, write_duet

__all__ = ["BODY_MODEL", "KINDS", "LayoutName", "check_duet", "make_interaction", "write_duet"]
