"""What a Ray of this project leaves behind when its driver is killed: two agents, which end themselves after a minute.

Until then they hold ports and memory. So a Ray that a command starts for itself notes who its driver is in the folder
of its session, and the next such start ends what sessions of drivers that are gone have left. Nothing else is touched:
not a session without a note, such as that of a cluster, and not what belongs to another user.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

import psutil

from intermoe.files import write_json

_NOTE = "intermoe-driver.json"


def note_driver(session: Path) -> Path:
    """Note in the folder of a session of Ray that this process is its driver.

    Returns:
        The file of the note, to be removed when the session has ended as it should.
    """
    driver = psutil.Process()
    write_json(session / _NOTE, {"pid": driver.pid, "started": driver.create_time()})
    return session / _NOTE


def end_left_behind(folder: Path) -> list[int]:
    """End the processes of sessions whose driver is gone.

    Args:
        folder: of Ray's sessions.

    Returns:
        The ids of the processes that were ended.
    """
    ended = []
    for note in folder.glob(f"session_*/{_NOTE}"):
        # Ray's folders are open to everybody; `session_latest` is a second name of one of them.
        if note.is_symlink() or note.parent.is_symlink() or note.stat().st_uid != os.geteuid() or _runs(note):
            continue
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if _belongs(process, note.parent):
                    process.kill()
                    ended.append(process.pid)
        note.unlink(missing_ok=True)
    return ended


def _runs(note: Path) -> bool:
    """Whether the driver that a note names is alive; of a note that cannot be read one cannot say that it is not."""
    try:
        driver = json.loads(note.read_text("utf-8"))
        return bool(psutil.Process(driver["pid"]).create_time() == driver["started"])
    except psutil.NoSuchProcess:
        return False
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return True


def _belongs(process: psutil.Process, session: Path) -> bool:
    """Whether a process is one of Ray, of this user and of that session: it writes to a log there."""
    if process.uids().effective != os.geteuid() or not " ".join(process.cmdline()).startswith("ray::"):
        return False
    return any(Path(file.path).is_relative_to(session / "logs") for file in process.open_files())
