"""Duet on disk, in InterHuman's own layout: its reader reads both.

Legend: T frames, P = 2 persons, J = 22 joints, R = J - 1 joints with a local rotation, F numbers of a row.
"""

import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from intermoe.body.conventions import SPLITS
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.datasets.recordings import Recording
from intermoe.errors import UserError
from intermoe.files import local_draft, whole_folder
from intermoe.places import Place, is_remote, read_bytes

# A row of InterHuman: 62 positions, then 51 local rotations in 6D; ours are the first 22 and the first 21.
_WIDTH, _ROTATIONS = 492, 62 * 3
_FOLDERS = ("motions_processed/person1", "motions_processed/person2", "annots")
# Interactions of one task: half a second.
_PER_PART = 32
# What a folder was made with: its count and its seed.
_NOTE = "duet.json"


class DuetPart(TypedDict):
    """Interactions of the data set, by their numbers: ``first`` to ``end - 1``."""

    first: int
    end: int


class WrittenPart(TypedDict):
    """The recordings of a part, in the order of their numbers: id, split and label of each."""

    recordings: list[tuple[str, str, dict[str, Any]]]


PartRunner = Callable[[Callable[[DuetPart], WrittenPart], Sequence[DuetPart]], Sequence[WrittenPart]]
"""Runs a task on every part, wherever it likes, and gives the results in the order of the parts."""


def in_turn(task: Callable[[DuetPart], WrittenPart], parts: Sequence[DuetPart]) -> Sequence[WrittenPart]:
    """Run the task on one part after the other."""
    return [task(part) for part in parts]


def write_duet(root: Place, *, count: int, seed: int, run: PartRunner = in_turn) -> None:
    """Write ``count`` interactions to the new folder ``root``, whole or not at all.

    Interaction i depends on ``seed`` and i alone, so a larger data set begins with the smaller one.

    Args:
        root: the new folder.
        count: how many interactions.
        seed: of the data set.
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
            _make_folders(folder)
        written = run(partial(_write_part, folder=folder, seed=seed, root=root), parts)
        with local_draft(folder) as draft:
            _write_index(draft, [recording for part in written for recording in part["recordings"]])
        (folder / _NOTE).write_text(json.dumps({"count": count, "seed": seed}) + "\n", encoding="utf-8")


def check_duet(root: Place, *, count: int, seed: int) -> None:
    """Raise ``UserError`` where the folder ``root`` is not what ``write_duet`` would make of ``count`` and ``seed``."""
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
    asked = {"count": count, "seed": seed}
    if note != asked:
        made, now = (" and ".join(f"{name} {value}" for name, value in values.items()) for values in (note, asked))
        raise UserError(f"was made with {made}, not with {now}", where=root, allowed=f"{made}, or another --root")


def _make_folders(root: Path) -> None:
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)


def _write_part(part: DuetPart, folder: Place, seed: int, root: Place) -> WrittenPart:
    """Make the interactions of a part, and write their motions and captions to what will be the folder ``root``."""
    try:
        with local_draft(folder) as draft:
            if is_remote(folder):
                _make_folders(draft)
            made = (make_interaction(seed, index) for index in range(part["first"], part["end"]))
            return {"recordings": [_write_recording(draft, recording) for recording in made]}
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=root) from error


def _write_recording(root: Path, recording: Recording) -> tuple[str, str, dict[str, Any]]:
    for person, row_TF in enumerate(_rows(recording), start=1):
        # By way of memory: where a disk is full, numpy itself does not say so.
        motion = io.BytesIO()
        np.save(motion, row_TF, allow_pickle=False)
        (root / f"motions_processed/person{person}/{recording.id}.npy").write_bytes(motion.getvalue())
    captions = "".join(f"{caption}\n" for caption in recording.captions)
    (root / f"annots/{recording.id}.txt").write_text(captions, encoding="utf-8")
    return recording.id, recording.split, dict(recording.label)


def _write_index(root: Path, recordings: Sequence[tuple[str, str, dict[str, Any]]]) -> None:
    """Write the files that list all recordings: their labels, and the splits."""
    labels = (json.dumps({"id": name, **label}) + "\n" for name, _, label in recordings)
    (root / "labels.jsonl").write_text("".join(labels), encoding="utf-8")
    (root / "split").mkdir()
    for split in SPLITS:
        names = "".join(f"{name}\n" for name, of_split, _ in recordings if of_split == split)
        (root / f"split/{split}.txt").write_text(names, encoding="utf-8")


def _rows(recording: Recording) -> list[NDArray[np.float32]]:
    """What InterHuman keeps of each person [T, 492]: z up, the numbers that Duet does not have are 0."""
    rows = []
    for person in range(2):
        position_TJ3 = recording.position_TPJ3[:, person]
        frames = len(position_TJ3)
        row_TF = np.zeros((frames, _WIDTH), dtype=np.float32)
        # Readers take (x, y, z) as (x, z, -y), so y up is written as (x, -z, y).
        z_up_TJ3 = np.stack([position_TJ3[..., 0], -position_TJ3[..., 2], position_TJ3[..., 1]], axis=-1)
        flat_TF = z_up_TJ3.reshape(frames, -1)
        row_TF[:, : flat_TF.shape[1]] = flat_TF
        turns_TF = recording.rotation_TPR6[:, person].reshape(frames, -1)
        row_TF[:, _ROTATIONS : _ROTATIONS + turns_TF.shape[1]] = turns_TF
        rows.append(row_TF)
    return rows
