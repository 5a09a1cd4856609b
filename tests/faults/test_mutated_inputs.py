"""Inputs that are damaged at random, seeded: each is read, refused in one line or set aside; nothing else, and soon."""

import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import bodies
import bvh_pairs
import numpy as np
import pytest
import torch
from small_model import save_model, small_model
from toy_shards import write_shards

from intermoe.data.shards import DatasetFolder
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.interhuman import InterHumanReader
from intermoe.datasets.joint_mapping import load_mapping
from intermoe.datasets.recordings import Reader
from intermoe.errors import LONGEST_MESSAGE, UserError
from intermoe.model import InterMoE
from intermoe.released_weights import read as read_released
from pipelines import settings
from pipelines.sweep import file as sweep_file

SWEEP = Path(__file__).resolve().parents[2] / "sweeps" / "smoke.yaml"
_SECONDS = 10

Outcome = str
Read = Callable[[Path], Outcome]


def interhuman(folder: Path) -> None:
    for name in ("motions_processed/person1", "motions_processed/person2", "annots", "split"):
        (folder / name).mkdir(parents=True)
    for split in ("train", "val", "test"):
        (folder / f"split/{split}.txt").write_text("7\n" if split == "train" else "")
    for person in (1, 2):
        np.save(folder / f"motions_processed/person{person}/7.npy", bodies.interhuman_rows(20, person))
    (folder / "annots/7.txt").write_text("They bow.\nTwo people bow.\n")
    (folder / "ignore_list.txt").write_text("8\n")
    (folder / "labels.jsonl").write_text('{"id": "7", "kind": "bow", "actor": 0}\n')


def bvh(folder: Path) -> None:
    folder.mkdir()
    bvh_pairs.folder(folder, a=(*bvh_pairs.swaying(20, 30), 30), b=(*bvh_pairs.swaying(20, 30, seed=1), 30))


def mapping(folder: Path) -> None:
    folder.mkdir()
    bvh_pairs.folder(folder)
    (folder / "pairs.csv").unlink()


def config(folder: Path) -> None:
    folder.mkdir()
    shutil.copy(settings.PRESETS / "duet.yaml", folder / "config.yaml")


def sweep(folder: Path) -> None:
    folder.mkdir()
    shutil.copy(SWEEP, folder / "sweep.yaml")


def released(folder: Path) -> None:
    folder.mkdir()
    torch.save({"state_dict": {"a.b": torch.ones(3, 4), "c": torch.ones(2)}, "epoch": 3}, folder / "weights.ckpt")


def model(folder: Path) -> None:
    save_model(folder, small_model())


def shards(folder: Path) -> None:
    write_shards(folder, {"train": 3, "val": 1})


def read_recordings(reader: Reader) -> Outcome:
    sources = reader.sources()
    outcomes = []
    for source in sources:
        try:
            outcomes.append("read" if reader.read(source) else "empty")
        except BadRecording:
            outcomes.append("set aside")
    assert len(outcomes) == len(sources)
    return "set aside" if "set aside" in outcomes else "read"


def read_shards(folder: Path) -> Outcome:
    data = DatasetFolder.open(folder)
    for split, count in data.card.recordings.items():
        data.index(split)
        for row in range(count):
            data.recording(split, row)
    data.texts()
    return "read"


def done(_value: object) -> Outcome:
    return "read"


KINDS: dict[str, tuple[Callable[[Path], None], Read]] = {
    "interhuman": (interhuman, lambda folder: read_recordings(InterHumanReader(folder))),
    "bvh": (bvh, lambda folder: read_recordings(bvh_pairs.open_folder(folder))),
    "mapping": (mapping, lambda folder: done(load_mapping(folder / "mapping.yaml"))),
    "config": (config, lambda folder: done(settings.load(str(folder / "config.yaml")))),
    "sweep": (sweep, lambda folder: done(sweep_file.load(folder / "sweep.yaml"))),
    "released": (released, lambda folder: done(read_released(folder / "weights.ckpt"))),
    "model": (model, lambda folder: done(InterMoE.load(folder))),
    "shards": (shards, read_shards),
}


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The content with one to three damages."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        # Most of what a format means stands in its first bytes.
        place = draw.randrange(min(len(changed), draw.choice((128, 1 << 30))) + 1)
        piece = changed[place : place + draw.randint(1, 64)]
        noise = draw.choice(
            (draw.randbytes(3), b"[" * 9, b"&a [*a]", b"\xcb", b"!!int x", b'"\\ud800"', b"9" * 400, b"\0")
        )
        kind = draw.choice(("flip", "cut", "insert", "delete", "duplicate", "append"))
        if kind == "flip" and place < len(changed):
            changed[place] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del changed[place:]
        elif kind == "insert":
            changed[place:place] = noise
        elif kind == "delete":
            del changed[place : place + len(piece)]
        elif kind == "duplicate":
            changed[place:place] = piece
        else:
            changed += noise
    return bytes(changed)


@contextmanager
def time_limit() -> Iterator[None]:
    def end(*_: object) -> None:
        raise TimeoutError(f"still reading after {_SECONDS} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome_of(read: Read, folder: Path) -> Outcome:
    with time_limit():
        try:
            return read(folder)
        except UserError as error:
            said = str(error)
            assert said.isprintable()
            # The path before what is said may be of any length.
            told, _, allowed = said.partition(" (allowed: ")
            assert len(told.removeprefix(f"{folder}/")) <= LONGEST_MESSAGE + len("motions/train-00000.parquet: ")
            assert len(allowed) <= LONGEST_MESSAGE
            return "refused"


def check(kind: str, inputs: int, folder: Path) -> Counter[Outcome]:
    """Read so many damaged inputs of a kind; what they came to."""
    build, read = KINDS[kind]
    whole = folder / "whole"
    build(whole)
    assert read(whole) == "read"
    names = sorted(str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file())
    outcomes: Counter[Outcome] = Counter()
    for seed in range(inputs):
        draw = random.Random(f"{kind} {seed}")
        # In a folder of its own: what was learned of the last one's files counts for nothing here.
        damaged = folder / str(seed)
        shutil.copytree(whole, damaged)
        file = damaged / draw.choice(names)
        file.write_bytes(mutated(file.read_bytes(), draw))
        try:
            outcomes[outcome_of(read, damaged)] += 1
        except BaseException as error:
            error.add_note(f"{kind}, seed {seed}: {file}")
            raise
        shutil.rmtree(damaged)
    return outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_input_is_read_refused_or_set_aside(tmp_path, kind):
    outcomes = check(kind, 40, tmp_path)
    assert outcomes.total() == 40
    assert outcomes["refused"] + outcomes["set aside"] > 0


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_damaged_inputs_are_read_refused_or_set_aside(tmp_path, kind):
    assert check(kind, 1250, tmp_path).total() == 1250
