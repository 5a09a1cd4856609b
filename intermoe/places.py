"""Places of files: a path on this machine, or a URI of storage that several machines share (``s3://bucket/folder``).

Both have the interface of ``pathlib``; what is written in one piece goes through files.py. Credentials, region and
endpoint are those of the environment, by the names that each storage's own tools read (``AWS_ACCESS_KEY_ID``,
``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS``, ...), never part of a URI.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

from typing_extensions import TypeIs
from upath import UPath

from intermoe.errors import UserError

Place: TypeAlias = Path | UPath
"""A path on this machine, or a URI."""

_URI = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
# What a listing said a moment ago is not what is there now: other machines write too.
_OPTIONS: dict[str, dict[str, Any]] = {"s3": {"use_listings_cache": False}, "gs": {"use_listings_cache": False}}
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
# Of the copies on this machine; those that were not used for longest go first.
_CACHE_BYTES = 50 * 1024**3


def as_place(text: str | Place) -> Place:
    """The place that a user names.

    Raises:
        UserError: a URI of storage that is not supported, whose package is not installed, or that holds credentials.

    Example:
        >>> as_place("runs/duet"), place("file:///data/duet")
        (PosixPath('runs/duet'), PosixPath('/data/duet'))
        >>> str(as_place("memory://bucket/runs") / "duet")
        'memory://bucket/runs/duet'
    """
    if not isinstance(text, str):
        return text
    uri = _URI.fullmatch(text)
    if uri is None:
        return Path(text)
    scheme, rest = uri.groups()
    if scheme == "file":
        return Path(rest)
    if "@" in rest.partition("/")[0]:
        raise UserError("a URI with credentials", where=f"{scheme}://...", allowed="credentials by environment")
    try:
        found = UPath(text.rstrip("/"), **_OPTIONS.get(scheme, {}))
        found.fs  # noqa: B018 - imports the package of the storage
    except ImportError:
        package = _PACKAGES.get(scheme, f"its package for {scheme}")
        raise UserError(f"{scheme}:// needs {package}", where=text, allowed=f"pip install {package}") from None
    except ValueError:
        raise UserError(f"unknown storage {scheme}://", where=text, allowed="a path, s3://, gs://, file://") from None
    return found


def is_remote(at: Place) -> TypeIs[UPath]:
    """Whether a place is a URI: nothing can be renamed there, and a file is there whole or not at all."""
    return not isinstance(at, Path)


def absolute(at: Place) -> Place:
    """The place, the same from any working directory."""
    return at if is_remote(at) else at.absolute()


@contextmanager
def storage_errors(at: Place) -> Iterator[None]:
    """Turn what a storage raises into one line; errors of files on this machine pass."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_remote(at):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the storage does not do it: {reason}", where=str(at)) from error


def check_storage(at: Place) -> None:
    """Raise ``UserError`` where the storage of a URI does not answer, or not to these credentials."""
    if is_remote(at):
        with storage_errors(at):
            at.exists()


def local_copy(file: Place, sha256: str) -> Path:
    """The file on this machine's disk: itself, or a copy kept by its checksum (``INTERMOE_CACHE``, 50 GiB at most).

    Args:
        file: what to copy.
        sha256: of its bytes.

    Raises:
        UserError: the storage's file has another checksum, or cannot be read.
    """
    if not is_remote(file):
        return file
    copy = _cache() / sha256 / file.name
    if copy.is_file():
        os.utime(copy)
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    partial = copy.with_name(f".{copy.name}.{uuid4().hex}")
    try:
        with storage_errors(file):
            file.fs.get_file(file.path, str(partial))
        with partial.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
                raise UserError(f"{file.name} does not match its checksum", where=str(file.parent))
        partial.replace(copy)
    finally:
        partial.unlink(missing_ok=True)
    _trim_cache(keep=copy)
    return copy


@contextmanager
def on_disk(at: Place) -> Iterator[Path]:
    """A file or folder on this machine's disk: itself, or a copy of its name for as long as the block runs."""
    if not is_remote(at):
        yield at
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / at.name
        with storage_errors(at):
            at.fs.get(at.path, str(copy), recursive=True)
        yield copy


def _cache() -> Path:
    if folder := os.environ.get("INTERMOE_CACHE"):
        return Path(folder).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "intermoe"


def _trim_cache(keep: Path) -> None:
    files = []
    for file in _cache().glob("*/*"):
        try:
            files.append((file.stat().st_mtime, file.stat().st_size, file))
        except FileNotFoundError:  # another process trims too
            continue
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= _CACHE_BYTES:
            return
        if file != keep:
            shutil.rmtree(file.parent, ignore_errors=True)
            total -= size
