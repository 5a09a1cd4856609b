"""The tasks of preprocessing, and the rows they get and return: no Ray here.

A task gets a job and returns a result, both plain values that pass as JSON; motions and token states go to
files.

Legend: B texts, T frames, P persons, J joints, R = J - 1, F features of a person-frame, K text tokens, W text
width.
"""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from intermoe.body.skeletons import Skeleton
from intermoe.data.card import ROWS_PER_FILE, EncoderCard
from intermoe.data.feature_moments import Moments
from intermoe.data.rows import RecordedMotion
from intermoe.data.shards import CAPTION_SCHEMA, MOTION_PARTS, MOTION_SCHEMA, open_parquet, write_rows
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.recordings import Reader, Recording, Source
from intermoe.errors import UserError, reason_of, shortened
from intermoe.places import Place, StorageError
from intermoe.text.encoders import TextEncoder, load_encoder

# By the device that encodes them: a GPU is filled by a whole file of texts.
_TEXTS_PER_BATCH = {"cpu": 32, "cuda": ROWS_PER_FILE}
_OPEN_PARTS = 16
_PART_SCHEMA = pa.schema([MOTION_SCHEMA.field(name) for name in ("id", "frames", *MOTION_PARTS)])


class ReadRecording(TypedDict):
    """A usable recording but for its motion, which is row ``row`` of the file ``part``."""

    id: str
    split: str
    frames: int
    captions: tuple[str, ...]
    words: tuple[str, ...]
    label: str
    notes: tuple[str, ...]
    part: str
    row: int


class MotionRow(TypedDict):
    """The same with its captions and their other forms as row numbers of the files of captions."""

    id: str
    split: str
    frames: int
    label: str
    part: str
    row: int
    captions: list[int]
    mirrored: list[int]
    swapped: list[int]
    swapped_mirrored: list[int]


class SetAside(TypedDict):
    """A recording that cannot be used: why not, and the file and line in which that was found, or an empty text."""

    id: str
    reason: str
    where: str


class ReadJob(TypedDict):
    """Sources, as pairs of id and split, whose motions go to one part."""

    part: str
    sources: list[tuple[str, str]]


class ReadResult(TypedDict):
    """The result of a ``ReadJob``."""

    recordings: list[ReadRecording]
    quarantine: list[SetAside]


class EncodeJob(TypedDict):
    """Texts whose token states go to one file, and the words of each."""

    file: str
    texts: list[str]
    words: list[str]


class CaptionFile(TypedDict):
    """A file of captions, its hash, the tokens of its longest text, and how many texts are cut."""

    file: str
    sha256: str
    tokens: int
    cut: int


class WriteJob(TypedDict):
    """Recordings that go to one shard; ``measured`` where the moments of their features are wanted."""

    file: str
    rows: list[MotionRow]
    measured: bool


class MotionFile(TypedDict):
    """A shard of motions, its hash, and its count, sum and sum of squares of the features [F] where measured."""

    file: str
    sha256: str
    moments: NotRequired[tuple[int, list[float], list[float]]]


def read_part(job: ReadJob, reader: Reader, folder: Place) -> ReadResult:
    """Read some sources into one file; what cannot be used is set aside, and never stops the rest."""
    recordings: list[ReadRecording] = []
    quarantine: list[SetAside] = []

    def motions() -> Iterator[dict[str, Any]]:
        for source in (Source(*plain) for plain in job["sources"]):
            try:
                read = reader.read(source)
                if not read:
                    raise BadRecording("holds no recording")
            except StorageError:  # says nothing about this item, and the next ones would all be set aside too
                raise
            except Exception as error:  # whatever else a reader stumbles over is the fault of this item alone
                quarantine.append(_set_aside(source.id, error))
                continue
            for recording in read:
                try:
                    row = _described(recording.check(reader.skeleton), job["part"], len(recordings))
                except Exception as error:
                    quarantine.append(_set_aside(recording.id, error))
                    continue
                yield {
                    "id": recording.id,
                    "frames": row["frames"],
                    **_parts_of(recording),
                }
                recordings.append(row)

    write_rows(folder / job["part"], _PART_SCHEMA, motions())
    return {"recordings": recordings, "quarantine": quarantine}


