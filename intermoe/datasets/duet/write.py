"""Duet on disk, in InterHuman's own layout: its reader reads both.

Legend: T frames, P = 2 persons, J = 22 joints, R = J - 1 joints with a local rotation, F numbers of a row.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from intermoe.body.conventions import SPLITS
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.datasets.recordings import Recording
from intermoe.errors import UserError
from intermoe.files import local_draft, whole_folder
from intermoe.places import Place, read_bytes

# A row of InterHuman: 62 positions, then 51 local rotations in 6D; ours are the first 22 and the first 21.
_WIDTH, _ROTATIONS = 492, 62 * 3
# What a folder was made with: its count and its seed.
_NOTE = "duet.json"


def write_duet(root: Place, *, count: int, seed: int) -> None:
    """Write ``count`` interactions to the new folder ``root``, whole or not at all.

    Interaction i depends on ``seed`` and i alone, so a larger data set begins with the smaller one.

    Raises:
        UserError: where ``root`` is taken or cannot be made, or ``count`` or ``seed`` is out of range.
    """
    if count < 1:
        raise UserError(f"count {count}", where="duet", allowed="1 or more")
    if seed < 0:
        raise UserError(f"seed {seed}", where="duet", allowed="0 or more")
    with whole_folder(root, seal=_NOTE) as folder:
        with local_draft(folder) as draft:
            _fill(draft, count, seed)
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


def _fill(root: Path, count: int, seed: int) -> None:
    for folder in ("motions_processed/person1", "motions_processed/person2", "annots", "split"):
        (root / folder).mkdir(parents=True)
    ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    with (root / "labels.jsonl").open("w", encoding="utf-8") as labels:
        for index in range(count):
            recording = make_interaction(seed, index)
            ids[recording.split].append(recording.id)
            for person, row_TF in enumerate(_rows(recording), start=1):
                np.save(root / f"motions_processed/person{person}/{recording.id}.npy", row_TF, allow_pickle=False)
            captions = "".join(f"{caption}\n" for caption in recording.captions)
            (root / f"annots/{recording.id}.txt").write_text(captions, encoding="utf-8")
            labels.write(json.dumps({"id": recording.id, **recording.label}) + "\n")
    for split, names in ids.items():
        (root / f"split/{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


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
