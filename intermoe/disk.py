"""What whole-or-absent folders ask of the disk: checksums, and certainty that something is written."""

import hashlib
import os
from pathlib import Path


def sha256(file: Path) -> str:
    """Checksum of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Wait until the disk holds a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
