"""The spool of a run: all that it logs, in a file of its folder, until MLflow has taken it.

A line of ``tracking/RUN_ID.jsonl`` is JSON with a checksum of the rest: ``{"kind": "points", "time": 1767225600000,
"step": 20, "values": {...}, "crc32": 2212294583}``. Lines are only ever added, by whatever process of the run, each
with the operating system before ``append`` returns: a process that is killed loses none. ``RUN_ID.json`` says how many
bytes of them MLflow has, and ``tracking/<32 hex digits>/`` holds the files that lines speak of, as they were. The first
line names the store, without credentials. When MLflow has everything, all of it is removed.
"""

import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import ENOLCK, ENOSYS, EOPNOTSUPP
from io import FileIO
from pathlib import Path
from typing import Any
from uuid import uuid4

from intermoe.errors import UserError
from intermoe.files import flush, read_note, sha256, write_note
from intermoe.places import Place, is_remote, on_disk
from pipelines.tracking.lines import DAMAGED, HEAD, NO_LINE, Entry, entry_of, fields_of, line_of

_FILES = ("artifact", "checkpoint", "document", "table")


@dataclass(frozen=True)
class Undelivered:
    """A count of what MLflow does not have yet.

    Attributes:
        points: of curves.
        files: and folders, documents, tables and checkpoints.
        notes: tags, descriptions, data sets, and how the run ended.
        bytes: of the files.
    """

    points: int = 0
    files: int = 0
    notes: int = 0
    bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.points or self.files or self.notes)

    def __add__(self, other: "Undelivered") -> "Undelivered":
        return Undelivered(
            self.points + other.points, self.files + other.files, self.notes + other.notes, self.bytes + other.bytes
        )

    def __str__(self) -> str:
        counts = {"point": self.points, "file": self.files, "note": self.notes}
        return ", ".join(f"{count:,} {name}{'' if count == 1 else 's'}" for name, count in counts.items() if count)


