"""HumanML3D's own layout, written without the project's code. Legend: T frames, J = 22 joints, F = 263."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# A person of 1.6 m who stands with hanging arms: x to the left, y up, the pelvis 0.9 m above the floor.
# fmt: off
STANDING = np.array([
    (0, .9, 0), (.06, .8, 0), (-.06, .8, 0), (0, 1, 0), (.1, .45, 0), (-.1, .45, 0), (0, 1.15, 0), (.1, .06, 0),
    (-.1, .06, 0), (0, 1.2, 0), (.1, .01, .12), (-.1, .01, .12), (0, 1.4, 0), (.08, 1.3, 0), (-.08, 1.3, 0),
    (0, 1.5, .05), (.2, 1.35, 0), (-.2, 1.35, 0), (.22, 1.1, 0), (-.22, 1.1, 0), (.23, .85, 0), (-.23, .85, 0),
])
# fmt: on


def rows(frames: int, seed: int = 0) -> NDArray[np.float32]:
    """Features [T, F] of that person, who sways, turns and goes along a curve; rotations and velocities are noise."""
    generator = np.random.default_rng(seed)
    rows_TF = generator.normal(size=(frames, 263))
    rows_TF[:, 0] = generator.normal(0.01, 0.01, frames)
    rows_TF[:, 1:3] = generator.normal((0.002, 0.03), 0.005, (frames, 2))
    sway_T = 0.01 * np.sin(np.arange(frames) / 5)
    rows_TF[:, 3] = 0.9 + sway_T
    joint_TJ3 = np.repeat(STANDING[None], frames, axis=0)
    joint_TJ3[..., 1] += sway_T[:, None]
    rows_TF[:, 4:67] = joint_TJ3[:, 1:].reshape(frames, 63)
    rows_TF[:, 259:] = generator.integers(0, 2, (frames, 4))
    return rows_TF.astype(np.float32)


def joints(rows_TF: NDArray[np.float32]) -> NDArray[np.float64]:
    """The joints [T, J, 3] of features, frame after frame."""
    place, yaw, found = np.zeros(2), 0.0, []
    for number, row in enumerate(rows_TF.astype(float)):
        if number:
            half_turn, x, z = rows_TF[number - 1, :3].astype(float)
            yaw -= 2 * half_turn
            place += (x * math.cos(yaw) + z * math.sin(yaw), z * math.cos(yaw) - x * math.sin(yaw))
        frame = [[place[0], row[3], place[1]]]
        for x, y, z in row[4:67].reshape(21, 3):
            ahead, across = z * math.cos(yaw) - x * math.sin(yaw), x * math.cos(yaw) + z * math.sin(yaw)
            frame.append([place[0] + across, y, place[1] + ahead])
        found.append(frame)
    return np.array(found)


class HumanML3DFolder:
    """The folder that others have made of AMASS."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("new_joint_vecs", "texts"):
            (root / folder).mkdir(parents=True)
        for split in ("train", "val", "test"):
            (root / f"{split}.txt").touch()

    def add(
        self,
        id: str,
        rows_TF: NDArray,
        *,
        split: str | None = "train",
        text: str | None = "a man walks.#a/DET man/NOUN walk/VERB#0.0#0.0\n",
    ) -> None:
        np.save(self.root / f"new_joint_vecs/{id}.npy", rows_TF)
        if text is not None:
            (self.root / f"texts/{id}.txt").write_text(text, "utf-8")
        if split is not None:
            with (self.root / f"{split}.txt").open("a") as file:
                file.write(f"{id}\n")
