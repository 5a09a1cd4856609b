import pytest

from intermoe.disk import is_taken, write_json


def test_json_is_there_whole_or_as_it_was(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
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
