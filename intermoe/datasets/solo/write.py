"""Solo on disk, in HumanML3D's layout (see the reader, intermoe/datasets/humanml3d.py).

Legend: T frames, F features of a person-frame.
"""

import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from intermoe.body.conventions import SPLITS
from intermoe.body.feature_layout import FeatureLayout
from intermoe.body.skeletons import HUMANML22
from intermoe.datasets.choreography.write import Entry, Part, PartRunner, Recipe, check_made, in_turn, write_made
from intermoe.datasets.labels import LABELS
from intermoe.datasets.solo.motions import SoloMotion, make_motion
from intermoe.files import discard, local_draft
from intermoe.places import Place, read_bytes

_NAME = "solo"
# Sums of each part's features, from which the mean is made.
_PARTS = "parts"
_FOLDERS = ("new_joint_vecs", "new_joints", "texts", _PARTS)


def write_solo(root: Place, *, count: int, seed: int, run: PartRunner = in_turn) -> None:
    """Write ``count`` motions and their mirror images to the new folder ``root``, whole or not at all.

    Motion i depends on ``seed`` and i alone, so a larger data set begins with the smaller one.

    Args:
        root: the new folder.
        count: how many motions; there are twice as many recordings.
        seed: of the data set.
        run: runs the tasks that make the motions and write them; where those run, the folder must be seen.

    Raises:
        UserError: where ``root`` is taken or cannot be made, or ``count`` or ``seed`` is out of range.
    """
    recipe = Recipe(_NAME, _FOLDERS, partial(_write_part, seed=seed), _finish)
    write_made(root, recipe, {"count": count, "seed": seed}, run=run)


def check_solo(root: Place, *, count: int, seed: int) -> None:
    """Raise ``UserError`` where the folder ``root`` is not what ``write_solo`` would make of the same arguments."""
    check_made(root, _NAME, {"count": count, "seed": seed})


def _write_part(root: Path, part: Part, seed: int) -> list[Entry]:
    entries: list[Entry] = []
    # Number of frames, sums and sums of squares.
    count, sums_2F = 0, np.zeros((2, HUMANML22.num_features))
    for index in range(part["first"], part["end"]):
        for motion in make_motion(seed, index):
            rows_TF = motion.features()
            count += len(rows_TF)
            sums_2F += np.stack([rows_TF, rows_TF.astype(float) ** 2]).astype(float).sum(axis=1)
            _save(root / f"new_joint_vecs/{motion.id}.npy", rows_TF)
            _save(root / f"new_joints/{motion.id}.npy", motion.joints())
            (root / f"texts/{motion.id}.txt").write_text(_text(motion), encoding="utf-8")
            entries.append({"id": motion.id, "split": motion.split, "label": dict(motion.label)})
    _save(root / f"{_PARTS}/{part['first']}.npy", np.append(sums_2F.ravel(), count))
    return entries


def _text(motion: SoloMotion) -> str:
    pairs = zip(motion.captions, motion.words, strict=True)
    return "".join(f"{caption}#{words}#0.0#0.0\n" for caption, words in pairs)


def _finish(folder: Place, entries: Sequence[Entry], parts: Sequence[int]) -> None:
    """Write the lists, the labels, and the mean and deviation of all features as HumanML3D has them."""
    with local_draft(folder) as root:
        for name in (*SPLITS, "all"):
            ids = "".join(f"{entry['id']}\n" for entry in entries if name in (entry["split"], "all"))
            (root / f"{name}.txt").write_text(ids, encoding="utf-8")
        labels = (json.dumps({"id": entry["id"], **entry["label"]}) + "\n" for entry in entries)
        (root / LABELS).write_text("".join(labels), encoding="utf-8")
        sums = np.zeros(2 * HUMANML22.num_features + 1)
        for number in parts:
            sums += np.load(io.BytesIO(read_bytes(folder / f"{_PARTS}/{number}.npy")), allow_pickle=False)
        mean_F, square_F = sums[:-1].reshape(2, -1) / sums[-1]
        _save(root / "Mean.npy", mean_F.astype(np.float32))
        _save(root / "Std.npy", _shared_deviation(np.sqrt(np.maximum(square_F - mean_F**2, 0))).astype(np.float32))
    discard(folder / _PARTS)


def _shared_deviation(std_F: NDArray[np.float64]) -> NDArray[np.float64]:
    """The deviations [F] as HumanML3D keeps them: all numbers of a kind have the mean of theirs."""
    layout = FeatureLayout.of(HUMANML22)
    shared_F = std_F.copy()
    # Of the root's: its turn, its step, its height.
    root = (slice(0, 1), slice(1, 3), slice(3, 4))
    for kind in (*root, layout.positions, layout.rotations, layout.velocities, layout.contacts):
        shared_F[kind] = std_F[kind].mean()
    return shared_F


def _save(file: Path, array: NDArray) -> None:
    # By way of memory: where a disk is full, numpy itself does not say so.
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    file.write_bytes(content.getvalue())
