"""The data set folder that ``intermoe preprocess`` publishes: its layout, and reading single rows of it.

::

    dataset.json                       the card (card.py): what is in the folder, with the SHA-256 of every file
    motions/<split>-00000.parquet      one recording a row, sorted by id
    captions/00000.parquet             one distinct caption a row, sorted; mirrored and swapped forms among them
    quarantine.jsonl                   what could not be used: {"id": ..., "reason": ...}
    notes.jsonl                        what was put right while reading: {"id": ..., "note": ...}

A row is a row group of its own, not compressed and without dictionaries, so that training reads the rows it draws and
nothing else. Row ``i`` of a split is row ``i mod R`` of its file ``i div R``; R stands on the card.

Legend: T frames, P persons, J joints, R = J - 1, K text tokens, W text width, F features of a person-frame.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from upath import UPath

from intermoe.body.conventions import SPLITS
from intermoe.body.feature_layout import FeatureLayout
from intermoe.body.features import Normaliser
from intermoe.body.skeletons import SKELETONS, skeleton_named
from intermoe.config import Config
from intermoe.data.card import CARD, DatasetCard, read_card, shard_name
from intermoe.data.draws import Draw
from intermoe.data.rows import CaptionRow, MotionRow, RecordedMotion, RecordingHeader, SplitIndex
from intermoe.errors import UserError
from intermoe.files import make_folder, sha256, whole_file
from intermoe.places import Place, absolute, as_place, check_storage, is_remote, storage_errors
from intermoe.text.captions import Persons, named_first

_FLOATS = pa.list_(pa.field("element", pa.float32(), nullable=False))
_NUMBERS = pa.list_(pa.field("element", pa.int32(), nullable=False))
MOTION_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("frames", pa.int32(), nullable=False),
        # Of the feature kind "world" the features are made of positions and rotations; of the kind "heading" they are
        # the data set's own, and the other two are empty.
        pa.field("position", _FLOATS, nullable=False),  # T x P x J x 3, flat
        pa.field("rotation", _FLOATS, nullable=False),  # T x P x R x 6, flat
        pa.field("features", _FLOATS, nullable=False),  # (T - 1) x P x F, flat
        pa.field("captions", _NUMBERS, nullable=False),  # rows of the captions
        pa.field("mirrored", _NUMBERS, nullable=False),  # for each caption the row of its mirrored form
        pa.field("swapped", _NUMBERS, nullable=False),  # ... of its form with the persons in each other's place
        pa.field("swapped_mirrored", _NUMBERS, nullable=False),  # ... of both
        pa.field("label", pa.string(), nullable=False),  # JSON
    ]
)
MOTION_PARTS = ("position", "rotation", "features")
"""The columns of a recording's motion."""
_HEADER = ["id", "captions", "mirrored", "swapped", "swapped_mirrored", "label"]
CAPTION_SCHEMA = pa.schema(
    [
        pa.field("text", pa.string(), nullable=False),
        pa.field("words", pa.string(), nullable=False),  # with their parts of speech; empty where they are not known
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("eot", pa.int32(), nullable=False),
        pa.field("state", _FLOATS, nullable=False),  # tokens x W, flat; only tokens that count
    ]
)
# Open files and caption rows kept by one process: a row of CLIP's states takes 0.24 MB.
_OPEN_FILES, _KEPT_CAPTIONS = 128, 512
_REMOTE_SECONDS = 60.0


