"""The one way to publish a file or a folder, so that it is whole or absent.

On a disk it is written aside, flushed and renamed. What is being written bears a hidden name, ``.NAME.<32 hex
digits>``; a process that is killed leaves it behind, and :func:`remove_leftovers` clears it away.

In the storage of a URI nothing can be renamed, but a file appears there at once. So a folder is filled in its place,
and its *seal*, the file that lists the others (a manifest, a card), is written last: without its seal it is not taken
for whole, whatever lies there. While it is filled it holds ``.incomplete``, by which a later attempt knows that what is
there is in nobody's use. Nothing keeps two processes from writing to the same URI at once.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from uuid import uuid4

from upath import UPath

from intermoe.errors import UserError
from intermoe.places import Place, absolute, cache, exists, is_file, is_folder, is_remote, read_bytes, storage_errors

INCOMPLETE = ".incomplete"
LOCK = ".lock"
"""Name of the lock in a folder beside which there is none (locks.py)."""
# The key under which the checksum of a note stands in it.
_CHECKSUM = "sha256"
# Of the copies on this machine; those that were not used for longest go first.
_CACHE_BYTES = 50 * 1024**3
_HIDDEN = re.compile(r"\.(.+)\.[0-9a-f]{32}((?:\.\w+)?)")


@contextmanager
def whole_file(file: Place) -> Iterator[Path]:
    """A path on this machine with the suffix of ``file``, to write to: a hidden one beside it, or a temporary one.

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
    if is_remote(file):
        with tempfile.TemporaryDirectory() as scratch:
            partial = Path(scratch, file.name)
            yield partial
            with storage_errors(file):
                file.fs.put_file(str(partial), file.path)
        return
    partial = file.with_name(f".{file.stem}.{uuid4().hex}{file.suffix}")
    try:
        yield partial
        flush(partial)
        partial.replace(file)
        flush(file.parent)
    except OSError as error:
        raise _unwritable(file, error) from error
    finally:
        with suppress(OSError):  # where the name is none that a file can have
            partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(out: Place, *, seal: str, replace: bool = False) -> Iterator[Place]:
    """A hidden folder beside ``out`` to fill, or ``out`` itself in the storage of a URI.

    When the block ends well the hidden folder takes the name ``out``; otherwise what was written is removed.

    Args:
        out: the name; parents are made.
        seal: name of the file in it that is written last, without which readers do not take the folder for whole.
        replace: whether a folder of that name may be replaced. In the storage of a URI it is removed before the new one
            is written. On a disk it is moved aside in the moment before the new one is moved in, and removed after
            that: a machine that dies between the two moves leaves no folder under the name, never a mixture. Without
            it, only an empty folder may be there.

    Raises:
        UserError: the disk refuses to be written, or ``out`` is taken.
    """
    out = absolute(out)
    if not replace:
        check_free(out)
    if is_remote(out):
        with storage_errors(out):
            (out / INCOMPLETE).write_text(seal, "utf-8")
            _clear(out, seal)
        try:
            yield out
            with storage_errors(out):
                (out / INCOMPLETE).unlink()
        except BaseException:
            remove_folder(out, seal=seal)
            raise
        return
    partial = _hidden(out)
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in (*partial.rglob("*"), partial):
            flush(path)
        if not replace:
            check_free(out)
        _move_into_place(partial, out)
    except OSError as error:
        raise _unwritable(out, error) from error
    finally:
        _remove(partial)


@contextmanager
def local_draft(folder: Place) -> Iterator[Path]:
    """A folder on this machine to fill: ``folder`` itself, or one whose files are uploaded to it at the end."""
    if not is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)
        with storage_errors(folder):
            for path in sorted(Path(scratch).rglob("*")):
                if path.is_file():
                    folder.fs.put_file(str(path), (folder / path.relative_to(scratch).as_posix()).path)


def make_folder(folder: Place) -> None:
    """Make a folder and its parents where they are missing; a URI needs none. ``UserError`` where the disk refuses."""
    if is_remote(folder):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None


def remove_folder(folder: Place, *, seal: str = "") -> None:
    """Remove a folder; it loses its name first, or its seal, so that half of it is never taken for whole."""
    if is_remote(folder):
        with storage_errors(folder):
            _clear(folder, seal)
            (folder / INCOMPLETE).unlink(missing_ok=True)
    else:
        _remove(folder.rename(_hidden(folder)))


def discard(at: Place) -> None:
    """Remove a file or a folder, if it is there."""
    if is_remote(at):
        with storage_errors(at):
            _clear(at, "")
            for path in (at, at / INCOMPLETE):
                path.unlink(missing_ok=True)
    else:
        _remove(at)


@contextmanager
def scratch_folder(parent: Place, name: str) -> Iterator[Place]:
    """A hidden folder that is there for as long as the block runs; ``parent`` is made where it is missing.

    Raises:
        UserError: the disk refuses to be written.
    """
    folder = absolute(parent) / f".{name}.{uuid4().hex}"
    make_folder(folder)
    try:
        yield folder
    finally:
        discard(folder)


def write_json(file: Place, document: Any) -> None:
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


