import math

import pytest

from intermoe.errors import UserError
from intermoe.files import (
    check_free,
    is_taken,
    make_folder,
    read_note,
    remove_folder,
    remove_leftovers,
    scratch_folder,
    whole_file,
    whole_folder,
    write_json,
    write_note,
)
from intermoe.places import Place


def test_json_is_there_whole_or_as_it_was(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match=r"a.json: Object of type object is not JSON serializable"):
        write_json(tmp_path / "a.json", {"x": object()})
    assert (tmp_path / "a.json").read_text() == '{\n  "x": 1\n}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_json_has_no_numbers_that_are_not_finite(tmp_path, number):
    with pytest.raises(ValueError, match=r"^a\.json: Out of range float values are not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": number})
    assert list(tmp_path.iterdir()) == []


def fail_after(file: Place, error: BaseException) -> None:
    file.write_text("half")
    raise error


def test_a_note_is_an_object_or_one_line(tmp_path):
    file = tmp_path / "run.json"
    assert read_note(file) == read_note(file / "below") == {}
    note = {"a": 1, "b": (0.1, None), "c": {2: "é"}}
    write_note(file, note)
    assert read_note(file) == {"a": 1, "b": [0.1, None], "c": {"2": "é"}}
    file.rename(tmp_path / "sweep.json")
    with pytest.raises(UserError) as caught:
        read_note(tmp_path / "sweep.json")
    assert str(caught.value) == f"{tmp_path}/sweep.json: does not match its own checksum: it is damaged"
    write_json(file, {"a": 1})
    with pytest.raises(UserError) as caught:
        read_note(file)
    assert str(caught.value) == f"{file}: has no checksum: an older version wrote it, or it is damaged"
    for damaged in (b"", b'{"a": ', b"[1]", b"\xff\xfe{", b"[" * 100_000):
        file.write_bytes(damaged)
        with pytest.raises(UserError) as caught:
            read_note(file)
        assert str(caught.value) == f"{file}: cannot be read: it is damaged, or no JSON object"
    with pytest.raises(UserError) as caught:
        read_note(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "a.mp4"
    with whole_file(file) as partial:
        assert partial.suffix == ".mp4"
        partial.write_text("first")
        assert not file.exists()
    assert file.read_text() == "first"
    with pytest.raises(RuntimeError, match="half way"), whole_file(file) as partial:
        fail_after(partial, RuntimeError("half way"))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(UserError) as caught, whole_file(file) as partial:
        partial.write_text("third")
    assert str(caught.value) == f"{file}: cannot be written: No space left on device"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.mp4", "first")]


def test_a_name_that_no_file_can_have_is_one_line(tmp_path):
    file = tmp_path / f"{'x' * 300}.npz"
    with pytest.raises(UserError) as caught, whole_file(file) as partial:
        partial.write_text("x")
    assert str(caught.value) == f"{file}: cannot be written: File name too long"


def test_a_folder_is_whole_or_absent(tmp_path):
    out = tmp_path / "parent" / "out"
    with pytest.raises(KeyboardInterrupt), whole_folder(out, seal="card") as folder:
        fail_after(folder / "file", KeyboardInterrupt())
    assert list(out.parent.iterdir()) == []
    out.mkdir()
    with whole_folder(out, seal="card") as folder:
        (folder / "file").write_text("mine")
        assert list(out.iterdir()) == []
    assert (out / "file").read_text() == "mine"
    with pytest.raises(UserError) as caught, whole_folder(out, seal="card"):
        pytest.fail("the place is taken")
    assert str(caught.value) == f"{out}: exists already and is not overwritten (allowed: a new or an empty folder)"
    with whole_folder(out, replace=True, seal="card") as folder:
        (folder / "other").touch()
    assert [path.name for path in out.iterdir()] == ["other"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_scratch_folder_goes_with_its_block(tmp_path):
    with scratch_folder(tmp_path / "new", "raw") as folder:
        (folder / "deep").mkdir()
        assert folder.name.startswith(".raw.")
    assert list((tmp_path / "new").iterdir()) == []


def test_folders_are_made_and_removed(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "a/b/file").touch()
    with pytest.raises(UserError) as caught:
        make_folder(tmp_path / "a/b/file/c")
    assert str(caught.value) == f"{tmp_path}/a/b/file/c: cannot be written: Not a directory"
    remove_folder(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_go_and_hidden_files_of_others_stay(tmp_path):
    """A process that is killed while it writes leaves a hidden file or folder; a file server hides its own files."""
    (tmp_path / "step-1").mkdir()
    aside = (tmp_path / "step-1").rename(tmp_path / f".step-1.{'1' * 32}")
    (aside / "half").touch()
    file = tmp_path / f".vae-1.{'0' * 32}.seconds"
    file.touch()
    others = [".DS_Store", ".nfs000000000001", ".lock", "visible"]
    for name in others:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, "step-*")
    assert not aside.exists()
    assert file.exists(), "of another name"
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_what_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert not is_taken(tmp_path / "absent")
    assert not is_taken(tmp_path / "empty")
    assert is_taken(tmp_path / "file")
    assert is_taken(tmp_path)
    check_free(tmp_path / "absent")
    with pytest.raises(UserError, match=r"exists already and is not overwritten \(allowed: another --out\)$"):
        check_free(tmp_path, "another --out")


def test_a_folder_that_another_process_has_made_meanwhile_is_not_replaced(tmp_path):
    publishing = whole_folder(tmp_path / "out", seal="b")
    (publishing.__enter__() / "b").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").touch()
    with pytest.raises(UserError, match="exists already and is not overwritten"):
        publishing.__exit__(None, None, None)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