class DatasetFolder:
    """A published data set, read a row at a time, by any thread; files stay open between reads.

    Attributes:
        path: the folder.
        card: what ``dataset.json`` says.
    """

    def __init__(self, path: Place, card: DatasetCard) -> None:
        self.path, self.card = path, card
        self._skeleton = skeleton_named(card.skeleton)
        # An open Parquet file may be read by one thread at a time; a process ends if two do.
        self._reading = Lock()
        self._file = lru_cache(_OPEN_FILES)(self._open_file)
        self.caption = lru_cache(_KEPT_CAPTIONS)(self._caption)
        self.index = lru_cache(len(SPLITS))(self._index)
        self.headers = lru_cache(len(SPLITS))(self._headers)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy sent to another process opens the folder again there."""
        return DatasetFolder.open, (self.path,)

    @classmethod
    def open(cls, path: str | Place) -> "DatasetFolder":
        """The data set at that place; a process opens a folder once, and asks once a minute whether a URI has changed.

        Raises:
            UserError: no such folder, no data set in it, a layout of another version, or files missing.
        """
        path = absolute(as_place(path))
        if is_remote(path):
            return _opened(path, _remote_state(path / CARD, int(time.monotonic() // _REMOTE_SECONDS)))
        if not path.is_dir():
            raise UserError("no such folder", where=path, allowed="a folder that `intermoe preprocess` wrote")
        card = path / CARD
        if not card.is_file():
            raise UserError(f"holds no {CARD}, so it is no data set; `intermoe preprocess` makes one", where=path)
        status = card.stat()
        return _opened(path, f"{status.st_ino} {status.st_mtime_ns} {status.st_size}")

    def verify(self) -> None:
        """Check every file against its checksum on the card.

        Raises:
            UserError: a file was changed.
        """
        for file, digest in self.card.files.items():
            if sha256(self.path / file) != digest:
                raise _changed(self.path, file)

    def recording(self, split: str, row: int) -> MotionRow:
        """The recording in that row of the split, read from its row group alone.

        Raises:
            IndexError: the split has no such row.
            UserError: the file is damaged.
        """
        if not 0 <= row < self._rows(split):
            raise IndexError(f"row {row} of {self._rows(split)} in split {split!r}")
        values = self._row(f"motions/{split}", row)
        with self._value_errors(f"motions/{split}", row):
            parts = {name: _array(values[name]) for name in MOTION_PARTS}
            motion = RecordedMotion.of_parts(parts, values["frames"].as_py(), self._skeleton)
            return MotionRow(**_header({name: values[name].as_py() for name in _HEADER}), **vars(motion))

    def texts(self) -> list[str]:
        """The texts of all captions, by their rows; reads no states."""
        return self._of_captions("text")

    def words(self) -> list[str]:
        """The words of all captions with their parts of speech, by their rows (see ``Recording.words``)."""
        return self._of_captions("words")

    def _of_captions(self, name: str) -> list[str]:
        table = self._columns("captions/", self.card.captions, [name])
        with self._value_errors("captions/"):
            return table[name].to_pylist()

    def normaliser(self) -> Normaliser:
        """The normaliser of the training split's features; those of the kind "heading" share a deviation by kind."""
        mean_F, std_F = torch.tensor(self.card.mean), torch.tensor(self.card.std)
        skeleton = skeleton_named(self.card.skeleton)
        if skeleton.features == "heading":
            std_F = FeatureLayout.of(skeleton).shared_by_kind(std_F)
        return Normaliser.from_moments(mean_F, std_F)

    def check_persons(self, persons: Persons) -> None:
        """Raise ``UserError`` where persons are to be "named" and the captions' names may mean either of the two."""
        if persons == "named" and not self.card.names_persons:
            raise UserError(
                "data.persons is 'named', but the first person of its captions may be either of the two",
                where=self.path,
                allowed="data.persons=drawn",
            )

    def in_named_order(self, recording: RecordingHeader, drawn: Draw) -> Draw:
        """The same draw with the person first whom its caption names first, if it names one."""
        first = named_first(self.caption(recording.caption(replace(drawn, swap=False, mirror=False))).text)
        return drawn if first is None else replace(drawn, swap=first == 1)

    def _caption(self, row: int) -> CaptionRow:
        """The caption in that row; the last few hundred are kept in memory."""
        if not 0 <= row < self.card.captions:
            raise IndexError(f"caption {row} of {self.card.captions}")
        values = self._row("captions/", row)
        with self._value_errors("captions/", row):
            state_KW = _array(values["state"]).reshape(values["tokens"].as_py(), self.card.encoder.width)
            return CaptionRow(values["text"].as_py(), state_KW, values["eot"].as_py(), values["words"].as_py())

    def _index(self, split: str) -> SplitIndex:
        """Ids and lengths of all recordings of a split; reads no motion."""
        table = self._columns(f"motions/{split}", self._rows(split), ["id", "frames"])
        with self._value_errors(f"motions/{split}"):
            return SplitIndex(np.array(table["id"].to_pylist(), dtype=np.str_), table["frames"].to_numpy())

    def _headers(self, split: str) -> list[RecordingHeader]:
        """The headers of all recordings of a split, by their rows; reads no motion."""
        table = self._columns(f"motions/{split}", self._rows(split), _HEADER)
        with self._value_errors(f"motions/{split}"):
            return [RecordingHeader(**_header(values)) for values in table.to_pylist()]

    def _rows(self, split: str) -> int:
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r}", allowed=", ".join(SPLITS))
        return self.card.recordings.get(split, 0)

    def _row(self, stem: str, row: int) -> Mapping[str, Any]:
        number, group = divmod(row, self.card.rows_per_file)
        file = shard_name(stem, number)
        with self._reading, _read_errors(self.path, file):
            table = self._file(file).read_row_group(group, use_threads=False)
            return {name: table[name][0] for name in table.column_names}

    def _columns(self, stem: str, rows: int, names: list[str]) -> pa.Table:
        """Columns of all rows, of which there are so many."""
        schema = CAPTION_SCHEMA if stem == "captions/" else MOTION_SCHEMA
        tables = [pa.schema([schema.field(name) for name in names]).empty_table()]
        for number in range(-(-rows // self.card.rows_per_file)):
            file = shard_name(stem, number)
            with self._reading, _read_errors(self.path, file):
                tables.append(self._file(file).read(names))
        return pa.concat_tables(tables)

    @contextmanager
    def _value_errors(self, stem: str, row: int = 0) -> Iterator[None]:
        """Turn what the values of a file raise, where they are not those of a data set, into one line."""
        try:
            yield
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise _damaged(self.path, shard_name(stem, row // self.card.rows_per_file), error) from None

    def _open_file(self, file: str) -> pq.ParquetFile:
        # At a URI, where a few rows are asked for and not the file, the pages have checksums of their own.
        if not is_remote(self.path) and _checksum(self.path / file) != self.card.files.get(file):
            raise _changed(self.path, file)
        parquet = open_parquet(self.path / file)
        if not parquet.schema_arrow.equals(CAPTION_SCHEMA if file.startswith("captions/") else MOTION_SCHEMA):
            raise ValueError("its columns are not those of a data set")
        return parquet


@contextmanager
def _read_errors(folder: Place, file: str) -> Iterator[None]:
    """Turn what a damaged file raises into one line, and what its storage raises into another."""
    with storage_errors(folder):
        try:
            yield
        except (pa.ArrowException, OSError, LookupError, ValueError) as error:
            # What Arrow finds wrong with a file has no number of an error of the system.
            if is_remote(folder) and isinstance(error, OSError) and (error.errno or isinstance(error, TimeoutError)):
                raise
            raise _damaged(folder, file, error) from None


def open_parquet(file: Place) -> pq.ParquetFile:
    """A Parquet file of which what is asked for is read, and nothing else."""
    if not is_remote(file):
        return pq.ParquetFile(file, memory_map=True, page_checksum_verification=True)
    with storage_errors(file):
        # Arrow joins the columns of a row to one request; the file object is to read neither ahead nor twice.
        stream = file.fs.open(file.path, "rb", cache_type="none")
        return pq.ParquetFile(stream, pre_buffer=True, page_checksum_verification=True)


def _checksum(file: Path) -> str:
    """The SHA-256 of a file, which a process reads once, and again when the file has been written anew."""
    status = file.stat()
    return _checksum_of(file, f"{status.st_ino} {status.st_mtime_ns} {status.st_size}")


@lru_cache(4096)
def _checksum_of(file: Path, written: str) -> str:  # noqa: ARG001 - tells a rewritten file
    return sha256(file)


def _changed(path: Place, file: str) -> UserError:
    return UserError(f"{file} does not match its checksum in {CARD}: the data set is damaged", where=path)


@lru_cache(8)
def _remote_state(card: UPath, minute: int) -> str:  # noqa: ARG001 - what was learned is forgotten with the minute
    with storage_errors(card):
        try:
            return str(card.fs.ukey(card.path))
        except FileNotFoundError:
            check_storage(card)
            raise UserError(
                f"holds no {CARD}, so it is no data set; `intermoe preprocess` makes one", where=card.parent
            ) from None


@lru_cache(8)
def _opened(path: Place, written: str) -> DatasetFolder:  # noqa: ARG001 - tells a rewritten card
    card = read_card(path)
    with storage_errors(path):
        there = set(path.fs.find(path.path)) if is_remote(path) else set()
    for file in card.files:
        if not ((path / file).path in there if is_remote(path) else (path / file).is_file()):
            raise UserError(f"{file} is missing: the data set is damaged", where=path)
    return DatasetFolder(path, card)


def write_rows(file: Place, schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> str:
    """Write rows, one at a time, each a row group; the same rows give the same bytes. Returns their SHA-256."""
    make_folder(file.parent)
    with whole_file(file) as partial:
        with (
            partial.open("wb") as stream,
            pq.ParquetWriter(
                stream,
                schema,
                compression="NONE",
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
            ) as to,
        ):
            for row in rows:
                columns = [_column(row[field.name], field.type) for field in schema]
                to.write_table(pa.Table.from_arrays(columns, schema=schema))
        return sha256(partial)


def _column(value: Any, kind: pa.DataType) -> pa.Array:
    """One value as a column; arrays of numbers of any shape go in flat, without a copy."""
    if isinstance(value, np.ndarray):
        flat = pa.array(np.ascontiguousarray(value).reshape(-1), kind.value_type)
        return pa.ListArray.from_arrays(pa.array([0, len(flat)], pa.int32()), flat, type=kind)
    return pa.array([value], kind)


def _header(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a ``RecordingHeader`` from the row's columns."""
    return {
        "id": values["id"],
        "label": json.loads(values["label"]),
        **{name: tuple(values[name]) for name in _HEADER if name not in ("id", "label")},
    }


def _array(value: pa.ListScalar) -> NDArray[np.float32]:
    return value.values.to_numpy()


def _damaged(path: Place, file: str, error: Exception) -> UserError:
    return UserError(f"{file} cannot be read ({error}): the data set is damaged", where=path)


class DataConfig(Config):
    """The data that a model is made for.

    Attributes:
        skeleton: name of the joints' skeleton.
        encoder: the frozen text encoder whose token states condition the model.
        max_frames: longer recordings are cropped at random; also the longest motion that can be generated.
        persons: which person is the first: "drawn" at random, as published, or "named", the one whom the caption names
            first. A prompt that names the second person first is then read with the names exchanged, and the persons
            of its motion change places.
    """

    skeleton: str = "smpl22"
    encoder: Literal["minilm", "clip"] = "clip"
    max_frames: int = Field(default=300, ge=16, le=3000)
    persons: Persons = "drawn"

    @field_validator("skeleton")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SKELETONS:
            raise ValueError(f"one of {', '.join(SKELETONS)}")
        return name
