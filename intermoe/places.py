"""Places of files: a path on this machine, or a URI of storage that several machines share (``s3://bucket/folder``).

Both have the interface of ``pathlib``; what is written in one piece goes through files.py. Credentials, region and
endpoint are those of the environment, by the names that each storage's own tools read (``AWS_ACCESS_KEY_ID``,
``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS``, ...), never part of a URI.
"""

import errno
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from typing_extensions import TypeIs
from upath import UPath

from intermoe.errors import UserError, reason_of

Place: TypeAlias = Path | UPath
"""A path on this machine, or a URI."""

# One letter is a drive of Windows, and "models:/" belongs to MLflow.
_URI = re.compile(r"(?!models:)([A-Za-z][A-Za-z0-9+.-]+):(?=/)")
_ALLOWED = "a path, or s3://BUCKET/..., gs://BUCKET/..., abfs://CONTAINER/..., file:///..."
# What a listing said a moment ago is not what is there now: other machines write too.
_OPTIONS: dict[str, dict[str, Any]] = {name: {"use_listings_cache": False} for name in ("s3", "gs", "gcs")}
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}


class StorageError(UserError):
    """The storage of a URI does not do what it is asked for, which says nothing about the files in it."""


def as_place(text: str | Place) -> Place:
    """The place that a user names.

    Raises:
        UserError: a URI of storage that is not supported, whose package is not installed, or that holds credentials.

    Example:
        >>> as_place("runs/duet"), as_place("file:///data/duet")
        (PosixPath('runs/duet'), PosixPath('/data/duet'))
        >>> str(as_place("s3://bucket/runs") / "duet")
        's3://bucket/runs/duet'
    """
    if not isinstance(text, str):
        return text
    uri = _URI.match(text)
    if uri is None:
        return Path(text)
    scheme, rest = uri[1].lower(), text[uri.end() :]
    if scheme == "file" and rest.startswith("///"):
        return Path(rest[2:])
    if scheme not in _PACKAGES or not rest.startswith("//") or not rest.strip("/"):
        raise UserError("not a place that is known", where=text, allowed=_ALLOWED)
    if "@" in rest[2:].partition("/")[0]:
        raise UserError("a URI with credentials", where=f"{scheme}://...", allowed="credentials by environment")
    try:
        # As in a path, slashes that are typed twice or at the end mean nothing.
        found = UPath(f"{scheme}://{re.sub('/+', '/', rest).strip('/')}", **_OPTIONS.get(scheme, {}))
        found.fs  # noqa: B018 - imports the package of the storage
    except ImportError:
        package = _PACKAGES[scheme]
        raise UserError(f"{scheme}:// needs {package}", where=text, allowed=f"pip install {package}") from None
    return found


def is_remote(at: Place) -> TypeIs[UPath]:
    """Whether a place is a URI: nothing can be renamed there, and a file is there whole or not at all."""
    return not isinstance(at, Path)


def absolute(at: Place) -> Place:
    """The place, the same from any working directory."""
    return at if is_remote(at) else at.absolute()


@contextmanager
def storage_errors(at: Place) -> Iterator[None]:
    """Turn what a storage raises into ``StorageError``; errors of files on this machine pass."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_remote(at):
            raise
        raise StorageError(f"the storage does not do it: {reason_of(error)}", where=str(at)) from error


def is_file(at: Place) -> bool:
    """Whether a file is there.

    Raises:
        StorageError: the storage of a URI does not say, or has no such bucket, where ``UPath`` would take that for a
            no.
    """
    return _kind(at) == "file" if is_remote(at) else at.is_file()


def is_folder(at: Place) -> bool:
    """Whether a folder is there, or in a storage a file whose name begins with it; raises as ``is_file``."""
    return _kind(at) == "directory" if is_remote(at) else at.is_dir()


def exists(at: Place) -> bool:
    """Whether a file or a folder is there; raises as ``is_file``."""
    return _kind(at) is not None if is_remote(at) else at.exists()


def check_storage(at: Place) -> None:
    """Raise ``StorageError`` where the storage of a URI does not answer, or not to these credentials."""
    if is_remote(at):
        exists(at)


def check_regular(at: Place) -> None:
    """Raise ``OSError`` where a pipe, a socket or a device is there, of which reading may wait or go on for ever.

    A storage of URIs has none.
    """
    if is_remote(at):
        return
    mode = at.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError("not a regular file")


def read_bytes(at: Place) -> bytes:
    """The bytes of a file.

    Raises:
        OSError: it cannot be read, or is not a regular file; ``FileNotFoundError`` where there is none.
        StorageError: the storage of a URI does not give them.
    """
    if not is_remote(at):
        check_regular(at)
        return at.read_bytes()
    with storage_errors(at):
        try:
            content: bytes = at.fs.cat_file(at.path)
        except FileNotFoundError as error:
            _raise_without_bucket(error)
        else:
            return content
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(at))


def _kind(at: UPath) -> str | None:
    """What is there: "file", "directory" or nothing."""
    with storage_errors(at):
        try:
            return str(at.fs.info(at.path)["type"])
        except FileNotFoundError as error:
            _raise_without_bucket(error)
            return None


def _raise_without_bucket(error: FileNotFoundError) -> None:
    """Raise the error again where the storage has answered that there is no such bucket, and not only no such file."""
    if error.__cause__ is not None and "bucket" in str(error):
        raise error


def file_sizes(folder: Place) -> dict[str, int]:
    """The files in a folder, by name, with their sizes in bytes.

    Raises:
        OSError: it cannot be read.
        StorageError: the storage of a URI does not say.
    """
    if not is_remote(folder):
        return {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
    with storage_errors(folder):
        found = folder.fs.find(folder.path, maxdepth=1, detail=True)
        return {path.rpartition("/")[2]: int(facts["size"]) for path, facts in found.items()}


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


def cache() -> Path:
    """The folder of copies on this machine's disk: ``INTERMOE_CACHE``, or ``intermoe`` in the user's cache."""
    if folder := os.environ.get("INTERMOE_CACHE"):
        return Path(folder).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "intermoe"
