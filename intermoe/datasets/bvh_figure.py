"""The figure of a BVH file as a skeleton of ours: its T-pose, its motion, and whether the two fit.

Legend: T frames, N points of the file, J joints of the skeleton.
"""

import torch
from torch import Tensor

from intermoe.body.kinematics import forward_kinematics
from intermoe.body.rotations import matrix_from_euler
from intermoe.body.skeletons import Skeleton, skeleton_named
from intermoe.datasets.bvh_file import Bvh, global_pose
from intermoe.datasets.joint_mapping import JointMapping
from intermoe.datasets.recordings import BadRecording

# From the feet to the head joint, metres: a small child stands 0.7, a tall adult 1.9. Outside, the scale is wrong, and
# with it whatever else is measured in metres.
HEIGHTS = (0.4, 2.5)
# A bone of at least this length in the skeleton may point at most this far from its T-pose, metres and degrees. Short
# bones differ more than that between figures that all stand in a T-pose.
LONG_BONE, TPOSE_ANGLE = 0.2, 30.0


def mapped_motion(
    bvh: Bvh, place_TN3: Tensor, rotation_TN33: Tensor, mapping: JointMapping, scale: float
) -> tuple[Tensor, Tensor]:
    """World positions [T, J, 3] in metres of a skeleton's joints, and local rotations since the T-pose [T, J, 3, 3].

    A joint's rotation is that of the file's joint since the T-pose, in the world, then taken relative to the parent *in
    the skeleton*. So forward kinematics with ``mapped_rest_offsets`` returns the positions wherever a mapped bone is
    rigid in the file too.

    Args:
        bvh: the file.
        place_TN3: place of each point in its parent (``Bvh.local_pose``), any frame rate.
        rotation_TN33: rotation of each point relative to its parent.
        mapping: where the skeleton's joints come from.
        scale: metres in one unit of the file.
    """
    skeleton = skeleton_named(mapping.skeleton)
    place_TN3, turn_TN33 = global_pose(place_TN3, rotation_TN33, bvh.parents)
    rest_N33 = global_pose(*_rest_pose(bvh, mapping), bvh.parents)[1][0]
    axes_33 = torch.tensor(mapping.axis_matrix(), dtype=place_TN3.dtype)
    world: list[Tensor] = []
    local: list[Tensor] = []
    for joint, parent in zip(skeleton.joint_names, skeleton.parents, strict=True):
        point = mapping.joints[joint].rotation
        if point is None:
            turn_T33 = world[parent]
        else:
            index = bvh.names.index(point)
            turn_T33 = axes_33 @ turn_TN33[:, index] @ rest_N33[index].mT @ axes_33.mT
        world.append(turn_T33)
        local.append(turn_T33 if parent < 0 else world[parent].mT @ turn_T33)
    return _mapped_positions(bvh, place_TN3, mapping, scale), torch.stack(local, dim=1)


def mapped_rest_offsets(bvh: Bvh, mapping: JointMapping, scale: float) -> Tensor:
    """The file's T-pose: offset of each joint of the skeleton from its parent [J, 3], metres; that of the root is 0."""
    skeleton = skeleton_named(mapping.skeleton)
    place_TN3 = global_pose(*_rest_pose(bvh, mapping), bvh.parents)[0]
    position_J3 = _mapped_positions(bvh, place_TN3, mapping, scale)[0]
    parents = torch.tensor(skeleton.parents).clamp(min=0)
    return position_J3 - position_J3[parents]


def check_figure(bvh: Bvh, mapping: JointMapping, scale: float) -> None:
    """Raise ``BadRecording`` where a mapped joint is absent, or the figure has no T-pose or no person's size."""
    for point, joint in mapping.points.items():
        if point not in bvh.names:
            raise BadRecording(f"there is no joint {point!r}, which {joint} needs in the mapping")
    for point, angles in mapping.tpose.items():
        if len(order := _rotation_order(bvh, point)) != len(angles):
            raise BadRecording(
                f"{point!r} has {len(order)} rotation channels, tpose in the mapping {len(angles)} angles"
            )
    skeleton = skeleton_named(mapping.skeleton)
    offset_J3 = mapped_rest_offsets(bvh, mapping, scale)
    joint, degrees = _worst_long_bone(offset_J3, skeleton)
    if not degrees <= TPOSE_ANGLE:
        raise BadRecording(
            f"its zero pose is not a T-pose: the bone to {joint} is {degrees:.0f} degrees off; "
            "'axes' and 'tpose' in the mapping put it right"
        )
    still_J33 = torch.eye(3, dtype=offset_J3.dtype).expand(skeleton.num_joints, 3, 3)
    up_J = forward_kinematics(offset_J3[0], still_J33, offset_J3, skeleton.parents)[0][:, 1]
    height = float(up_J.max() - up_J.min())
    if not HEIGHTS[0] <= height <= HEIGHTS[1]:
        raise BadRecording(f"from feet to head its figure measures {height:.3g} m with the scale {scale:g}")


def _worst_long_bone(offset_J3: Tensor, skeleton: Skeleton) -> tuple[str, float]:
    rest_J3 = torch.tensor(skeleton.rest_offsets, dtype=offset_J3.dtype)
    cross = torch.linalg.cross(offset_J3, rest_J3).norm(dim=-1)
    angle_J = torch.atan2(cross, (offset_J3 * rest_J3).sum(-1)).rad2deg()
    angle_J[rest_J3.norm(dim=-1) < LONG_BONE] = 0
    worst = int(angle_J.argmax())
    return skeleton.joint_names[worst], float(angle_J[worst])


def _mapped_positions(bvh: Bvh, place_TN3: Tensor, mapping: JointMapping, scale: float) -> Tensor:
    """Positions of the skeleton's joints [T, J, 3] in metres from those of the file's points in the world."""
    skeleton = skeleton_named(mapping.skeleton)
    share_JN = torch.zeros(skeleton.num_joints, len(bvh.names), dtype=place_TN3.dtype)
    for joint, name in enumerate(skeleton.joint_names):
        for point, share in mapping.joints[name].position.items():
            share_JN[joint, bvh.names.index(point)] = share
    axes_33 = torch.tensor(mapping.axis_matrix(), dtype=place_TN3.dtype)
    return share_JN @ place_TN3 @ axes_33.mT * scale


def _rest_pose(bvh: Bvh, mapping: JointMapping) -> tuple[Tensor, Tensor]:
    """Place [1, N, 3] and rotation [1, N, 3, 3] of each point relative to its parent in the T-pose."""
    rotation_TN33 = torch.eye(3, dtype=torch.float64).repeat(1, len(bvh.names), 1, 1)
    for point, angles in mapping.tpose.items():
        turn_33 = matrix_from_euler(torch.tensor(angles, dtype=torch.float64), _rotation_order(bvh, point))
        rotation_TN33[0, bvh.names.index(point)] = turn_33
    return bvh.offset_N3[None], rotation_TN33


def _rotation_order(bvh: Bvh, point: str) -> str:
    channels = bvh.channels[bvh.names.index(point)]
    return "".join(channel[0] for channel in channels if channel.endswith("rotation"))