class Spool:
    """The spool of one run in a folder on this machine; several processes may add to it at once.

    Attributes:
        folder: where it is.
        run_id: of the run in MLflow.
    """

    def __init__(self, folder: Path, run_id: str, store: str = "") -> None:
        """Name a spool, which is made with its first line.

        Args:
            folder: where it is.
            run_id: of the run in MLflow.
            store: the address of MLflow's store, without credentials; not needed where nothing is added.
        """
        self.folder, self.run_id, self._store = folder, run_id, store
        self._stream: FileIO | None = None
        self._adding = threading.Lock()
        # Bytes of the file before this process last added to it; None before it has.
        self._size: int | None = None

    @property
    def file(self) -> Path:
        """The file of lines; absent where nothing waits."""
        return self.folder / f"{self.run_id}.jsonl"

    @property
    def place(self) -> Place:
        """Where it is kept, for a message."""
        return self.folder

    def append(self, kind: str, time: int, **arguments: Any) -> None:
        """Add a line; it is with the operating system when this returns.

        Raises:
            UserError: the disk refuses to be written.
        """
        line = line_of({"kind": kind, "time": time, **arguments})
        try:
            with self._locked() as descriptor:
                size = os.fstat(descriptor).st_size
                # A process that was killed, or a disk that was full, may have left half a line, which was never said to
                # be kept.
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    size = _end_of_lines(descriptor, size)
                    os.ftruncate(descriptor, size)
                # A file that has only grown is not asked about: this is done at every step of a training.
                if (self._size is None or size < self._size) and size < self._noted:
                    # Of lines that are gone: what comes now would be taken for delivered.
                    self._note.unlink(missing_ok=True)
                if not size:
                    line = self.head() + line
                self._size = size
                try:
                    while line:
                        line = line[os.write(descriptor, line) :]
                except OSError:
                    os.ftruncate(descriptor, size)
                    if not size:
                        self.file.unlink(missing_ok=True)
                    raise
        except OSError as error:
            with suppress(OSError):
                self.folder.rmdir()
            raise UserError(f"cannot be written: {error.strerror or error}", where=self.file) from None

    def hold(self, path: Place) -> dict[str, str]:
        """Keep a file or folder as it is now, whatever becomes of it.

        Returns:
            The arguments of its line: ``held``, its path below the spool's folder, and ``checksum``.

        The files of a folder, such as a checkpoint's, are never written to again: on one file system they are the same
        files by a second name, and take no room.
        """
        name = uuid4().hex
        with on_disk(path) as local:
            try:
                (self.folder / name).mkdir(parents=True)
                copy = self.folder / name / local.name
                if local.is_dir():
                    shutil.copytree(local, copy, copy_function=_link)
                else:
                    shutil.copy2(local, copy)
            except OSError as error:
                shutil.rmtree(self.folder / name, ignore_errors=True)
                raise UserError(
                    f"{local.name}: cannot be written: {error.strerror or error}", where=self.place
                ) from None
        return {"held": f"{name}/{local.name}", "checksum": _checksum(copy)}

    def save(self) -> None:
        """Wait until the disk holds what was added, so that it survives the machine's end too."""
        with suppress(FileNotFoundError):
            flush(self.file)
            flush(self.folder)

    def entries(self) -> Iterator[Entry]:
        """The lines that MLflow does not have, oldest first; half a line at the end is not there yet."""
        begin = self.delivered
        try:
            stream = self.file.open("rb")
        except FileNotFoundError:
            return
        with stream:
            stream.seek(begin)
            for line in stream:
                begin += len(line)
                if not line.endswith(b"\n"):
                    return
                if (entry := entry_of(line, begin)) is not None:
                    yield entry

    def damages(self) -> list[str]:
        """What is wrong beside single lines: a damaged note, or a cut end, which a killed process leaves too."""
        lines, file = [], self.place / self.file.name
        try:
            read_note(self._note)
        except UserError as error:
            lines.append(str(error))
        try:
            # In this order: another process may be adding lines, and delivering them.
            delivered = self._noted
            with self.file.open("rb") as stream:
                _flock(stream.fileno(), fcntl.LOCK_SH)
                text = stream.read()
            if not 0 <= delivered <= len(text) or not text.endswith(b"\n"):
                lines.append(f"{file}: its end is cut off")
        except FileNotFoundError:
            if self._note.exists():
                lines.append(f"{file}: is missing")
        return lines

    def check(self) -> None:
        """Raise ``UserError`` where the spool, or a file that it keeps, is damaged."""
        where = self.place / self.file.name
        for damage in self.damages():
            raise UserError(damage)
        with suppress(FileNotFoundError), self.file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if (entry := entry_of(line, 0)) is not None and entry.kind == DAMAGED:
                    raise UserError(f"line {number} is damaged", where=where)
        for entry in self.entries():
            if (held := entry.arguments.get("held")) and not self.keeps(held, entry.arguments.get("checksum")):
                if entry.end <= self.delivered:
                    # Another process has delivered it in this moment.
                    continue
                raise UserError(f"{held} does not match its checksum: it is damaged", where=where)

    def keeps(self, held: str, checksum: str | None) -> bool:
        """Whether a file or folder is there as it was when it was held."""
        return _checksum(self.folder / held) == checksum

    @property
    def store(self) -> str:
        """The address of MLflow's store as the first line has it, without credentials; empty where that is damaged."""
        with suppress(OSError, *NO_LINE), self.file.open("rb") as stream:
            return str(fields_of(stream.readline())["uri"])
        return ""

    @property
    def delivered(self) -> int:
        """How many bytes of the lines MLflow has; 0 where the note says what cannot be: all is delivered again then.

        Nothing is there twice by that: points that the store has are not added to it, and all else may be repeated.
        """
        noted = self._noted
        with suppress(OSError):
            if 0 <= noted <= self.file.stat().st_size:
                return noted
        return 0

    @property
    def _noted(self) -> int:
        with suppress(UserError, ValueError, TypeError, OverflowError):
            return int(read_note(self._note).get("delivered", 0))
        return 0

    def note_delivered(self, entry: Entry) -> None:
        """MLflow has all lines up to the end of this one, and the files that they speak of."""
        write_note(self._note, {"delivered": entry.end})
        if held := entry.arguments.get("held"):
            shutil.rmtree((self.folder / held).parent, ignore_errors=True)

    def undelivered(self) -> Undelivered:
        """A count of what MLflow does not have."""
        total = Undelivered()
        for entry in self.entries():
            if entry.kind == "points":
                total += Undelivered(points=len(entry.arguments["values"]))
            elif entry.kind == DAMAGED:
                continue
            elif entry.kind in _FILES:
                total += Undelivered(files=1, bytes=_size(self.folder / entry.arguments.get("held", "nothing")))
            else:
                total += Undelivered(notes=1)
        return total

    def is_left(self) -> bool:
        """Whether there is anything that MLflow does not have."""
        return any(True for _ in self.entries())

    def remove_if_delivered(self) -> bool:
        """Remove the spool if MLflow has all of it; whether it was so. Only for who holds ``delivering``."""
        if self.file.exists():
            with self._locked():
                if self.is_left():
                    return False
                # In this order: a spool that is begun anew has no note of an earlier one.
                self._note.unlink(missing_ok=True)
                self.file.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        with suppress(OSError):
            self._lock.unlink(missing_ok=True)
            self.folder.rmdir()
        return True

    @contextmanager
    def delivering(self) -> Iterator[bool]:
        """Whether this process alone may deliver for as long as the block runs; another one may be at it."""
        try:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:  # the folder is gone, or not ours to write
            yield False
            return
        try:
            yield _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) and os.fstat(descriptor).st_nlink > 0
        finally:
            os.close(descriptor)

    def move(self, folder: Place) -> None:
        """Go on in another folder of the same file system."""
        assert not is_remote(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if self.folder.exists():
            self.folder.rename(folder)
        self.folder = folder

    @property
    def _note(self) -> Path:
        return self.folder / f"{self.run_id}.json"

    @property
    def _lock(self) -> Path:
        return self.folder / f"{self.run_id}.lock"

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, opened to add to it, with no other thread or process adding."""
        with self._adding:
            while True:
                if self._stream is None:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    self._stream = FileIO(self.file, "a+")
                descriptor = self._stream.fileno()
                _flock(descriptor, fcntl.LOCK_EX)
                # It may have been removed since it was opened.
                if os.fstat(descriptor).st_nlink:
                    break
                self._stream.close()
                self._stream = None
            try:
                yield descriptor
            finally:
                _flock(descriptor, fcntl.LOCK_UN)

    def head(self) -> bytes:
        """The first line."""
        return line_of({"kind": HEAD, "time": 0, "uri": self._store or self.store})


def _checksum(path: Path) -> str:
    """Of a file, or of a folder with all it holds."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    sums = [[file.relative_to(path).as_posix(), sha256(file)] for file in files]
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()


def _end_of_lines(descriptor: int, size: int) -> int:
    """Where the last whole line of a file ends."""
    while size:
        begin = max(size - 65536, 0)
        if end := os.pread(descriptor, size - begin, begin).rfind(b"\n") + 1:
            return begin + end
        size = begin
    return 0


def _link(source: str | Path, target: str | Path) -> None:
    """A second name of a file, or a copy where the file system is another one or has no second names."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)


def _flock(descriptor: int, operation: int) -> bool:
    """Whether the lock was had; a file system without locks gives it to everybody."""
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (ENOLCK, ENOSYS, EOPNOTSUPP):
            raise
    return True


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