def _described(recording: Recording, part: str, row: int) -> ReadRecording:
    for caption in recording.captions:
        caption.encode()  # half a character (a lone surrogate) has no place in a file
    return {
        "id": recording.id,
        "split": recording.split,
        "frames": len(recording.position_TPJ3) if recording.features_TPF is None else len(recording.features_TPF) + 1,
        "captions": recording.captions,
        "words": recording.words,
        "label": json.dumps(recording.label, sort_keys=True),
        "notes": recording.notes,
        "part": part,
        "row": row,
    }


def _parts_of(recording: Recording) -> dict[str, NDArray[np.float32]]:
    """The columns of its motion: its features, where it has some, or what they are made of."""
    empty = np.empty(0, np.float32)
    if recording.features_TPF is not None:
        return {"position": empty, "rotation": empty, "features": np.asarray(recording.features_TPF, np.float32)}
    return {
        "position": np.asarray(recording.position_TPJ3, np.float32),
        "rotation": np.asarray(recording.rotation_TPR6, np.float32),
        "features": empty,
    }


def _set_aside(id: str, error: Exception) -> SetAside:
    if isinstance(error, BadRecording):
        return {"id": id, "reason": shortened(error.reason), "where": shortened(error.where)}
    # What torch raises has no class of its own.
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        reason = f"{id!r} needs more memory than there is ({reason_of(error)})"
    else:
        reason = f"{type(error).__name__}: {error}"
    return {"id": id, "reason": shortened(reason), "where": ""}


@lru_cache(1)
def _loaded(name: str, text_folder: Path | None, device: str) -> TextEncoder:
    """The encoder on a device, loaded once per process."""
    return load_encoder(name, text_folder).to(device)


def encoding_device() -> str:
    """The device that encodes captions in this process: Ray shows a task the GPUs that it was given, and no others."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def write_captions(job: EncodeJob, encoder: EncoderCard, text_folder: Path | None, folder: Place) -> CaptionFile:
    """Encode the texts of a job into one file."""
    torch.set_num_threads(1)  # how a sum is split over threads shows in its last bits
    device = encoding_device()
    loaded = _loaded(encoder.name, text_folder, device)
    if loaded.sha256 != encoder.sha256:
        raise UserError(f"the weights of {encoder.name} are not the same on all nodes", where=text_folder)
    encoded = _caption_rows(loaded, job["texts"], _TEXTS_PER_BATCH[device])
    rows = [row | {"words": words} for row, words in zip(encoded, job["words"], strict=True)]
    checksum = write_rows(folder / job["file"], CAPTION_SCHEMA, rows)
    return {
        "file": job["file"],
        "sha256": checksum,
        "tokens": max(row["tokens"] for row in rows),
        "cut": sum(bool(loaded.left_out(text)) for text in job["texts"]),
    }


def _caption_rows(encoder: TextEncoder, texts: Sequence[str], texts_per_batch: int) -> Iterator[dict[str, Any]]:
    for start in range(0, len(texts), texts_per_batch):
        batch = texts[start : start + texts_per_batch]
        encoded = encoder.encode(batch)
        for text, state_KW, mask_K, eot in zip(batch, encoded.states_BKW, encoded.mask_BK, encoded.eot_B, strict=True):
            valid_KW = state_KW[mask_K].numpy()
            yield {"text": text, "tokens": len(valid_KW), "eot": int(eot), "state": valid_KW}


def write_shard(job: WriteJob, skeleton: Skeleton, folder: Place) -> MotionFile:
    """Gather a shard's recordings from the parts; with the moments of their features, where they are wanted."""
    torch.set_num_threads(1)
    part = lru_cache(_OPEN_PARTS)(lambda name: open_parquet(folder / "parts" / name))
    moments: list[Moments] = []

    def motions() -> Iterator[dict[str, Any]]:
        for row in job["rows"]:
            table = part(row["part"]).read_row_group(row["row"], list(MOTION_PARTS), use_threads=False)
            parts = {name: table[name][0].values.to_numpy() for name in MOTION_PARTS}
            if job["measured"]:
                moments.append(Moments.of(RecordedMotion.of_parts(parts, row["frames"], skeleton), skeleton))
            yield row | parts

    checksum = write_rows(folder / job["file"], MOTION_SCHEMA, motions())
    shard: MotionFile = {"file": job["file"], "sha256": checksum}
    if moments:
        total = Moments.total(moments)
        shard["moments"] = (total.count, total.sum_F.tolist(), total.square_F.tolist())
    return shard
