"""``pairs.csv``: which two files are one recording, its split and its captions."""

import csv
import io
from dataclasses import dataclass
from pathlib import PurePosixPath

from intermoe.body.conventions import SPLITS
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.recordings import check_id
from intermoe.datasets.text_files import read_text
from intermoe.errors import UserError
from intermoe.places import Place, exists, is_file, is_folder

INDEX = "pairs.csv"
_COLUMNS = ("id", "person1", "person2", "split", "captions")


@dataclass(frozen=True)
class Pair:
    """One row of the index, every column a stripped text.

    Attributes:
        id: of the recording.
        persons: file names of person 1 and person 2, relative to the folder.
        split: one of train, val and test where the row is sound.
        captions: joined by ``|``.
        line: of the row in the index.
        fault: why the row cannot be understood, if it cannot.
    """

    id: str
    persons: tuple[str, str]
    split: str
    captions: str
    line: int
    fault: str = ""

    def check(self) -> None:
        """Raise ``BadRecording`` where the row is not one of a recording."""
        where = f"{INDEX}, line {self.line}"
        if self.fault:
            raise BadRecording(self.fault, where=where)
        check_id(self.id)
        if self.split not in SPLITS:
            raise BadRecording(f"split {self.split!r} is not one of {', '.join(SPLITS)}", where=where)
        if not self.sentences():
            raise BadRecording("no caption", where=where)

    def sentences(self) -> tuple[str, ...]:
        """The captions."""
        return tuple(caption for part in self.captions.split("|") if (caption := " ".join(part.split())))

    def files(self, root: Place) -> tuple[Place, Place]:
        """The files of person 1 and person 2 in that folder; ``BadRecording`` where one is not there."""
        first, second = (self._file(root, number, name) for number, name in enumerate(self.persons, start=1))
        return first, second

    def _file(self, root: Place, number: int, name: str) -> Place:
        where = f"{INDEX}, line {self.line}"
        inside = PurePosixPath(name.replace("\\", "/"))
        if not name or inside.is_absolute() or ".." in inside.parts or ":" in name or "\0" in name:
            raise BadRecording(f"person{number} {name!r} is not a file name inside the folder", where=where)
        try:
            there = exists(root / inside)
        except OSError:  # such as a name that no file can have
            there = False
        if not there:
            raise BadRecording(f"person{number} {name!r} does not exist", where=where)
        if not is_file(root / inside):
            raise BadRecording(f"person{number} {name!r} is not a regular file", where=where)
        return root / inside


def read_index(root: Place) -> list[Pair]:
    """The rows of the index in a folder.

    Captions are typed by hand, commas and all: what a row has beyond the header's columns belongs to the captions,
    where these are the last column.

    Raises:
        UserError: no folder, no index, or one that is not a table with the columns.
    """
    if not is_folder(root):
        raise UserError("no such folder", where=root)
    index = root / INDEX
    if not exists(index):
        raise UserError("no such file", where=index, allowed=f"a table with the columns {', '.join(_COLUMNS)}")
    try:
        text = read_text(index)
        # Some spreadsheets write semicolons or tabs, where their language has commas in numbers.
        header = text.partition("\n")[0]
        delimiter = max(",;\t", key=header.count)
        table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        columns = [name.strip() for name in next(table, [])]
        if doubled := [name for name in _COLUMNS if columns.count(name) > 1]:
            raise UserError(f"two columns {', '.join(doubled)}", where=index, allowed=", ".join(_COLUMNS))
        if missing := [name for name in _COLUMNS if name not in columns]:
            raise UserError(f"no column {', '.join(missing)}", where=index, allowed=", ".join(_COLUMNS))
        return [_pair(columns, row, table.line_num, delimiter) for row in table if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot be read ({error})", where=index) from None


def _pair(columns: list[str], row: list[str], line: int, delimiter: str) -> Pair:
    fault = ""
    while len(row) > len(columns) and not row[-1].strip():
        row = row[:-1]
    if len(row) > len(columns) and columns[-1] == "captions":
        row = [*row[: len(columns) - 1], delimiter.join(row[len(columns) - 1 :])]
    elif len(row) != len(columns):
        fault = f"{len(row)} columns instead of {len(columns)}"
    cells = {name: cell.strip() for name, cell in zip(columns, row, strict=False)}
    name, one, two, split, captions = (cells.get(column, "") for column in _COLUMNS)
    return Pair(name, (one, two), split, captions, line, fault)
