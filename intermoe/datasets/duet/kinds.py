"""The kinds of interaction, and one interaction of a data set as a function of seed and number.

Legend: T frames, P = 2 persons, J joints of SMPL22, R = J - 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from intermoe.body.kinematics import forward_kinematics
from intermoe.body.rotations import sixd_from_matrix
from intermoe.body.skeletons import SMPL22
from intermoe.datasets.choreography.curves import Array
from intermoe.datasets.choreography.figure import Body, Figure
from intermoe.datasets.choreography.limbs import about
from intermoe.datasets.duet import contests, greetings, walks
from intermoe.datasets.duet.captions import write_captions
from intermoe.datasets.duet.stage import Scene, Stage
from intermoe.datasets.recordings import Recording

KINDS: Mapping[str, Callable[[Stage], Scene]] = MappingProxyType(
    {
        "shake_hands": greetings.shake_hands,
        "bow": greetings.bow,
        "push": contests.push,
        "wave": greetings.wave,
        "circle": walks.circle,
        "punch": contests.punch,
        "high_five": greetings.high_five,
        "lead": walks.lead,
        "mirror": walks.mirror,
        "hand_over": greetings.hand_over,
        "hug": greetings.hug,
        "kick": contests.kick,
        "beckon": walks.beckon,
        "tap": walks.tap,
    }
)


@dataclass(frozen=True)
class PosedInteraction:
    """An interaction as its figures are posed: bones and rotations, from which the joints follow.

    Attributes:
        id, split, captions, label: as in ``Recording``.
        bodies: of both persons.
        root_TP3: positions of the pelvis in the world, float64, metres.
        rotation_TPJ33: local rotations, float64; joint 0 is the root and turns the whole body.
    """

    id: str
    split: str
    captions: tuple[str, ...]
    label: dict[str, str | int]
    bodies: tuple[Body, Body]
    root_TP3: Array
    rotation_TPJ33: Array

    def recording(self) -> Recording:
        """The same as joints and 6D rotations."""
        joints = [
            forward_kinematics(
                torch.from_numpy(self.root_TP3[:, person]),
                torch.from_numpy(self.rotation_TPJ33[:, person]),
                torch.from_numpy(body.offset_J3),
                SMPL22.parents,
            )[0]
            for person, body in enumerate(self.bodies)
        ]
        return Recording(
            id=self.id,
            split=self.split,
            position_TPJ3=torch.stack(joints, dim=1).float().numpy(),
            rotation_TPR6=sixd_from_matrix(torch.from_numpy(self.rotation_TPJ33[:, :, 1:])).float().numpy(),
            captions=self.captions,
            label=self.label,
        )


def make_interaction(seed: int, index: int) -> Recording:
    """Interaction ``index`` of the data set with that seed; no other number has a part in it.

    Kinds take turns. Of ten interactions of a kind, eight are for training, one for validation and one for testing.
    Either person acts with equal chance. The label holds kind, actor (0 or 1), hand ("left", "right", "both", "none";
    in a kick the side of the leg) and, of a circle, the direction.

    Example:
        >>> recording = make_interaction(seed=0, index=1)
        >>> recording.id, recording.label["kind"], recording.position_TPJ3.shape[1:]
        ('000001_bow', 'bow', (2, 22, 3))
    """
    return pose_interaction(seed, index).recording()


def pose_interaction(seed: int, index: int, body: Body | None = None) -> PosedInteraction:
    """What ``make_interaction`` makes, as bones and rotations.

    Args:
        seed: of the data set.
        index: number of the interaction.
        body: of both persons, who act with it: their hands meet, their feet stand. Id, split, captions, label and
            number of frames are the same with any. Each has one of random build without it.
    """
    turn, number = divmod(index, len(KINDS))
    kind = tuple(KINDS)[number]
    random = np.random.default_rng([seed, index])
    actor = int(random.integers(2))
    scene = KINDS[kind](Stage(random, body))
    people = (scene.actor, scene.other) if actor == 0 else (scene.other, scene.actor)
    yaw, shift_2 = random.uniform(-np.pi, np.pi), random.uniform(-0.5, 0.5, size=2)
    root_TP3, rotation_TPJ33 = zip(*(_place(person, yaw, shift_2) for person in people), strict=True)
    return PosedInteraction(
        id=f"{index:06d}_{kind}",
        split={3: "val", 7: "test"}.get((turn + number) % 10, "train"),
        captions=write_captions(random, kind, actor, scene.hand, scene.words),
        label={"kind": kind, "actor": actor, "hand": scene.hand, **scene.words},
        bodies=(people[0].body, people[1].body),
        root_TP3=np.stack(root_TP3, axis=1),
        rotation_TPJ33=np.stack(rotation_TPJ33, axis=1),
    )


def _place(figure: Figure, yaw: float, shift_2: Array) -> tuple[Array, Array]:
    """Places of the pelvis [T, 3] and local rotations [T, J, 3, 3] of a figure, the whole scene turned and moved."""
    root_T3, rotation_TJ33 = figure.finish()
    turn_33 = about("Y", np.array(yaw))
    root_T3 = root_T3 @ turn_33.T + np.array([shift_2[0], 0.0, shift_2[1]])
    rotation_TJ33[:, 0] = turn_33 @ rotation_TJ33[:, 0]
    return root_T3, rotation_TJ33
