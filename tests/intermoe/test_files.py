import subprocess
import sys

import pytest

from intermoe.errors import UserError
from intermoe.files import is_taken, locked, write_json


def test_json_is_there_whole_or_as_it_was(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match=r"a.json: Object of type object is not JSON serializable"):
        write_json(tmp_path / "a.json", {"x": object()})
    assert (tmp_path / "a.json").read_text() == '{\n  "x": 1\n}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_what_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert not is_taken(tmp_path / "absent")
    assert not is_taken(tmp_path / "empty")
    assert is_taken(tmp_path / "file")
    assert is_taken(tmp_path)


def test_a_folder_is_for_one_at_a_time_and_free_when_its_process_ends(tmp_path):
    def elsewhere(inside: str) -> subprocess.CompletedProcess:
        lines = ("import os", "from pathlib import Path", "from intermoe.files import locked")
        script = "\n".join([*lines, f"with locked(Path({str(tmp_path)!r})): {inside}"])
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    with locked(tmp_path):
        with pytest.raises(UserError, match="another process is at work here"), locked(tmp_path):
            pass
        assert "another process is at work here" in elsewhere("pass").stderr
    assert elsewhere("os.kill(os.getpid(), 9)").returncode == -9
    with locked(tmp_path):
        pass
