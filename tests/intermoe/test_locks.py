import errno
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from intermoe import locks
from intermoe.errors import UserError, UserNote
from intermoe.files import is_taken
from intermoe.locks import check_unlocked, locked


def test_a_folder_is_for_one_at_a_time_and_free_when_its_process_ends(tmp_path):
    out = tmp_path / "runs" / "out"

    def elsewhere(inside: str) -> subprocess.CompletedProcess:
        lines = ("import os", "from pathlib import Path", "from intermoe.locks import locked")
        script = "\n".join([*lines, f"with locked(Path({str(out)!r})): {inside}"])
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    refused = f"process {os.getpid()} on {socket.gethostname()} is at work here (allowed: its end, or another folder)"
    with locked(out):
        for ask in (lambda: locked(out).__enter__(), lambda: check_unlocked(out)):
            with pytest.raises(UserError) as caught:
                ask()
            assert str(caught.value) == f"{out}: {refused}"
        assert refused in elsewhere("pass").stderr
    assert elsewhere("os.kill(os.getpid(), 9)").returncode == -9
    assert [path.name for path in out.parent.iterdir()] == [".out.lock"]
    check_unlocked(out)
    with locked(out):
        pass
    assert list(out.parent.iterdir()) == []


def test_who_has_patience_waits_for_the_end_of_another(tmp_path):
    out = tmp_path / "out"
    order = []

    def hold():
        with locked(out):
            held.set()
            time.sleep(0.5)
            order.append("other")

    held = threading.Event()
    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    with pytest.raises(UserError, match="is at work here"), locked(out, patience=0.2):
        pass
    with locked(out, patience=10):
        order.append("this")
    other.join()
    assert order == ["other", "this"]


def test_a_lock_that_its_holder_has_just_removed_is_not_held(tmp_path, monkeypatch):
    """Between opening the file and taking the lock, another process may end and a third one begin."""
    path, flock, calls = tmp_path / ".out.lock", locks.fcntl.flock, []

    def late(file, operation):
        if not calls:
            path.unlink()
            path.touch()
        calls.append(path.stat().st_ino == os.fstat(file.fileno()).st_ino)
        flock(file, operation)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    with locked(tmp_path / "out"):
        assert calls == [False, True]


def test_a_file_system_without_locks_is_a_note(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    with pytest.warns(UserNote, match=f"{tmp_path}/out: this file system has no locks"), locked(tmp_path / "out"):
        pass


def test_where_nothing_may_be_written_beside_a_folder_its_lock_is_in_it(tmp_path, monkeypatch):
    out = tmp_path / "mounted"
    out.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with locked(out):
        assert [path.name for path in out.iterdir()] == [".lock"]
        assert not is_taken(out)
        with pytest.raises(UserError, match="is at work here"):
            check_unlocked(out)
    assert list(out.iterdir()) == []


def test_a_name_that_is_a_link_has_the_lock_of_what_it_means(tmp_path):
    (tmp_path / "name").symlink_to(tmp_path / "out")
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "name"), pytest.raises(UserError, match="is at work here"):
        check_unlocked(tmp_path / "out")
