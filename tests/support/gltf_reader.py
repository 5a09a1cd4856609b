"""A reader of GLB files written from the specification of glTF 2.0 with numpy alone; it shares no code with the writer.

It refuses what the specification forbids of the parts that it reads.

Legend: N items, C numbers of an item, V vertices.
"""

import json
import struct
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
LARGEST = {5120: 127, 5121: 255, 5122: 32767, 5123: 65535}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


class Gltf:
    """A GLB file: its document, and what its arrays, nodes, skins and animations mean."""

    def __init__(self, data: bytes) -> None:
        magic, version, length = struct.unpack_from("<4sII", data)
        assert (magic, version, length) == (b"glTF", 2, len(data))
        chunks, at = [], 12
        while at < length:
            size, kind = struct.unpack_from("<I4s", data, at)
            assert size % 4 == 0
            chunks.append((kind, data[at + 8 : at + 8 + size]))
            at += 8 + size
        assert [kind for kind, _ in chunks] == [b"JSON", b"BIN\0"]
        self.document: dict[str, Any] = json.loads(chunks[0][1].decode("utf-8"))
        self.binary = chunks[1][1]
        (buffer,) = self.document["buffers"]
        assert 0 <= len(self.binary) - buffer["byteLength"] < 4
        assert self.document["asset"]["version"] == "2.0"

    def array(self, number: int) -> NDArray:
        """An accessor's numbers [N, C], normalised ones as floats."""
        accessor = self.document["accessors"][number]
        view = self.document["bufferViews"][accessor["bufferView"]]
        kind, width = np.dtype(TYPES[accessor["componentType"]]), WIDTHS[accessor["type"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        assert start % kind.itemsize == 0
        step = view.get("byteStride", kind.itemsize * width)
        end = accessor.get("byteOffset", 0) + step * (accessor["count"] - 1) + kind.itemsize * width
        assert end <= view["byteLength"]
        assert view.get("byteOffset", 0) + view["byteLength"] <= len(self.binary)
        found = np.ndarray((accessor["count"], width), kind, self.binary, start, (step, kind.itemsize))
        for name, extreme in (("min", found.min(axis=0)), ("max", found.max(axis=0))):
            assert accessor.get(name, extreme.tolist()) == extreme.tolist()
        return found / LARGEST[accessor["componentType"]] if accessor.get("normalized") else found

    def node(self, name: str) -> int:
        """Number of the one node with that name."""
        (number,) = [i for i, node in enumerate(self.document["nodes"]) if node.get("name") == name]
        return number

    @cached_property
    def parents(self) -> dict[int, int]:
        """The node above each node that has one; no node has two."""
        pairs = [(child, i) for i, node in enumerate(self.document["nodes"]) for child in node.get("children", ())]
        assert len({child for child, _ in pairs}) == len(pairs)
        assert {child for child, _ in pairs}.isdisjoint(self.document["scenes"][self.document["scene"]]["nodes"])
        return dict(pairs)

    def path_of(self, number: int) -> list[str]:
        """Names from the top of the scene down to a node."""
        name = self.document["nodes"][number]["name"]
        return [*(self.path_of(self.parents[number]) if number in self.parents else []), name]

    def local(self, number: int, time: float | None = None, animation: str = "") -> NDArray[np.float64]:
        """A node's own matrix [4, 4], at rest or at a time of an animation."""
        node = self.document["nodes"][number]
        assert "matrix" not in node
        rest = {"translation": [0, 0, 0], "rotation": [0, 0, 0, 1], "scale": [1, 1, 1]}
        parts = {path: np.array(node.get(path, value), np.float64) for path, value in rest.items()}
        if time is not None:
            parts |= {path: self.sampled(channel, time) for path, channel in self.channels(animation, number).items()}
        x, y, z, w = parts["rotation"]
        turn = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = turn * parts["scale"], parts["translation"]
        return matrix

    def world(self, number: int, time: float | None = None, animation: str = "") -> NDArray[np.float64]:
        """A node's matrix [4, 4] in the scene."""
        above = self.world(self.parents[number], time, animation) if number in self.parents else np.eye(4)
        return above @ self.local(number, time, animation)

    def animation(self, name: str) -> dict[str, Any]:
        """The one animation with that name."""
        (found,) = [animation for animation in self.document["animations"] if animation["name"] == name]
        return found

    def channels(self, animation: str, number: int) -> dict[str, tuple[NDArray, NDArray]]:
        """What an animation changes of a node: times [N] and values [N, C] by path."""
        found = self.animation(animation)
        result = {}
        for channel in found["channels"]:
            if channel["target"]["node"] != number:
                continue
            assert channel["target"]["path"] not in result
            sampler = found["samplers"][channel["sampler"]]
            assert sampler.get("interpolation", "LINEAR") == "LINEAR"
            accessor = self.document["accessors"][sampler["input"]]
            assert (accessor["componentType"], accessor["type"], {"min", "max"} <= set(accessor)) == (
                5126,
                "SCALAR",
                True,
            )
            times = self.array(sampler["input"])[:, 0]
            values = self.array(sampler["output"])
            assert len(times) == len(values)
            assert times[0] >= 0
            assert (np.diff(times) > 0).all()
            result[channel["target"]["path"]] = times, values
        return result

    @staticmethod
    def sampled(channel: tuple[NDArray, NDArray], time: float) -> NDArray[np.float64]:
        """The value at a time: held before the first and after the last, linear between, rotations spherically."""
        times, values = channel
        after = int(np.searchsorted(times, time, side="right"))
        if after in (0, len(times)):
            return values[max(after - 1, 0)].astype(np.float64)
        share = (time - times[after - 1]) / (times[after] - times[after - 1])
        a, b = values[after - 1 : after + 1].astype(np.float64)
        if len(a) != 4:
            return (1 - share) * a + share * b
        dot = a @ b
        angle = np.arccos(np.clip(abs(dot), 0, 1))
        if angle < 1e-6:
            return a
        return (np.sin((1 - share) * angle) * a + np.sign(dot) * np.sin(share * angle) * b) / np.sin(angle)

    def skinned(self, mesh_node: int, time: float | None = None, animation: str = "") -> NDArray[np.float64]:
        """The vertices [V, 3] of a node's mesh, all primitives in turn, where its skin carries them."""
        node = self.document["nodes"][mesh_node]
        skin = self.document["skins"][node["skin"]]
        inverse = self.array(skin["inverseBindMatrices"]).astype(np.float64).reshape(-1, 4, 4).transpose(0, 2, 1)
        assert len(inverse) == len(skin["joints"])
        moves = np.stack([self.world(joint, time, animation) for joint in skin["joints"]]) @ inverse
        result = []
        for primitive in self.document["meshes"][node["mesh"]]["primitives"]:
            names = "POSITION", "JOINTS_0", "WEIGHTS_0"
            position, joints, weights = (self.array(primitive["attributes"][name]) for name in names)
            np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
            matrix = (weights[:, :, None, None] * moves[joints]).sum(axis=1)
            result.append(np.einsum("vij,vj->vi", matrix[:, :3, :3], position) + matrix[:, :3, 3])
        return np.concatenate(result)
