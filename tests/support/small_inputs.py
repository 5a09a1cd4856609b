"""A small valid input of every reader of what users and others have written."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import bodies
import bvh_pairs
import humanml3d_files
import numpy as np
import torch
from small_model import save_model, small_model
from toy_shards import change_card, write_shards

from intermoe import checkpoint
from intermoe.body.skeletons import SMPL22
from intermoe.data.card import CARD
from intermoe.data.shards import DatasetFolder
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.bvh_file import parse_bvh
from intermoe.datasets.humanml3d import HumanML3DReader
from intermoe.datasets.interhuman import InterHumanReader
from intermoe.datasets.joint_mapping import load_mapping
from intermoe.datasets.recordings import Reader
from intermoe.files import sha256
from intermoe.model import InterMoE
from intermoe.motion import Motion
from intermoe.released_weights.published_file import read as read_released
from pipelines import settings
from pipelines.sweep import file as sweep_file

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class InputReader:
    """A reader with a small valid input.

    Attributes:
        build: writes the input into a new folder.
        read: reads it; the names of what was set aside. Raises what the reader raises.
        damaged: glob of the files that are damaged.
        seal: makes the checksums fit the damaged files, as one who means harm would.
        of_files: whether it reads files; the words of a command line only come from one here.
    """

    build: Callable[[Path], None]
    read: Callable[[Path], Sequence[str]]
    damaged: str = "**/*"
    seal: Callable[[Path], None] | None = None
    of_files: bool = True


def set_aside(reader: Reader) -> list[str]:
    names = []
    for source in reader.sources():
        try:
            reader.read(source)
        except BadRecording:
            names.append(source.id)
    return names


def interhuman(folder: Path) -> None:
    for name in ("motions_processed/person1", "motions_processed/person2", "annots", "split"):
        (folder / name).mkdir(parents=True)
    for split, listed in (("train", "7\n8\n"), ("val", ""), ("test", "9\n")):
        (folder / f"split/{split}.txt").write_text(listed)
    for number in (7, 8, 9):
        for person in (1, 2):
            np.save(folder / f"motions_processed/person{person}/{number}.npy", bodies.interhuman_rows(16, person))
        (folder / f"annots/{number}.txt").write_text("They bow.\nTwo people bow.\n")
    (folder / "ignore_list.txt").write_text("9\n")
    (folder / "labels.jsonl").write_text('{"id": "7", "kind": "bow", "actor": 0}\n')


def humanml3d(folder: Path) -> None:
    data = humanml3d_files.HumanML3DFolder(folder)
    data.add("000021", humanml3d_files.rows(90), text="a man.#a/DET man/NOUN#0.0#0.0\nlater.#later/ADV#1.0#4.0\n")
    data.add("M000021", humanml3d_files.rows(41, seed=1), split="test")
    (folder / "labels.jsonl").write_text('{"id": "000021", "kind": "walk"}\n')


def bvh(folder: Path) -> None:
    bvh_pairs.folder(folder, a=(*bvh_pairs.swaying(20, 30), 30), b=(*bvh_pairs.swaying(20, 30, seed=1), 30))


def overrides(folder: Path) -> None:
    (folder / "words").write_text("moe.experts=4\ntrain.vae.batch_size=8\nname=a\nmoe.sigma=1e-3\nseed=3")


def read_overrides(folder: Path) -> tuple[()]:
    words = os.fsdecode((folder / "words").read_bytes().replace(b"\0", b"")).split("\n")
    settings.load("duet", settings.parse_overrides(words))
    return ()


def released(folder: Path, *, as_zip: bool) -> None:
    state = {"a.b": torch.ones(3, 4), "c": torch.ones(2)}
    torch.save({"state_dict": state, "epoch": 3}, folder / "a.ckpt", _use_new_zipfile_serialization=as_zip)


def seal_checkpoint(folder: Path) -> None:
    files = [file for file in sorted(folder.iterdir()) if file.name != checkpoint.MANIFEST]
    listed = {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files}
    (folder / checkpoint.MANIFEST).write_text(json.dumps({"files": listed}))


def seal_shards(folder: Path) -> None:
    card = json.loads((folder / CARD).read_bytes())
    change_card(folder, files={name: sha256(folder / name) for name in card["files"]})


def read_shards(folder: Path) -> tuple[()]:
    data = DatasetFolder.open(folder)
    for split, count in data.card.recordings.items():
        data.index(split)
        data.headers(split)
        for row in range(min(count, 4)):
            data.recording(split, row)
    for row in range(min(data.card.captions, 4)):
        data.caption(row)
    data.texts()
    return ()


def motion(folder: Path) -> None:
    position_TPJ3, rotation_TPR6 = bodies.standing_bodies(16)
    Motion(position_TPJ3, rotation_TPR6, 30, "They bow.", SMPL22).save(folder / "a.npz")


def read_motion_bvh(folder: Path) -> list[str]:
    names = []
    for file in sorted(folder.glob("*.bvh")):
        try:
            parse_bvh(file)
        except BadRecording:
            names.append(file.name)
    return names


def read_motion(folder: Path) -> tuple[()]:
    Motion.load(folder / "a.npz")
    return ()


def motion_bvh(folder: Path) -> None:
    motion(folder)
    Motion.load(folder / "a.npz").save(folder / "a.bvh")


def quietly(read: Callable[[Path], Any]) -> Callable[[Path], tuple[()]]:
    def reads(folder: Path) -> tuple[()]:
        read(folder)
        return ()

    return reads


def copied(file: Path, name: str) -> Callable[[Path], None]:
    def copy(folder: Path) -> None:
        shutil.copyfile(file, folder / name)

    return copy


def model(folder: Path) -> None:
    save_model(folder / "model", small_model())


def shards(folder: Path) -> None:
    write_shards(folder, {"train": 3, "val": 1})


def mapping(folder: Path) -> None:
    bvh_pairs.folder(folder)


read_weights = quietly(lambda folder: read_released(folder / "a.ckpt"))
READERS = {
    "interhuman": InputReader(interhuman, lambda folder: set_aside(InterHumanReader(folder))),
    "humanml3d": InputReader(humanml3d, lambda folder: set_aside(HumanML3DReader(folder))),
    "bvh pairs": InputReader(bvh, lambda folder: set_aside(bvh_pairs.open_folder(folder)), "[!m]*"),
    "mapping": InputReader(mapping, quietly(lambda folder: load_mapping(folder / "mapping.yaml")), "mapping.yaml"),
    "config": InputReader(
        copied(settings.PRESETS / "duet.yaml", "a.yaml"),
        quietly(lambda folder: settings.load(str(folder / "a.yaml"))),
    ),
    "overrides": InputReader(overrides, read_overrides, of_files=False),
    "sweep": InputReader(
        copied(_ROOT / "sweeps/smoke.yaml", "a.yaml"), quietly(lambda folder: sweep_file.load(folder / "a.yaml"))
    ),
    "released zip": InputReader(partial(released, as_zip=True), read_weights),
    "released legacy": InputReader(partial(released, as_zip=False), read_weights),
    "checkpoint": InputReader(
        model,
        quietly(lambda folder: InterMoE.load(folder / "model")),
        seal=lambda folder: seal_checkpoint(folder / "model"),
    ),
    "shards": InputReader(shards, read_shards, seal=seal_shards),
    "motion npz": InputReader(motion, read_motion),
    "motion bvh": InputReader(motion_bvh, read_motion_bvh, "*.bvh"),
}
