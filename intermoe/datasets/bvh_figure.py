"""The figure of a BVH file as a skeleton of ours: its T-pose, its motion, and whether the two fit.

Legend: T frames, N points of the file, J joints of the skeleton.
"""

import math

import torch
from torch import Tensor

from intermoe.body.rotations import matrix_about_axis, matrix_from_euler
from intermoe.body.skeletons import Skeleton, skeleton_named
from intermoe.datasets.bad_recording import BadRecording, WrongHeight
from intermoe.datasets.bodies import check_height
from intermoe.datasets.bvh_file import Bvh, global_pose
from intermoe.datasets.joint_mapping import JointMapping

# What an adult measures from the feet to the head joint, and metres per unit of the usual units.
_ADULT, _UNITS = 1.57, (1.0, 0.01, 0.001, 0.1, 0.0254, 0.3048)
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


def check_joints(bvh: Bvh, mapping: JointMapping) -> None:
    """Raise ``BadRecording`` where the file has no joint of a name that the mapping needs."""
    for point, joint in mapping.points.items():
        if point not in bvh.names:
            raise BadRecording(
                f"there is no joint {point!r}, which {joint} needs in the mapping; the file begins with "
                f"{', '.join(bvh.names[:4])}"
            )


def check_figure(bvh: Bvh, mapping: JointMapping, scale: float) -> None:
    """Raise ``BadRecording`` where a figure with all joints of the mapping has no place, T-pose or person's size."""
    for point, angles in mapping.tpose.items():
        if len(order := _rotation_order(bvh, point)) != len(angles):
            raise BadRecording(
                f"{point!r} has {len(order)} rotation channels, tpose in the mapping {len(angles)} angles"
            )
    if mapping.tpose_frame is not None and mapping.tpose_frame >= bvh.frames:
        raise BadRecording(
            f"there is no frame {mapping.tpose_frame}, which is `tpose_frame` in the mapping; "
            f"allowed: 0 to {bvh.frames - 1}"
        )
    _check_has_place(bvh, mapping)
    skeleton = skeleton_named(mapping.skeleton)
    _check_sides(bvh, mapping, skeleton)
    offset_J3 = mapped_rest_offsets(bvh, mapping, scale)
    joint, degrees = _worst_long_bone(offset_J3, skeleton)
    if not degrees <= TPOSE_ANGLE:
        pose = "its zero pose" if mapping.tpose_frame is None else f"its frame {mapping.tpose_frame}"
        raise BadRecording(
            f"{pose} is not a T-pose: the bone to {joint} is {degrees:.0f} degrees off; "
            "`axes`, and `tpose` or `tpose_frame`, in the mapping put it right"
        )
    try:
        check_height(
            _mapped_positions(bvh, global_pose(*_rest_pose(bvh, mapping), bvh.parents)[0], mapping, scale), skeleton
        )
    except WrongHeight as error:
        advice = f"; {_scale_that_fits(error.height, scale)}" if error.height > 0 else ""
        raise BadRecording(f"{error}{advice}") from None


def upright_advice(bvh: Bvh, mapping: JointMapping, up: str) -> str:
    """What to write in the mapping for a file whose bodies stand along ``up`` ("z", "-y", ...) instead of y."""
    turn_33 = torch.tensor(_TO_Y[up], dtype=torch.float64)
    axes_33 = torch.tensor(mapping.axis_matrix(), dtype=torch.float64)
    axes = ", ".join(_axis_name(row) for row in (turn_33 @ axes_33).tolist())
    advice = f"write `axes: [{axes}]` in the mapping"
    root = bvh.names[0]
    if mapping.tpose_frame is not None or root in mapping.tpose:
        return advice
    # The zero pose stood along y and has to go on doing so: its root turns back by what the axes turn.
    back_33 = axes_33.mT @ turn_33.mT @ axes_33
    axis, degrees = _single_turn(back_33)
    if not (order := _rotation_order(bvh, root)) or axis not in order:
        return f"{advice}, and under `tpose` what turns its zero pose upright"
    angles = ", ".join(f"{degrees if channel == axis else 0}" for channel in order)
    return f"{advice}, and `tpose: {{{root}: [{angles}]}}`"


# Rotations that take each direction to y.
_TO_Y = {
    "x": ((0, -1, 0), (1, 0, 0), (0, 0, 1)),
    "-x": ((0, 1, 0), (-1, 0, 0), (0, 0, 1)),
    "-y": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    "z": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    "-z": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
}


def _axis_name(row: list[float]) -> str:
    axis = max(range(3), key=lambda column: abs(row[column]))
    return ("-" if row[axis] < 0 else "") + "xyz"[axis]


