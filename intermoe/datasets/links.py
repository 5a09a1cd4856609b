"""Symbolic links in a data set: one that leads out of its folder would have any file of this machine read."""

import os
from pathlib import Path

from intermoe.datasets.bad_recording import BadRecording
from intermoe.errors import UserError
from intermoe.places import Place, is_remote


def check_file_inside(root: Place, file: Place, name: str) -> None:
    """Raise ``BadRecording``, with the name, where a recording's file leads out of the folder ``root``."""
    if _leads_outside(root, file):
        raise BadRecording(f"{name} leads outside the data set, where only --follow-links goes")


def check_list_inside(root: Place, place: Place) -> None:
    """Raise ``UserError`` where a list of recordings, or a folder of them, leads out of the folder ``root``."""
    if _leads_outside(root, place):
        raise UserError("leads outside the data set", where=place, allowed="--follow-links, or files in its folder")


def _leads_outside(root: Place, place: Place) -> bool:
    """Whether a path below the root passes a link to somewhere else; the root may be a link, storage has none."""
    if is_remote(root) or is_remote(place):
        return False
    return not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(root))
