"""What whole-or-absent files and folders ask of the disk: checksums, and certainty that something is written."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from intermoe.errors import UserError


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


def write_json(file: Path, document: Any) -> None:
    """Write a document as JSON so that the file is there whole or not at all; an earlier one is replaced."""
    partial = file.with_name(f".{file.name}")
    partial.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    flush(partial)
    partial.replace(file)


def is_taken(folder: Path) -> bool:
    """Whether something is there that a new folder would take the place of; an empty folder is not."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


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
