"""Duet in InterHuman's layout (see the reader, intermoe/datasets/interhuman.py).

Legend: T frames, P = 2 persons, J = 22 joints, R = J - 1 joints with a local rotation, F numbers of a row.
"""

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from intermoe.body.conventions import SPLITS
from intermoe.datasets.choreography.write import Entry
from intermoe.datasets.duet.kinds import PosedInteraction
from intermoe.datasets.duet.layout import Layout
from intermoe.datasets.recordings import Recording
from intermoe.files import local_draft
from intermoe.places import Place

# A row of InterHuman: 62 positions, then 51 local rotations in 6D; ours are the first 22 and the first 21.
_WIDTH, _ROTATIONS = 492, 62 * 3


def _write_part(root: Path, _: int, interactions: Iterable[PosedInteraction]) -> None:
    for recording in (interaction.recording() for interaction in interactions):
        for person, row_TF in enumerate(_rows(recording), start=1):
            # By way of memory: where a disk is full, numpy itself does not say so.
            motion = io.BytesIO()
            np.save(motion, row_TF, allow_pickle=False)
            (root / f"motions_processed/person{person}/{recording.id}.npy").write_bytes(motion.getvalue())
        captions = "".join(f"{caption}\n" for caption in recording.captions)
        (root / f"annots/{recording.id}.txt").write_text(captions, encoding="utf-8")


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


def _finish(folder: Place, entries: Sequence[Entry], _: Sequence[int]) -> None:
    """Write the files that list all recordings: their labels, and the splits."""
    with local_draft(folder) as root:
        labels = (json.dumps({"id": entry["id"], **entry["label"]}) + "\n" for entry in entries)
        (root / "labels.jsonl").write_text("".join(labels), encoding="utf-8")
        (root / "split").mkdir()
        for split in SPLITS:
            names = "".join(f"{entry['id']}\n" for entry in entries if entry["split"] == split)
            (root / f"split/{split}.txt").write_text(names, encoding="utf-8")


INTERHUMAN = Layout(
    folders=("motions_processed/person1", "motions_processed/person2", "annots"),
    body=None,
    write_part=_write_part,
    finish=_finish,
)
