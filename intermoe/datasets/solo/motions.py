"""One motion of Solo as a function of seed and number, and its mirror image.

Legend: T frames, J joints, R = J - 1 joints with a local rotation, F features of a person-frame.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from intermoe.body.features import mirror_motion
from intermoe.body.heading_features import heading_features, heading_joints
from intermoe.body.kinematics import forward_kinematics
from intermoe.body.rotations import sixd_from_matrix
from intermoe.body.skeletons import HUMANML22
from intermoe.datasets.choreography.draws import opposite
from intermoe.datasets.resampling import resample_pose
from intermoe.datasets.solo.captions import fill, tagged, write_captions
from intermoe.datasets.solo.moves import KINDS, SoloStage

# Choreographies count in these.
_STAGE_FPS = 30
_OTHER_SENSE = {"clockwise": "counterclockwise", "counterclockwise": "clockwise"}


@dataclass(frozen=True)
class SoloMotion:
    """A motion as HumanML3D keeps one.

    Attributes:
        id: six digits; before them an M where it is a mirror image.
        split: "train", "val" or "test".
        captions: three sentences.
        words: of each, with their parts of speech.
        label: kind, side and what else the captions may say.
        position_TJ3: joints at 20 frames per second, float64, metres.
    """

    id: str
    split: str
    captions: tuple[str, ...]
    words: tuple[str, ...]
    label: dict[str, str | int]
    position_TJ3: torch.Tensor

    def features(self) -> NDArray[np.float32]:
        """Its features [T - 1, F]."""
        return heading_features(self.position_TJ3, HUMANML22).float().numpy()

    def joints(self) -> NDArray[np.float32]:
        """The joints [T - 1, J, 3] that its features hold, which begin above the origin and face +z."""
        return heading_joints(torch.from_numpy(self.features()), HUMANML22).numpy()


def make_motion(seed: int, index: int) -> tuple[SoloMotion, SoloMotion]:
    """Motion ``index`` of the data set with that seed, and its mirror image; no other number has a part in it.

    Kinds take turns. Of ten motions of a kind, eight are for training, one for validation and one for testing; a mirror
    image belongs where its motion does.

    Example:
        >>> motion, mirrored = make_motion(seed=0, index=1)
        >>> motion.id, mirrored.id, motion.label["kind"], motion.position_TJ3.shape[1:]
        ('000001', 'M000001', 'wave', torch.Size([22, 3]))
    """
    turn, number = divmod(index, len(KINDS))
    kind = tuple(KINDS)[number]
    random = np.random.default_rng([seed, index])
    scene = KINDS[kind](SoloStage(random))
    templates = write_captions(random, kind)
    root_T3, rotation_TJ33 = map(torch.from_numpy, scene.figure.finish())
    root_T13, rotation_TJ33 = resample_pose(root_T3[:, None], rotation_TJ33, _STAGE_FPS, HUMANML22.fps)
    offset_J3 = torch.from_numpy(scene.figure.body.offset_J3)
    position_TJ3, _ = forward_kinematics(root_T13[:, 0], rotation_TJ33, offset_J3, HUMANML22.parents)
    mirrored_TJ3, _ = mirror_motion(position_TJ3, sixd_from_matrix(rotation_TJ33[:, 1:]), HUMANML22)
    split = {3: "val", 7: "test"}.get((turn + number) % 10, "train")
    other_side = opposite(scene.side) if scene.side in ("left", "right") else scene.side
    other_words = {name: _OTHER_SENSE.get(word, word) for name, word in scene.words.items()}
    made = []
    for prefix, side, words, joint_TJ3 in (
        ("", scene.side, scene.words, position_TJ3),
        ("M", other_side, other_words, mirrored_TJ3),
    ):
        captions = tuple(fill(template, side, words) for template in templates)
        label: dict[str, str | int] = {"kind": kind, "side": side, **words}
        tags = tuple(map(tagged, captions))
        made.append(SoloMotion(f"{prefix}{index:06d}", split, captions, tags, label, joint_TJ3))
    return made[0], made[1]
