from pathlib import Path

import pytest

from intermoe.datasets.bvh import BvhPairReader
from intermoe.datasets.interhuman import InterHumanReader
from intermoe.errors import UserError
from pipelines.preprocess.sources import READERS, reader_for


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_duet_without_a_folder_is_made_for_as_long_as_it_is_read(tmp_path):
    with reader_for("duet", None, scratch=tmp_path / "new", count=2, seed=1) as reader:
        sources = reader.sources()
        assert len(sources) == 2
        assert reader.read(sources[0])[0].captions
    assert list((tmp_path / "new").iterdir()) == []


def test_duet_with_a_folder_is_made_once_and_kept(tmp_path):
    root = tmp_path / "raw" / "duet"
    with reader_for("duet", root, scratch=tmp_path, count=2, seed=1) as reader:
        assert isinstance(reader, InterHumanReader)
    made = files(root)
    assert "split/train.txt" in made
    with reader_for("duet", root, scratch=tmp_path, count=3, seed=2) as reader:
        assert len(reader.sources()) == 2
    assert files(root) == made


def test_roots_are_absolute_since_tasks_may_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "pairs.csv").write_text("id,person1,person2,split,captions\n")
    for kind, expected in (("interhuman", InterHumanReader), ("bvh", BvhPairReader)):
        with reader_for(kind, Path("raw"), scratch=tmp_path) as reader:
            assert isinstance(reader, expected)
            assert reader.root == tmp_path / "raw"


def test_what_cannot_be_read_is_told(tmp_path):
    with (
        pytest.raises(UserError, match=r"'fbx' \(allowed: duet, interhuman, bvh\)"),
        reader_for("fbx", None, scratch=tmp_path),
    ):
        pass
    for kind in set(READERS) - {"duet"}:
        with (
            pytest.raises(UserError, match=rf"{kind}: .* \(allowed: --root DIR\)"),
            reader_for(kind, None, scratch=tmp_path),
        ):
            pass
