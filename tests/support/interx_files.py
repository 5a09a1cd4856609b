"""Inter-X's own layouts, written without the project's code.

Legend: T frames, P = 2 persons, J = 55 joints.
"""

import pickle
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray


def standing_pose(frames: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Axis-angles [T, 2, 55, 3] of two people who sway, a metre apart, and their translations [T, 2, 3]."""
    generator = np.random.default_rng(seed)
    sway_T = np.sin(np.arange(frames) / 10)[:, None, None, None]
    pose_TPJ3 = (0.2 * generator.normal(size=(2, 55, 3)) * sway_T).astype(np.float32)
    pose_TPJ3[:, :, 22:25] = 0  # jaw and eyes
    place_TP3 = np.zeros((frames, 2, 3), np.float32)
    place_TP3[:, 1, 2] = 1
    place_TP3[:, :, 0] = 0.01 * np.arange(frames)[:, None]
    return pose_TPJ3, place_TP3


class ProcessedFolder:
    """``processed_data`` of the benchmark."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("motions", "texts_processed"):
            (root / folder).mkdir(parents=True)
        for split in ("train", "val", "test"):
            h5py.File(root / f"motions/{split}.h5", "w").close()

    def add(
        self,
        id: str,
        pose_TPJ3: NDArray[np.float32],
        place_TP3: NDArray[np.float32],
        *,
        split: str = "train",
        text: str = "Two people bow.#two/NUM people/NOUN bow/VERB#0.0#0.0\n",
    ) -> None:
        rows = np.concatenate([pose_TPJ3, place_TP3[:, :, None]], axis=2)
        self.add_array(id, np.concatenate([rows[:, 0], rows[:, 1]], axis=-1), split=split)
        (self.root / f"texts_processed/{id}.txt").write_text(text, "utf-8")

    def add_array(self, id: str, array: NDArray, *, split: str = "train") -> None:
        with h5py.File(self.root / f"motions/{split}.h5", "a") as file:
            file.create_dataset(id, data=array)


class RawFolder:
    """The recordings as they are distributed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("motions", "texts", "splits", "annots"):
            (root / folder).mkdir(parents=True)
        for split in ("train", "val", "test"):
            (root / f"splits/{split}.txt").touch()

    def add(
        self,
        id: str,
        pose_TPJ3: NDArray[np.float32],
        place_TP3: NDArray[np.float32],
        *,
        split: str = "train",
        text: str = "They bow.\nTwo people bow.\nOne bows, and the other too.\n",
    ) -> None:
        (self.root / f"motions/{id}").mkdir()
        for person, name in enumerate(("P1", "P2")):
            pose_TJ3 = pose_TPJ3[:, person]
            np.savez(
                self.root / f"motions/{id}/{name}.npz",
                root_orient=pose_TJ3[:, 0],
                pose_body=pose_TJ3[:, 1:22],
                pose_lhand=pose_TJ3[:, 25:40],
                pose_rhand=pose_TJ3[:, 40:],
                trans=place_TP3[:, person],
                betas=np.zeros((1, 10), np.float32),
                gender=np.array("neutral"),
            )
        (self.root / f"texts/{id}.txt").write_text(text, "utf-8")
        with (self.root / f"splits/{split}.txt").open("a") as file:
            file.write(f"{id}\n")

    def order(self, order: object) -> None:
        (self.root / "annots/interaction_order.pkl").write_bytes(pickle.dumps(order))


def write_body_model(file: Path, joint_J3: NDArray[np.floating]) -> None:
    """A file as SMPL-X's, of a body whose every joint is the mean of two vertices."""
    vertices = np.repeat(joint_J3, 2, axis=0)
    vertices[::2] += 0.05
    vertices[1::2] -= 0.05
    regressor = np.zeros((len(joint_J3), len(vertices)))
    for joint in range(len(joint_J3)):
        regressor[joint, 2 * joint : 2 * joint + 2] = 0.5
    np.savez(file, v_template=vertices, J_regressor=regressor, part2num=np.array({"a": 1}, dtype=object))
