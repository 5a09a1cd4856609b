"""Locks of folders: whoever writes one keeps the others out."""

import fcntl
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from intermoe.errors import UserError, UserNote
from intermoe.files import LOCK, make_folder
from intermoe.places import Place, is_remote

_LOOK_SECONDS = 0.1


@contextmanager
def locked(out: Place, *, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes that ask for the same away from a folder that this one writes, there already or not.

    The lock, a hidden file beside the folder, ends with the process, however it ends. The storage of a URI has no
    locks: there nobody is kept out.

    Args:
        out: the folder; its parents are made.
        patience: seconds to wait for another process that has it.

    Raises:
        UserError: another process has it still, or the disk refuses to be written.
    """
    if is_remote(out):
        yield
        return
    out = out.absolute()
    make_folder(out.parent)
    path, latest = _lock_file(out), time.monotonic() + patience
    while True:
        try:
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot be written: {error.strerror or error}", where=path) from None
        with file:
            try:
                has_locks = _taken_over(file, out)
            except UserError:
                if time.monotonic() > latest:
                    raise
                time.sleep(_LOOK_SECONDS)
                continue
            if not has_locks:
                warnings.warn(UserNote(f"{out}: this file system has no locks; nothing keeps others out"), stacklevel=2)
            try:
                if path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                    continue
            except FileNotFoundError:
                # Its last holder has removed it in the moment before it was taken over.
                continue
            with suppress(OSError):  # a full disk: then the lock does not say whose it is
                os.truncate(file.fileno(), 0)
                os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def check_unlocked(out: Place) -> None:
    """Raise ``UserError`` where another process holds the lock of a file or folder now."""
    if is_remote(out):
        return
    # Where the file cannot be opened, nobody has locked it.
    with suppress(OSError), _lock_file(out.absolute()).open(encoding="utf-8") as file:
        _taken_over(file, out)


def _lock_file(out: Path) -> Path:
    """Beside the folder, which may not be there yet; in it, where nobody but others may write beside it."""
    out = out.resolve()
    if not out.name or (out.is_dir() and not os.access(out.parent, os.W_OK)):
        return out / LOCK
    return out.with_name(f".{out.name}.lock")


def _taken_over(file: TextIO, out: Place) -> bool:
    """Take a lock by its open file; False where the file system has none. Raise ``UserError`` where another has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read(200).strip() or "another process"
        raise UserError(f"{holder} is at work here", where=out, allowed="its end, or another folder") from None
    except OSError:
        return False
    return True
