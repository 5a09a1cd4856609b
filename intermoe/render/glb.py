"""Writer of GLB files (binary glTF 2.0) that Blender, Unreal, Unity and browsers open: all people in one file.

Legend: T frames, J joints, V vertices, F triangles, N items of an array, C numbers of an item.
"""

import json
import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from intermoe.body.kinematics import PosedBody
from intermoe.body.rotations import quaternion_from_matrix
from intermoe.body.skeletons import Skeleton
from intermoe.errors import UserError, shortened
from intermoe.render.mesh import Surface, body_mesh
from intermoe.render.painter import PERSON_COLOURS, side_colour

if TYPE_CHECKING:  # a motion writes itself: it imports this module
    from intermoe.motion import Motion

_MAGIC, _JSON, _BIN = 0x46546C67, 0x4E4F534A, 0x004E4942
# What the numbers of an array are, and how many an item of it has.
_COMPONENTS = {np.dtype(np.uint8): 5121, np.dtype(np.uint16): 5123, np.dtype(np.float32): 5126}
_KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
_VERTICES, _CORNERS = 34962, 34963
# Letters of the name of a clip; a number may come behind it.
_LONGEST_NAME = 290
_Object = dict[str, Any]


def write_glb(motions: Sequence["Motion"], path: Path) -> None:
    """Write motions as the clips of one file, for as many figures as the skeleton has persons.

    Each person has a node, ``person1`` and so on, below it the joints, named as in the skeleton
    (``person1_pelvis``, ...), and a mesh ``person1_body`` that they carry. Metres, y up, the floor at y = 0. Each
    motion is an animation, named by its caption (a number behind it where several have the same): rotations of all
    joints and the place of the root, at the motion's rate.

    The joints carry the mesh in the T-pose of the first motion, at the origin; before a clip plays, people stand in it
    where they begin. The bones of the other motions differ a little. So that each clip has exactly the joints of its
    motion, a file of several clips sets, in each, the places of all joints in their parents. A file of one motion moves
    no bone but the root.

    Args:
        motions: one or more, of one skeleton.
        path: file to write or replace.

    Raises:
        UserError: no motion, or several skeletons.
        OSError: the file cannot be written.
    """
    if not motions:
        raise UserError("no motion", allowed="one or more")
    skeleton = motions[0].skeleton
    if others := {motion.skeleton.name for motion in motions} - {skeleton.name}:
        raise UserError(f"motions of the skeletons {skeleton.name!r} and {min(others)!r}", allowed="those of one")
    persons = range(skeleton.num_persons)
    clips = [[motion.body(person) for person in persons] for motion in motions]
    file = _File()
    for person in persons:
        _add_figure(file, person, clips[0][person], skeleton)
    for motion, bodies, name in zip(motions, clips, _names(motions), strict=True):
        _add_clip(file, bodies, fps=motion.fps, name=name, moves_bones=len(motions) > 1)
    path.write_bytes(file.packed())


class _File:
    """A document of glTF and its numbers, while they are gathered."""

    def __init__(self) -> None:
        self._numbers = bytearray()
        parts = "nodes", "meshes", "materials", "skins", "animations", "accessors", "bufferViews"
        self.parts: dict[str, list[_Object]] = {part: [] for part in parts}
        self.roots: list[int] = []

    def add(self, part: str, **item: Any) -> int:
        """Add an item to a list of the document; its number there."""
        self.parts[part].append(item)
        return len(self.parts[part]) - 1

    def add_arrays(
        self, arrays: Sequence[NDArray], *, target: int | None = None, bounded: bool = False, **more: Any
    ) -> list[int]:
        """Add arrays [N, C] or [N] of one type as accessors of one stretch of bytes; their numbers.

        Args:
            arrays: what to add.
            target: what a stretch of a mesh is for.
            bounded: whether to note the smallest and the largest, as glTF requires of times and positions.
            more: of the accessors.
        """
        start = len(self._numbers)
        view = len(self.parts["bufferViews"])
        accessors = []
        for array in arrays:
            rows_NC = array.reshape(len(array), -1)
            item: _Object = {"bufferView": view, "byteOffset": len(self._numbers) - start}
            item |= {"componentType": _COMPONENTS[array.dtype], "count": len(rows_NC), "type": _KINDS[rows_NC.shape[1]]}
            if bounded:
                item |= {"min": rows_NC.min(axis=0).tolist(), "max": rows_NC.max(axis=0).tolist()}
            accessors.append(self.add("accessors", **item, **more))
            self._numbers += np.ascontiguousarray(array).tobytes()
            self._numbers += bytes(-len(self._numbers) % 4)
        size = {"buffer": 0, "byteOffset": start, "byteLength": len(self._numbers) - start}
        self.add("bufferViews", **size, **({"target": target} if target else {}))
        return accessors

    def packed(self) -> bytes:
        """The file: a header, and two chunks of whole words."""
        document = {
            "asset": {"version": "2.0", "generator": "InterMoE"},
            "scene": 0,
            "scenes": [{"nodes": self.roots}],
            **self.parts,
            "buffers": [{"byteLength": len(self._numbers)}],
        }
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(
            "utf-8", "replace"
        )
        text += b" " * (-len(text) % 4)
        chunks = b"".join(
            struct.pack("<II", len(chunk), kind) + chunk
            for kind, chunk in ((_JSON, text), (_BIN, bytes(self._numbers)))
        )
        return struct.pack("<III", _MAGIC, 2, 12 + len(chunks)) + chunks