def write_note(file: Place, note: Mapping[str, Any]) -> None:
    """Publish a JSON object with its checksum, for ``read_note``; errors as for ``write_json``."""
    write_json(file, {**note, _CHECKSUM: _note_checksum(file, json.loads(json.dumps(note)))})


def read_note(file: Place) -> dict[str, Any]:
    """The JSON object that ``write_note`` wrote; empty where there is no file.

    Raises:
        UserError: it cannot be read, holds something else, or was changed since.
    """
    try:
        note = json.loads(read_bytes(file))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=file) from None
    except (ValueError, RecursionError):
        note = None
    if not isinstance(note, dict):
        raise UserError("cannot be read: it is damaged, or no JSON object", where=file)
    if _CHECKSUM not in note:
        raise UserError("has no checksum: an older version wrote it, or it is damaged", where=file)
    if note.pop(_CHECKSUM) != _note_checksum(file, note):
        raise UserError("does not match its own checksum: it is damaged", where=file)
    return note


def _note_checksum(file: Place, note: dict[str, Any]) -> str:
    """Of a note under its name: what was written for another one does not pass for it."""
    return hashlib.sha256(json.dumps([file.name, note], sort_keys=True).encode()).hexdigest()


def is_taken(path: Place) -> bool:
    """Whether something is there that a new folder would take the place of; an empty or incomplete folder is not."""
    if is_remote(path):
        if not exists(path):
            return False
        try:
            seal = read_bytes(path / INCOMPLETE).decode()
        except FileNotFoundError:
            return True
        return is_file(path / seal)
    return path.exists() and (not path.is_dir() or any(file.name != LOCK for file in path.iterdir()))


def check_free(path: Place, allowed: str = "a new or an empty folder") -> None:
    """Raise ``UserError`` where something is in a new folder's place; ``allowed`` is what the message proposes."""
    if is_taken(path):
        raise UserError("exists already and is not overwritten", where=path, allowed=allowed)


def remove_leftovers(folder: Place, name: str = "*") -> None:
    """Remove what killed processes have left in a folder of files and folders whose names match a pattern.

    Only the process that writes there may call this. Hidden files of others (``.nfs*``, ``.DS_Store``) stay.
    """
    for path in contents(folder):
        if fnmatch(path.name, f".{name}.*") and _HIDDEN.fullmatch(path.name):
            discard(path)


def contents(folder: Place) -> list[Place]:
    """The files and folders in a folder, sorted; none where there is no folder."""
    with storage_errors(folder):
        try:
            return sorted(folder.iterdir()) if is_folder(folder) else []
        except (FileNotFoundError, NotADirectoryError):
            return []


def sha256(file: Place) -> str:
    """Checksum of a file's bytes; ``UserError`` where they cannot be read."""
    try:
        with storage_errors(file), file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=file) from error


def local_copy(file: Place, checksum: str) -> Path | None:
    """The file on this machine's disk: itself, or a copy kept by its checksum (``INTERMOE_CACHE``, 50 GiB at most).

    Args:
        file: what to copy.
        checksum: the SHA-256 of its bytes.

    Returns:
        Its path; None where the file has another checksum.

    Raises:
        UserError: the storage does not answer, or the disk refuses to be written.
    """
    if not is_remote(file):
        return file if sha256(file) == checksum else None
    copy = cache() / checksum / file.name
    if copy.is_file() and sha256(copy) == checksum:
        os.utime(copy)
        return copy
    partial = _hidden(copy)
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with storage_errors(file):
            file.fs.get_file(file.path, str(partial))
        if sha256(partial) != checksum:
            return None
        partial.replace(copy)
        _trim_cache(keep=copy)
    except OSError as error:
        where = "INTERMOE_CACHE" if "INTERMOE_CACHE" in os.environ else "the cache of this user"
        raise UserError(f"cannot be written: {error.strerror or error}", where=f"{where}, {cache()}") from error
    finally:
        partial.unlink(missing_ok=True)
    return copy


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


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid4().hex}")


def _clear(folder: UPath, seal: str) -> None:
    """Remove all that is in a folder of a storage, its seal first, but not the note that it is incomplete."""
    if seal:
        (folder / seal).unlink(missing_ok=True)
    note = (folder / INCOMPLETE).path
    found = [path for path in folder.fs.find(folder.path) if path.strip("/") != note.strip("/")]
    if found:
        folder.fs.rm(found)


def _unwritable(path: Path, error: OSError) -> UserError:
    # By its name to be, where it lies in a folder that is being written.
    parts = [_HIDDEN.sub(lambda hidden: hidden[1] + hidden[2], part) for part in path.parts]
    return UserError(f"cannot be written: {error.strerror or error}", where=Path(*parts))


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


def _trim_cache(keep: Path) -> None:
    files = []
    # Folders named by a checksum; MLflow's models are not counted.
    for file in cache().glob(f"{'[0-9a-f]' * 64}/*"):
        try:
            files.append((file.stat().st_mtime, file.stat().st_size, file.parent))
        except FileNotFoundError:  # another process trims too
            continue
    total = sum(size for _, size, _ in files)
    for _, size, folder in sorted(files):
        if total <= _CACHE_BYTES:
            return
        if folder != keep.parent:
            shutil.rmtree(folder, ignore_errors=True)
            total -= size
