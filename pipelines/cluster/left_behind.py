"""What a Ray of this project leaves behind when its driver is killed: two agents, which end themselves after a minute.

Until then they hold ports and memory. So a Ray that a command starts for itself notes who its driver is in the folder
of its session, and the next such start ends what sessions of drivers that are gone have left. Nothing else is touched:
not a session without a note, such as that of a cluster, and not what belongs to another user.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

_NOTE = "intermoe-driver.lock"


@contextmanager
def noted_driver(session: Path) -> Iterator[None]:
    """Note in the folder of a session of Ray that this process is its driver, for as long as the block runs.

    The note is an empty file that is locked: the lock ends with the process, however that ends. Where the disk is full,
    or has no locks, there is no note.
    """
    note = session / _NOTE
    with ExitStack() as stack:
        with suppress(OSError):
            # Under its name it is locked from its first moment.
            begun = note.with_suffix(".new")
            fcntl.flock(stack.enter_context(begun.open("w")), fcntl.LOCK_EX)
            begun.replace(note)
        try:
            yield
        finally:
            note.unlink(missing_ok=True)


def end_left_behind(folder: Path) -> list[int]:
    """End the processes of sessions whose driver is gone.

    Args:
        folder: of Ray's sessions.

    Returns:
        The ids of the processes that were ended.
    """
    ended = []
    for note in folder.glob(f"session_*/{_NOTE}"):
        # `session_latest` is a second name of one of them.
        if note.parent.is_symlink() or not _is_left(note):
            continue
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if _belongs(process, note.parent):
                    process.kill()
                    ended.append(process.pid)
        note.unlink(missing_ok=True)
    return ended


def _is_left(note: Path) -> bool:
    """Whether a note is this user's, and its driver gone; of one that cannot be opened one cannot say so."""
    try:
        # Ray's folders are open to everybody.
        with os.fdopen(os.open(note, os.O_RDWR | os.O_NOFOLLOW)) as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return False
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _belongs(process: psutil.Process, session: Path) -> bool:
    """Whether a process is one of Ray, of this user and of that session: it writes to a log there."""
    if process.uids().effective != os.geteuid() or not " ".join(process.cmdline()).startswith("ray::"):
        return False
    return any(Path(file.path).is_relative_to(session / "logs") for file in process.open_files())
