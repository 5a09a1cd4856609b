"""One person of a scene: a body, its instructions, and the motion that follows.

A choreography sets the channels (path, lean, gaze, ...) and calls ``settle``, which plans the steps and poses legs and
trunk; it then gives the hands their targets, which may be points of the other person, and calls ``finish``.

Legend: T frames, J joints of SMPL22.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from intermoe.body.kinematics import forward_kinematics
from intermoe.body.skeletons import SMPL22
from intermoe.datasets.choreography.curves import Array, gate, smooth, sway
from intermoe.datasets.choreography.gait import SIDES, SIGN, Foot, Pace, ahead_of, left_of, plan_feet
from intermoe.datasets.choreography.limbs import about, bend_limb, unit

_JOINT = {name: number for number, name in enumerate(SMPL22.joint_names)}
_SOLE = 0.02  # the toe joint lies that far above the floor
_EASY_KNEES = 0.006  # a relaxed stance is that much lower than straight legs
_STRAIGHT = 0.996  # share of its length that a leg is stretched to at most


@dataclass(frozen=True)
class Body:
    """Bones of one person: SMPL's rest pose, scaled as a whole (+-8%) and a little by part."""

    scale: float
    offset_J3: Array

    @classmethod
    def draw(cls, random: np.random.Generator) -> "Body":
        """A person of random build; left and right are alike."""
        scale = random.uniform(0.92, 1.08)
        parts = {
            ("hip", "collar", "shoulder"): random.uniform(0.96, 1.04),
            ("knee", "ankle"): random.uniform(0.97, 1.03),
            ("spine", "neck", "head"): random.uniform(0.97, 1.03),
            ("elbow", "wrist"): random.uniform(0.96, 1.04),
            ("foot",): 1.0,
        }
        offset_J3 = scale * np.array(SMPL22.rest_offsets)
        for names, size in parts.items():
            for name, joint in _JOINT.items():
                if any(part in name for part in names):
                    offset_J3[joint] *= size
        return cls(scale, offset_J3)

    @classmethod
    def average(cls) -> "Body":
        """A person of average build: SMPL's rest pose as it is."""
        return cls(1.0, np.array(SMPL22.rest_offsets))

    def of(self, *names: str) -> Array:
        """Rest offsets [..., 3] of the named joints."""
        return self.offset_J3[[_JOINT[name] for name in names]]

    @property
    def arm(self) -> float:
        """Metres from shoulder to wrist with the arm straight."""
        return float(np.linalg.norm(self.of("left_elbow", "left_wrist"), axis=-1).sum())

    @property
    def ankle_height(self) -> float:
        """Metres of the ankle above the floor when the foot is flat."""
        return _SOLE - float(self.of("left_foot")[0, 1])

    @property
    def standing(self) -> float:
        """Metres of the pelvis above the floor in a relaxed stance."""
        down = self.of("left_hip", "left_knee", "left_ankle")[:, 1].sum()
        return self.ankle_height - float(down) - _EASY_KNEES

    @property
    def stance(self) -> tuple[float, float]:
        """Metres of each ankle from the middle outward, and ahead of the pelvis, in a relaxed stance."""
        out, _, ahead = self.of("left_hip", "left_knee", "left_ankle").sum(axis=0)
        return float(out), float(ahead)


