"""Solo, the embedded data set of one person: procedural motions in HumanML3D's layout, their captions and labels."""

from intermoe.datasets.solo.motions import SoloMotion, make_motion
from intermoe.datasets.solo.moves import KINDS
from intermoe.datasets.solo.write import check_solo, write_solo

__all__ = ["KINDS", "SoloMotion", "check_solo", "make_motion", "write_solo"]
