"""The one way to publish a file or a folder: written aside, flushed to disk and renamed, so that it is whole or absent.

What is being written bears a hidden name, ``.NAME.<32 hex digits>``; a process that is killed leaves it behind, and
:func:`remove_leftovers` clears it away.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from intermoe.errors import UserError

_HIDDEN = re.compile(r"\..+\.[0-9a-f]{32}(?:\.\w+)?")


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A hidden path beside ``file``, with its suffix, to write to.

    When the block ends well it takes the name of ``file``, in place of an earlier one; otherwise it is removed.

    Raises:
        UserError: the disk refuses to be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     with whole_file(Path(root, "a.txt")) as partial:
        ...         _ = partial.write_text("whole")
        ...     Path(root, "a.txt").read_text()
        'whole'
    """
    partial = file.with_name(f".{file.stem}.{uuid4().hex}{file.suffix}")
    try:
        yield partial
        flush(partial)
        partial.replace(file)
        flush(file.parent)
    except OSError as error:
        raise _unwritable(file, error) from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """A hidden folder beside ``out`` to fill.

    When the block ends well it takes the name ``out``; otherwise it is removed.

    Args:
        out: the name; parents are made.
        replace: whether a folder of that name may be replaced. It is moved aside in the moment before the new one is
            moved in, and removed after that: a machine that dies between the two moves leaves no folder under the name,
            never a mixture. Without it, only an empty folder may be there.

    Raises:
        UserError: the disk refuses to be written, or ``out`` is taken.
    """
    out = Path(out).absolute()
    if not replace:
        check_free(out)
    partial = _hidden(out)
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in (*partial.rglob("*"), partial):
            flush(path)
        _move_into_place(partial, out)
    except OSError as error:
        raise _unwritable(out, error) from error
    finally:
        _remove(partial)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents where they are missing; ``UserError`` where the disk refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None


def remove_folder(folder: Path) -> None:
    """Remove a folder; it loses its name first, so that half of it never bears it."""
    _remove(folder.rename(_hidden(folder)))


@contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """A hidden folder that is there for as long as the block runs; ``parent`` is made where it is missing.

    Raises:
        UserError: the disk refuses to be written.
    """
    folder = _hidden(parent.absolute() / name)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise _unwritable(parent, error) from error
    try:
        yield folder
    finally:
        _remove(folder)


def write_json(file: Path, document: Any) -> None:
    """Publish a document as JSON; an earlier one is replaced.

    Raises:
        ValueError: JSON cannot hold the document; it has no NaN and no infinity.
        UserError: the disk refuses to be written.
    """
    try:
        text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file.name}: {error}") from None
    with whole_file(file) as partial:
        partial.write_text(text + "\n", "utf-8")


def is_taken(path: Path) -> bool:
    """Whether something is there that a new folder would take the place of; an empty folder is not."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def check_free(path: Path, allowed: str = "a new or an empty folder") -> None:
    """Raise ``UserError`` where something is in a new folder's place; ``allowed`` is what the message proposes."""
    if is_taken(path):
        raise UserError("exists already and is not overwritten", where=path, allowed=allowed)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes have left in a folder of files and folders whose names match a pattern.

    Only the process that writes there may call this. Hidden files of others (``.nfs*``, ``.DS_Store``) stay.
    """
    for path in folder.glob(f".{name}.*"):
        if _HIDDEN.fullmatch(path.name):
            _remove(path)


def sha256(file: Path) -> str:
    """Checksum of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(document: Any) -> str:
    """A short checksum of what a document says, for names of folders."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]


def flush(path: Path) -> None:
    """Wait until the disk holds a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder; the lock ends with the process, however it ends.

    Raises:
        UserError: another process has it.
    """
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another process is at work here", where=folder) from None
        yield


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid4().hex}")


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot be written: {error.strerror or error}", where=path)


def _move_into_place(partial: Path, out: Path) -> None:
    aside = _hidden(out)
    if out.exists():
        out.rename(aside)
    try:
        partial.rename(out)
    except BaseException:
        if aside.exists():
            aside.rename(out)
        raise
    flush(out.parent)
    _remove(aside)


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all it holds; tasks that were interrupted may still add to it for a moment."""
    if path.is_file() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    deadline = time.monotonic() + 10
    while path.exists() and time.monotonic() < deadline:
        shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.1 if path.exists() else 0)
