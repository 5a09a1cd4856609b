"""The kinds of interaction, and one interaction of a data set as a function of seed and number.

Legend: T frames, P = 2 persons, J joints of SMPL22, R = J - 1.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch

from intermoe.body.kinematics import forward_kinematics
from intermoe.body.rotations import sixd_from_matrix
from intermoe.body.skeletons import SMPL22
from intermoe.datasets.duet import contests, greetings, walks
from intermoe.datasets.duet.captions import write_captions
from intermoe.datasets.duet.curves import Array
from intermoe.datasets.duet.figure import Figure
from intermoe.datasets.duet.limbs import about
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
    turn, number = divmod(index, len(KINDS))
    kind = tuple(KINDS)[number]
    random = np.random.default_rng([seed, index])
    actor = int(random.integers(2))
    scene = KINDS[kind](Stage(random))
    people = (scene.actor, scene.other) if actor == 0 else (scene.other, scene.actor)
    yaw, shift_2 = random.uniform(-np.pi, np.pi), random.uniform(-0.5, 0.5, size=2)
    position_TPJ3, rotation_TPR6 = zip(*(_place(person, yaw, shift_2) for person in people), strict=True)
    return Recording(
        id=f"{index:06d}_{kind}",
        split={3: "val", 7: "test"}.get((turn + number) % 10, "train"),
        position_TPJ3=np.stack(position_TPJ3, axis=1).astype(np.float32),
        rotation_TPR6=np.stack(rotation_TPR6, axis=1).astype(np.float32),
        captions=write_captions(random, kind, actor, scene.hand, scene.words),
        label={"kind": kind, "actor": actor, "hand": scene.hand, **scene.words},
    )


def _place(figure: Figure, yaw: float, shift_2: Array) -> tuple[Array, Array]:
    """Joints [T, J, 3] and 6D rotations [T, R, 6] of a figure, the whole scene turned and moved."""
    root_T3, rotation_TJ33 = figure.finish()
    turn_33 = about("Y", np.array(yaw))
    root_T3 = root_T3 @ turn_33.T + np.array([shift_2[0], 0.0, shift_2[1]])
    rotation_TJ33[:, 0] = turn_33 @ rotation_TJ33[:, 0]
    joints, _ = forward_kinematics(
        torch.from_numpy(root_T3),
        torch.from_numpy(rotation_TJ33),
        torch.from_numpy(figure.body.offset_J3),
        SMPL22.parents,
    )
    return joints.numpy(), sixd_from_matrix(torch.from_numpy(rotation_TJ33[:, 1:])).numpy()