def _add_figure(file: _File, person: int, body: PosedBody, skeleton: Skeleton) -> None:
    """Add a person in the T-pose: nodes, mesh and skin; it stands where that person begins."""
    name = _person(person)
    offset_J3 = body.offset_J3.double().numpy().copy()
    joints_J3 = offset_J3.copy()
    for parent, joint in skeleton.edges:
        joints_J3[joint] += joints_J3[parent]
    joints_J3[:, 1] -= joints_J3[:, 1].min()
    offset_J3[0] = joints_J3[0]
    offset_J3[0, [0, 2]] = body.root_T3[0, [0, 2]].numpy()
    first = file.add("nodes", name=name) + 1
    file.parts["nodes"][first - 1]["children"] = [first]
    for joint, joint_name in enumerate(skeleton.joint_names):
        node: _Object = {"name": f"{name}_{joint_name}", "translation": offset_J3[joint].astype(np.float32).tolist()}
        if children := [first + child for parent, child in skeleton.edges if parent == joint]:
            node["children"] = children
        file.add("nodes", **node)
    # Matrices by columns: they move each joint of the T-pose to the origin.
    inverse_J44 = np.tile(np.eye(4, dtype=np.float32), (skeleton.num_joints, 1, 1))
    inverse_J44[:, 3, :3] = -joints_J3
    (matrices,) = file.add_arrays([inverse_J44])
    joints = list(range(first, first + skeleton.num_joints))
    skin = file.add("skins", name=name, joints=joints, skeleton=first, inverseBindMatrices=matrices)
    primitives = [_primitive(file, person, *side) for side in body_mesh(joints_J3, skeleton).items()]
    mesh = file.add("meshes", name=f"{name}_body", primitives=primitives)
    # At the top: a mesh that joints carry takes nothing from a node above it, which checkers warn of.
    file.roots += [first - 1, file.add("nodes", name=f"{name}_body", mesh=mesh, skin=skin)]


def _primitive(file: _File, person: int, side: str, surface: Surface) -> _Object:
    # Screens' colours; glTF takes light.
    colour = side_colour(PERSON_COLOURS[person], side)
    light = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    material = file.add(
        "materials",
        name=f"{_person(person)}_{side}",
        pbrMetallicRoughness={"baseColorFactor": [*light.tolist(), 1], "metallicFactor": 0, "roughnessFactor": 0.7},
    )
    # Bytes that add up to 255: the first takes what rounding leaves.
    weight_V4 = np.floor(surface.weight_V4 * 255).astype(np.uint8)
    weight_V4[:, 0] += 255 - weight_V4.sum(axis=1, dtype=np.uint8)
    places = file.add_arrays([surface.position_V3.astype(np.float32)], target=_VERTICES, bounded=True)
    normals = file.add_arrays([surface.normal_V3.astype(np.float32)], target=_VERTICES)
    joints = file.add_arrays([surface.joint_V4.astype(np.uint8)], target=_VERTICES)
    weights = file.add_arrays([weight_V4], target=_VERTICES, normalized=True)
    corners = file.add_arrays([surface.corner_F3.astype(np.uint16).reshape(-1)], target=_CORNERS)
    return {
        "attributes": {"POSITION": places[0], "NORMAL": normals[0], "JOINTS_0": joints[0], "WEIGHTS_0": weights[0]},
        "indices": corners[0],
        "material": material,
    }


def _add_clip(file: _File, bodies: Sequence[PosedBody], *, fps: int, name: str, moves_bones: bool) -> None:
    """Add an animation of all people."""
    samplers: list[_Object] = []
    channels: list[_Object] = []
    time_T = (np.arange(len(bodies[0].root_T3)) / fps).astype(np.float32)
    (times,) = file.add_arrays([time_T], bounded=True)
    ends = times
    if moves_bones and len(time_T) > 1:
        (ends,) = file.add_arrays([time_T[[0, -1]]], bounded=True)

    def add(joint: int, path: str, when: int, values: int) -> None:
        samplers.append({"input": when, "output": values, "interpolation": "LINEAR"})
        channels.append({"sampler": len(samplers) - 1, "target": {"node": nodes[joint], "path": path}})

    for person, body in enumerate(bodies):
        nodes = file.parts["skins"][person]["joints"]
        turns = file.add_arrays(list(_steady(body.rotation_TJ33).transpose(1, 0, 2)))
        for joint, turn in enumerate(turns):
            add(joint, "rotation", times, turn)
        add(0, "translation", times, file.add_arrays([body.root_T3.numpy().astype(np.float32)])[0])
        if moves_bones:
            held = [
                np.tile(offset, (min(len(time_T), 2), 1)) for offset in body.offset_J3[1:].numpy().astype(np.float32)
            ]
            for joint, offset in enumerate(file.add_arrays(held), start=1):
                add(joint, "translation", ends, offset)
    file.add("animations", name=name, samplers=samplers, channels=channels)


def _steady(rotation_TJ33: torch.Tensor) -> NDArray[np.float32]:
    """Quaternions [T, J, 4], from frame to frame by the shorter way: of the two for a rotation, that near the last."""
    quaternion = quaternion_from_matrix(rotation_TJ33.double()).numpy()
    for before, after in pairwise(quaternion):
        after[(before * after).sum(axis=-1) < 0] *= -1
    return quaternion.astype(np.float32)


def _names(motions: Sequence["Motion"]) -> list[str]:
    """A name for each motion, each another."""
    names: list[str] = []
    for motion in motions:
        caption = shortened(motion.caption, _LONGEST_NAME) or "motion"
        name, number = caption, 1
        while name in names:
            number += 1
            name = f"{caption} ({number})"
        names.append(name)
    return names


def _person(person: int) -> str:
    return f"person{person + 1}"