def _single_turn(turn_33: Tensor) -> tuple[str, int]:
    """The axis and the degrees of a quarter or half turn about one of the axes."""
    degrees = [90, -90, 180]
    turns = {
        (axis, angle): matrix_about_axis(axis, torch.tensor(angle, dtype=torch.float64).deg2rad())
        for axis in "XYZ"
        for angle in degrees
    }
    return min(turns, key=lambda turn: float((turns[turn] - turn_33).norm()))


def _scale_that_fits(height: float, scale: float) -> str:
    """The scale of a usual unit under which a body of this height is an adult, or else the one that makes it so."""
    fitting = scale * _ADULT / height
    unit = min(_UNITS, key=lambda unit: abs(math.log(unit / fitting)))
    fitting = unit if abs(math.log(unit / fitting)) < math.log(1.25) else float(f"{fitting:.2g}")
    return f"`--scale {fitting:g}` would make it {height * fitting / scale:.2f} m"


def _check_has_place(bvh: Bvh, mapping: JointMapping) -> None:
    skeleton = skeleton_named(mapping.skeleton)
    for name in mapping.joints[skeleton.joint_names[0]].position:
        point = bvh.names.index(name)
        while point >= 0:
            if sum(channel.endswith("position") for channel in bvh.channels[point]) == 3:
                return
            point = bvh.parents[point]
    raise BadRecording(
        f"neither {bvh.names[0]!r} nor a joint between it and the pelvis has three position channels: "
        "where the person is remains unknown"
    )


def _check_sides(bvh: Bvh, mapping: JointMapping, skeleton: Skeleton) -> None:
    """Raise ``BadRecording`` where a left joint lies to the right of its partner in the T-pose."""
    place_N3 = global_pose(*_rest_pose(bvh, mapping), bvh.parents)[0][0]
    x_N = place_N3 @ torch.tensor(mapping.axis_matrix(), dtype=place_N3.dtype)[0]
    x_of = dict(zip(bvh.names, x_N.tolist(), strict=True))
    x_J = _mapped_positions(bvh, place_N3[None], mapping, 1.0)[0, :, 0]
    wrong = []
    for pair in skeleton.mirror_pairs:
        left, right = (skeleton.joint_names[joint] for joint in pair)
        turning = [mapping.joints[name].rotation for name in (left, right)]
        if x_J[pair[0]] < x_J[pair[1]]:
            wrong.append(f"{left} and {right}")
        elif None not in turning and x_of[str(turning[0])] < x_of[str(turning[1])]:
            wrong.append(f"{left} and {right} (rotation)")
    if len(wrong) == len(skeleton.mirror_pairs):
        raise BadRecording(
            "every left joint lies to the right of its partner in the T-pose: the figure does not face z, which `axes` "
            "in the mapping puts right, or left and right are exchanged under `joints`"
        )
    if wrong:
        raise BadRecording(f"left and right are exchanged under `joints` in the mapping: {', '.join(wrong)}")


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
    if mapping.tpose_frame is not None:
        return _facing_ahead(bvh, mapping, *bvh.at(mapping.tpose_frame).local_pose())
    rotation_TN33 = torch.eye(3, dtype=torch.float64).repeat(1, len(bvh.names), 1, 1)
    for point, angles in mapping.tpose.items():
        turn_33 = matrix_from_euler(torch.tensor(angles, dtype=torch.float64), _rotation_order(bvh, point))
        rotation_TN33[0, bvh.names.index(point)] = turn_33
    return bvh.offset_N3[None], rotation_TN33


def _facing_ahead(bvh: Bvh, mapping: JointMapping, place_TN3: Tensor, rotation_TN33: Tensor) -> tuple[Tensor, Tensor]:
    """A pose turned about the vertical so that the right hip lies at -x of the left one."""
    skeleton = skeleton_named(mapping.skeleton)
    world_TN3 = global_pose(place_TN3, rotation_TN33, bvh.parents)[0]
    position_J3 = _mapped_positions(bvh, world_TN3, mapping, 1.0)[0]
    across_3 = position_J3[skeleton.left_hip] - position_J3[skeleton.right_hip]
    axes_33 = torch.tensor(mapping.axis_matrix(), dtype=place_TN3.dtype)
    turn_33 = axes_33.mT @ matrix_about_axis("Y", torch.atan2(across_3[2], across_3[0])) @ axes_33
    place_TN3, rotation_TN33 = place_TN3.clone(), rotation_TN33.clone()
    place_TN3[:, 0] = place_TN3[:, 0] @ turn_33.mT
    rotation_TN33[:, 0] = turn_33 @ rotation_TN33[:, 0]
    return place_TN3, rotation_TN33


def _rotation_order(bvh: Bvh, point: str) -> str:
    channels = bvh.channels[bvh.names.index(point)]
    return "".join(channel[0] for channel in channels if channel.endswith("rotation"))