class Figure:
    """A person over T frames. Channels are arrays over time that a choreography writes before ``settle``.

    Attributes:
        place_T2, yaw_T: where the person stands in the plane (x, z), and where it faces.
        drop_T, back_T: metres by which the pelvis is lowered, and behind where the person stands. lean_T, side_T,
            twist_T: bend of the trunk forward and to the left, and its twist to the left, radians. nod_T: bend of the
            head forward. gaze_T: 0 looks straight ahead, 1 at the other person. pace: how it steps. swing: how much the
            arms swing with the steps.
    """

    def __init__(self, body: Body, frames: int, random: np.random.Generator) -> None:
        self.body, self.frames = body, frames
        self.place_T2, self.yaw_T = np.zeros((frames, 2)), np.zeros(frames)
        self.drop_T, self.back_T = np.zeros(frames), np.zeros(frames)
        self.lean_T = 0.03 + sway(random, frames, 0.02)
        self.side_T, self.twist_T = sway(random, frames, 0.015), sway(random, frames, 0.03)
        self.nod_T = 0.05 + sway(random, frames, 0.04)
        self.gaze_T = np.ones(frames)
        self.pace, self.swing = Pace(), random.uniform(0.3, 0.48)
        self._shift_T2 = np.stack([sway(random, frames, 0.006) for _ in range(2)], axis=-1)
        self._hang = {side: (random.uniform(0.02, 0.08), random.uniform(0.02, 0.1)) for side in SIDES}
        self._waver = {
            side: np.stack([sway(random, frames, 0.012) for _ in range(3)], axis=-1) * gate(frames)[:, None]
            for side in SIDES
        }
        self._reaches: dict[str, list[tuple[Array, Array, float]]] = {side: [] for side in SIDES}
        self._kicks: list[tuple[str, Array, Array, Array]] = []
        self._local_TJ33 = np.tile(np.eye(3), (frames, SMPL22.num_joints, 1, 1))

    def kick(self, side: str, weight_T: Array, aim_T3: Array, pitch_T: Array) -> None:
        """Lift one foot off its place: ankle at (out, up, ahead) [T, 3] of the body, toes down by ``pitch_T``."""
        self._kicks.append((side, weight_T, aim_T3, pitch_T))

    def settle(self, other: "Figure | None" = None) -> None:
        """Plan the steps, pose legs, trunk and head. The other's path must be set: the gaze goes there.

        Who is alone looks straight ahead.
        """
        body, yaw_T = self.body, self.yaw_T
        self._feet = plan_feet(self.place_T2, yaw_T, body.stance, self.pace)
        ahead_T2, left_T2 = ahead_of(yaw_T), left_of(yaw_T)
        apart_T2 = self._feet["left"].spot_T2 - self._feet["right"].spot_T2
        stride_T = smooth((apart_T2 * ahead_T2).sum(-1), 7)
        self._stride_T = stride_T
        weight_T = smooth(self._feet["left"].down_T - self._feet["right"].down_T, 11) * 0.3
        for side, lifted_T, _, _ in self._kicks:
            weight_T = weight_T - SIGN[side] * 0.9 * smooth(lifted_T, 7)
        fold_T = 0.5 * (self.lean_T - 0.03)
        ground_T2 = (
            self.place_T2
            + (weight_T * body.stance[0])[:, None] * left_T2
            - (0.2 * body.scale * np.sin(fold_T) + self.back_T)[:, None] * ahead_T2
            + self._shift_T2
        )
        pelvis_T33 = about("Y", yaw_T - 0.25 * stride_T + 0.2 * self.twist_T) @ about("X", fold_T)
        self._local_TJ33[:, 0] = pelvis_T33 @ about("Z", -0.2 * self.side_T)
        self._pose_trunk(stride_T)
        ankles = {side: self._ankle(side) for side in SIDES}
        self._root_T3 = np.stack([ground_T2[:, 0], np.zeros(self.frames), ground_T2[:, 1]], axis=-1)
        self._root_T3[:, 1] = self._pelvis_height(ankles)
        self._gaze(other)
        self._pose_legs(ankles)
        self._joints_TJ3, self._turn_TJ33 = self._forward()

    def _pose_trunk(self, stride_T: Array) -> None:
        """Bend and twist the spine; the chest turns against the pelvis as one walks."""
        twist_T = 0.8 * self.twist_T + 0.45 * stride_T
        third_T33 = about("Y", twist_T / 3) @ about("X", 0.5 * self.lean_T / 3) @ about("Z", -0.8 * self.side_T / 3)
        for name in ("spine1", "spine2", "spine3"):
            self._local_TJ33[:, _JOINT[name]] = third_T33

    def _ankle(self, side: str) -> tuple[Array, Array, Array]:
        """Ankle position [T, 3], rotation of the foot [T, 3, 3], and by how much the foot carries weight [T]."""
        foot: Foot = self._feet[side]
        body, toe_3 = self.body, self.body.of(f"{side}_foot")[0]
        flat_T33 = about("Y", foot.yaw_T)
        turn_T33 = flat_T33 @ about("X", foot.heel_T)
        # The foot turns about its toe joint: the heel comes up while the toe stays.
        spot_T3 = np.stack([foot.spot_T2[:, 0], body.ankle_height + foot.lift_T, foot.spot_T2[:, 1]], axis=-1)
        ankle_T3 = spot_T3 + flat_T33 @ toe_3 - turn_T33 @ toe_3
        stands_T = np.ones(self.frames)
        for kicker, weight_T, aim_T3, pitch_T in self._kicks:
            if kicker == side:
                lifted_T3 = self.ahead(side, *aim_T3.T)
                ankle_T3 = ankle_T3 + weight_T[:, None] * (lifted_T3 - ankle_T3)
                turn_T33 = flat_T33 @ about("X", foot.heel_T + weight_T * pitch_T)
                stands_T = 1 - weight_T
        return ankle_T3, turn_T33, stands_T

    def _pelvis_height(self, ankles: dict[str, tuple[Array, Array, Array]]) -> Array:
        """As high as a relaxed stance less ``drop_T``, but never beyond what both legs can reach [T]."""
        height_T = self.body.standing - self.drop_T
        for side, (ankle_T3, _, stands_T) in ankles.items():
            hip_T3 = self._local_TJ33[:, 0] @ self.body.of(f"{side}_hip")[0]
            flat_T = np.hypot(*(self._root_T3 + hip_T3 - ankle_T3)[:, [0, 2]].T)
            leg = _STRAIGHT * np.linalg.norm(self.body.of(f"{side}_knee", f"{side}_ankle"), axis=-1).sum()
            limit_T = ankle_T3[:, 1] - hip_T3[:, 1] + np.sqrt(np.maximum(leg**2 - flat_T**2, 0.2 * leg**2))
            height_T = np.minimum(height_T, np.where(stands_T > 0.98, limit_T, np.inf))
        # Lowest of the neighbours first, so that the average stays below the limit.
        near = np.lib.stride_tricks.sliding_window_view(np.pad(height_T, 3, mode="edge"), 7)
        return smooth(near.min(-1), 7)

    def _gaze(self, other: "Figure | None") -> None:
        """Turn neck and head to the other person, as far as a neck goes, and nod."""
        if other is None:
            turn_T = np.zeros(self.frames)
        else:
            away_T2 = other.place_T2 - self.place_T2
            turn_T = np.arctan2(away_T2[:, 0], away_T2[:, 1]) - self.yaw_T - self.twist_T
            turn_T = np.clip((turn_T + np.pi) % (2 * np.pi) - np.pi, -1.2, 1.2)
        look_T = smooth(self.gaze_T * turn_T, 9) / 2
        nod_T = (self.nod_T - 0.35 * (self.lean_T - 0.03)) / 2
        for name in ("neck", "head"):
            self._local_TJ33[:, _JOINT[name]] = about("Y", look_T) @ about("X", nod_T)

    def _pose_legs(self, ankles: dict[str, tuple[Array, Array, Array]]) -> None:
        root_T33 = self._local_TJ33[:, 0]
        for side, (ankle_T3, foot_T33, _) in ankles.items():
            hip_T3 = self._root_T3 + root_T33 @ self.body.of(f"{side}_hip")[0]
            facing_T = 0.5 * (self.yaw_T + self._feet[side].yaw_T) + SIGN[side] * 0.12
            # Forward and a little up: also right for a leg stretched out in front.
            toward_T3 = np.stack([np.sin(facing_T), np.full(self.frames, 0.4), np.cos(facing_T)], axis=-1)
            bones_23 = self.body.of(f"{side}_knee", f"{side}_ankle")
            thigh_T33, shin_T33 = bend_limb(hip_T3, ankle_T3, toward_T3, bones_23, np.array([-1.0, 0.0, 0.0]))
            chain = [root_T33, thigh_T33, shin_T33, foot_T33]
            for number, name in enumerate(("hip", "knee", "ankle")):
                turn_T33 = chain[number].transpose(0, 2, 1) @ chain[number + 1]
                self._local_TJ33[:, _JOINT[f"{side}_{name}"]] = turn_T33

    def _forward(self) -> tuple[Array, Array]:
        """Joints [T, J, 3] and their global rotations [T, J, 3, 3] as posed so far."""
        joints, turns = forward_kinematics(
            torch.from_numpy(self._root_T3),
            torch.from_numpy(self._local_TJ33),
            torch.from_numpy(self.body.offset_J3),
            SMPL22.parents,
        )
        return joints.numpy(), turns.numpy()

    def joint(self, name: str) -> Array:
        """Where a joint of trunk, head or legs is [T, 3]; for targets, after ``settle``."""
        return self._joints_TJ3[:, _JOINT[name]]

    def ahead(self, side: str, out: ArrayLike, up: ArrayLike, ahead: ArrayLike) -> Array:
        """Point [T, 3] beside, above and in front of where the person stands, metres of a person of scale 1."""
        size = self.body.scale
        offset_T3 = self._turned(np.zeros(3), self.yaw_T, side, out=out, up=up, ahead=ahead, size=size)
        return offset_T3 + np.insert(self.place_T2, 1, 0.0, axis=-1)

    def near(self, name: str, side: str, out: ArrayLike, up: ArrayLike, ahead: ArrayLike) -> Array:
        """Point [T, 3] beside (to ``side``), above and in front of a joint, metres of a person of scale 1."""
        yaw_T, size = self.yaw_T + self.twist_T, self.body.scale
        return self._turned(self.joint(name), yaw_T, side, out=out, up=up, ahead=ahead, size=size)

    def _turned(
        self, from_T3: Array, yaw_T: Array, side: str, *, out: ArrayLike, up: ArrayLike, ahead: ArrayLike, size: float
    ) -> Array:
        offset = np.stack(np.broadcast_arrays(SIGN[side] * np.asarray(out), up, ahead, yaw_T)[:3], axis=-1)
        return from_T3 + size * (about("Y", yaw_T) @ offset[..., None])[..., 0]

    def reach(self, side: str, weight_T: Array, target_T3: Array, *, elbow: float = 0.0) -> None:
        """Bring a hand to a target by a weight from 0 to 1; later calls go on top. ``elbow``: 0 down, 1 out."""
        self._reaches[side].append((weight_T, target_T3, elbow))

    def finish(self) -> tuple[Array, Array]:
        """Pose the arms: root positions [T, 3] and local rotations [T, J, 3, 3], the root's own among them."""
        yaw_T = self.yaw_T + 0.7 * self.twist_T
        for side in SIDES:
            self._pose_arm(side, yaw_T)
        return self._root_T3, self._local_TJ33

    def _pose_arm(self, side: str, yaw_T: Array) -> None:
        body, sign = self.body, SIGN[side]
        chest_T33, collar_T3 = self._turn_TJ33[:, _JOINT["spine3"]], self.joint(f"{side}_collar")
        shoulder_T3 = self.joint(f"{side}_shoulder")
        out, front = self._hang[side]
        front_T = front - sign * self.swing * self._stride_T
        down_T = np.sqrt(np.maximum((0.985 * body.arm) ** 2 - front_T**2 - out**2, 0.1))
        wrist_T3 = self._turned(shoulder_T3, yaw_T, side, out=out, up=-down_T, ahead=front_T, size=1.0)
        elbow_T = np.zeros(self.frames)
        for weight_T, target_T3, outward in self._reaches[side]:
            wrist_T3 = wrist_T3 + weight_T[:, None] * (target_T3 - wrist_T3)
            elbow_T = elbow_T + weight_T * (outward - elbow_T)
        wrist_T3 = wrist_T3 + self._waver[side]
        # The shoulder rises and comes forward with an arm that does.
        aim_T3 = unit(wrist_T3 - shoulder_T3)
        local_T3 = (chest_T33.transpose(0, 2, 1) @ aim_T3[..., None])[..., 0]
        lift_T, forward_T = 0.3 * np.maximum(local_T3[:, 1] + 0.5, 0.0), 0.25 * np.maximum(local_T3[:, 2], 0.0)
        collar_T33 = about("Y", -sign * forward_T) @ about("Z", sign * lift_T)
        shoulder_T3 = collar_T3 + (chest_T33 @ collar_T33 @ body.of(f"{side}_shoulder")[0])
        # Elbows point down and back, further out by ``elbow``; above the head they come forward.
        high_T = np.clip(aim_T3[:, 1], 0.0, 1.0)
        toward_T3 = self._turned(
            np.zeros(3),
            yaw_T,
            side,
            out=0.35 + 1.2 * elbow_T + 0.5 * high_T,
            up=-1.0 + 0.8 * elbow_T,
            ahead=-0.5 + 0.3 * elbow_T + 0.8 * high_T,
            size=1.0,
        )
        bones_23 = body.of(f"{side}_elbow", f"{side}_wrist")
        upper_T33, fore_T33 = bend_limb(shoulder_T3, wrist_T3, toward_T3, bones_23, np.array([0.0, sign, 0.0]))
        collar, shoulder, elbow, _ = (_JOINT[f"{side}_{name}"] for name in ("collar", "shoulder", "elbow", "wrist"))
        self._local_TJ33[:, collar] = collar_T33
        self._local_TJ33[:, shoulder] = (chest_T33 @ collar_T33).transpose(0, 2, 1) @ upper_T33
        self._local_TJ33[:, elbow] = upper_T33.transpose(0, 2, 1) @ fore_T33
