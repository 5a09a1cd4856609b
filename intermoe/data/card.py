"""The card of a data set folder: what is in it, its statistics, and checksums of all its files and of the card itself.

Legend: F features of a person-frame, R rows of a file.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from intermoe.body.conventions import FPS, SPLITS
from intermoe.body.skeletons import SKELETONS, skeleton_named
from intermoe.config import Config
from intermoe.errors import UserError
from intermoe.files import write_json
from intermoe.places import Place, read_bytes

CARD = "dataset.json"
QUARANTINE = "quarantine.jsonl"
NOTES = "notes.jsonl"
ROWS_PER_FILE = 256
_FILE = re.compile(rf"motions/(?:{'|'.join(SPLITS)})-\d{{5,}}\.parquet|captions/\d{{5,}}\.parquet|{QUARANTINE}|{NOTES}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# The key under which the card's own checksum stands in its file.
_CHECKSUM = "sha256"


class EncoderCard(Config):
    """The text encoder whose states the data set holds."""

    name: str
    width: int = Field(ge=1)
    sha256: str = Field(pattern=_SHA256.pattern)


class DatasetCard(Config):
    """The description of a data set folder.

    Attributes:
        version: of the folder's layout.
        name: of the data set.
        reader: class that read the raw recordings.
        skeleton: name of the joints' skeleton.
        names_persons: whether whom the captions call the first person is the first of the motion's two.
        fps: frames a second.
        encoder: of the captions.
        recordings: number of them in each split.
        frames: of all recordings.
        captions: distinct texts, mirrored and swapped forms included.
        max_tokens: tokens of the longest text.
        quarantined: recordings set aside.
        captions_cut: of them, those whose end is beyond the tokens of the encoder.
        noted: recordings in which something was put right while reading.
        rows_per_file: rows R of a Parquet file; the last of a split may hold fewer.
        mean: of each feature over the training split [F].
        std: standard deviation of each feature [F], as measured.
        files: SHA-256 of each file, by its path in the folder.
    """

    version: Literal[4] = 4
    name: str
    reader: str
    skeleton: str
    # Cards that were written before this was asked do not say it.
    names_persons: bool = Field(default_factory=lambda values: values.get("reader") != "InterXReader")
    fps: int = Field(default=FPS, ge=1)
    encoder: EncoderCard
    recordings: dict[Literal["train", "val", "test"], int]
    frames: int = Field(ge=1)
    captions: int = Field(ge=1)
    max_tokens: int = Field(ge=1)
    quarantined: int = Field(ge=0)
    captions_cut: int = Field(default=0, ge=0)
    noted: int = Field(default=0, ge=0)
    rows_per_file: int = Field(default=ROWS_PER_FILE, ge=1)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    files: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.skeleton not in SKELETONS:
            raise ValueError(f"skeleton {self.skeleton!r} is not one of {', '.join(SKELETONS)}")
        if not len(self.mean) == len(self.std) == skeleton_named(self.skeleton).num_features:
            raise ValueError(f"mean and std have as many numbers as {self.skeleton} has features")
        if self.fps != (fps := skeleton_named(self.skeleton).fps):
            raise ValueError(f"fps = {self.fps}, but {self.skeleton} is recorded at {fps}")
        for file, digest in self.files.items():
            if not (_FILE.fullmatch(file) and _SHA256.fullmatch(digest)):
                raise ValueError(f"files lists {file!r}, which no data set holds")
        rows = {f"motions/{split}": count for split, count in self.recordings.items()} | {"captions/": self.captions}
        for stem, count in rows.items():
            for number in range(-(-count // self.rows_per_file)):
                if (file := shard_name(stem, number)) not in self.files:
                    raise ValueError(f"files lists no {file}, which {count} rows need")
        return self


def shard_name(stem: str, number: int) -> str:
    """Path of a file of rows in the folder.

    Example:
        >>> shard_name("motions/train", 2), shard_name("captions/", 0)
        ('motions/train-00002.parquet', 'captions/00000.parquet')
    """
    return f"{stem}{'' if stem.endswith('/') else '-'}{number:05d}.parquet"


def write_card(folder: Place, card: DatasetCard) -> None:
    """Write the card of a folder, with its checksum; it is written last, since it makes the folder a data set."""
    values = card.model_dump(mode="json")
    write_json(folder / CARD, values | {_CHECKSUM: _checksum(values)})


def read_card(folder: Place) -> DatasetCard:
    """The card of a folder.

    Raises:
        UserError: it is not JSON, of another version, not what a card holds, or does not match its own checksum.
    """
    where = folder / CARD
    try:
        values = json.loads(read_bytes(where))
    except (ValueError, RecursionError):
        raise UserError("not valid JSON", where=where) from None
    if not isinstance(values, dict):
        raise UserError("holds no keys", where=where)
    checksum = values.pop(_CHECKSUM, None)
    card = DatasetCard.parse(values, where=where)
    if checksum != _checksum(values):
        raise UserError("does not match its own checksum: the data set is damaged", where=where)
    return card


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
