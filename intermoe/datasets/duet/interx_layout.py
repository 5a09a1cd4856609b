"""Duet in the layout of Inter-X, as that is processed for its benchmark (see the reader, intermoe/datasets/interx.py).

The layout holds rotations and the place of each person but no joints, and one body for all: so both persons of every
interaction act with the average body, whose model is written beside them, with hands. What the benchmark's processing
does to a recording is done here too: each person alone is put on the ground, and where the first person first stands
becomes the origin.

Legend: T frames, P = 2 persons, J = 55 joints, E = J + 1 rows of a frame, V points of a body's surface.
"""

import errno
import io
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from intermoe.body.conventions import SPLITS
from intermoe.body.kinematics import forward_kinematics
from intermoe.body.rotations import axis_angle_from_matrix
from intermoe.body.skeletons import SMPL22, SMPLX55
from intermoe.datasets.choreography.figure import Body
from intermoe.datasets.choreography.write import Entry
from intermoe.datasets.duet.kinds import PosedInteraction
from intermoe.datasets.duet.layout import Layout
from intermoe.datasets.smplx_body import SMPLX_PELVIS_3
from intermoe.files import discard, local_draft
from intermoe.places import Place, read_bytes

BODY_MODEL = "body_model.npz"
"""Name of the model of the body, in the form of SMPL-X's own."""

_MOTIONS, _TEXTS, _ANNOTATIONS = "processed_data/motions", "processed_data/texts_processed", "annots"
# A file of a split has one writer, so tasks leave what they have made here.
_PARTS = "parts"
# Half the width of the octahedron that stands for the surface about a joint: metres.
_SURFACE = 0.04
_BODY = Body.average()


def processed_rows(interaction: PosedInteraction) -> NDArray[np.float32]:
    """What the benchmark's files hold of an interaction [T, 56, 6].

    Of each person, the first three numbers for the first: axis-angles of the 55 joints in radians, jaw, eyes and hands
    at rest, and the translation of the body in metres. The lowest joint of each person alone is at height 0 before both
    are moved so that the first person's first translation is 0.
    """
    rest_J3 = _rest_joints(_BODY)
    offset_J3 = rest_J3 - rest_J3[torch.tensor(SMPLX55.parents).clamp(min=0)]
    turn_TPJ33 = torch.eye(3, dtype=torch.float64).repeat(*interaction.root_TP3.shape[:2], SMPLX55.num_joints, 1, 1)
    turn_TPJ33[:, :, : SMPL22.num_joints] = torch.from_numpy(interaction.rotation_TPJ33)
    place_TP3 = torch.from_numpy(interaction.root_TP3) - rest_J3[0]
    position_TPJ3, _ = forward_kinematics(place_TP3 + rest_J3[0], turn_TPJ33, offset_J3, SMPLX55.parents)
    place_TP3[..., 1] -= position_TPJ3[..., 1].amin(dim=(0, 2))
    place_TP3 = place_TP3 - place_TP3[0, 0]
    row_TPE3 = torch.cat([axis_angle_from_matrix(turn_TPJ33), place_TP3[:, :, None]], dim=2)
    return torch.cat([row_TPE3[:, 0], row_TPE3[:, 1]], dim=-1).float().numpy()


def _rest_joints(body: Body) -> torch.Tensor:
    """Unposed joints [J, 3] of a body with hands, jaw and eyes, metres, the pelvis where SMPL-X has it."""
    offset_J3 = torch.tensor(SMPLX55.rest_offsets, dtype=torch.float64)
    offset_J3[: SMPL22.num_joints] = torch.from_numpy(body.offset_J3)
    pelvis_3 = torch.tensor(SMPLX_PELVIS_3, dtype=torch.float64)
    still_J33 = torch.eye(3, dtype=torch.float64).expand(SMPLX55.num_joints, 3, 3)
    return forward_kinematics(pelvis_3, still_J33, offset_J3, SMPLX55.parents)[0]


def _model_of(body: Body) -> dict[str, NDArray[np.float64]]:
    """A body's model: six points of its surface about each joint [V, 3], and each joint as their mean [J, V]."""
    joints = SMPLX55.num_joints
    corner_63 = _SURFACE * np.concatenate([np.eye(3), -np.eye(3)])
    point_V3 = (_rest_joints(body).numpy()[:, None] + corner_63).reshape(-1, 3)
    return {"v_template": point_V3, "J_regressor": np.repeat(np.eye(joints), len(corner_63), axis=1) / len(corner_63)}


def _write_part(root: Path, number: int, interactions: Iterable[PosedInteraction]) -> None:
    rows = {}
    for interaction in interactions:
        rows[interaction.id] = processed_rows(interaction)
        captions = "".join(map(_processed_caption, interaction.captions))
        (root / f"{_TEXTS}/{interaction.id}.txt").write_text(captions, encoding="utf-8")
    _write_arrays(root / f"{_PARTS}/{number}.npz", rows)


def _processed_caption(caption: str) -> str:
    """The line of a caption: its words follow, each with its part of speech, and from when to when it holds.

    No tagger has a part in Duet; "OTHER" is what the benchmark makes of parts of speech that it does not know.
    """
    words = " ".join(f"{word.strip('.,;:').lower()}/OTHER" for word in caption.split())
    return f"{caption}#{words}#0.0#0.0\n"


def _finish(folder: Place, entries: Sequence[Entry], parts: Sequence[int]) -> None:
    """Gather the motions in a file for each split; write who acts, and the model of the body."""
    with local_draft(folder) as root:
        for name in (_MOTIONS, _ANNOTATIONS):
            (root / name).mkdir(parents=True, exist_ok=True)
        _gather(folder / _PARTS, parts, root / _MOTIONS, {entry["id"]: entry["split"] for entry in entries})
        order = {entry["id"]: entry["label"]["actor"] for entry in entries}
        (root / _ANNOTATIONS / "interaction_order.pkl").write_bytes(pickle.dumps(order, protocol=4))
        _write_arrays(root / BODY_MODEL, _model_of(_BODY))
    discard(folder / _PARTS)


def _gather(parts_folder: Place, parts: Sequence[int], out: Path, split_of: Mapping[str, str]) -> None:
    """Put the motions of all parts, in their order, into the files of their splits."""
    try:
        with ExitStack() as stack:
            files: dict[str, h5py.File] = {
                split: stack.enter_context(h5py.File(out / f"{split}.h5", "w")) for split in SPLITS
            }
            for number in parts:
                with np.load(io.BytesIO(read_bytes(parts_folder / f"{number}.npz")), allow_pickle=False) as rows:
                    for name in rows.files:
                        files[split_of[name]].create_dataset(name, data=rows[name])
    except (OSError, RuntimeError) as error:  # of several lines from HDF5, which also has an error of its own
        number = getattr(error, "errno", None) or errno.EIO
        raise OSError(number, os.strerror(number)) from error


def _write_arrays(file: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    # By way of memory: where a disk is full, numpy itself does not say so.
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    file.write_bytes(content.getvalue())


INTERX = Layout(folders=(_TEXTS, _PARTS), body=_BODY, write_part=_write_part, finish=_finish)
