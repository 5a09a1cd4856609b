from pathlib import Path

import pytest

from intermoe.datasets.bvh import BvhPairReader
from intermoe.datasets.duet import write_duet
from intermoe.datasets.humanml3d import HumanML3DReader
from intermoe.datasets.interhuman import InterHumanReader
from intermoe.datasets.interx import InterXReader
from intermoe.errors import UserError
from pipelines.preprocess.request import PreprocessRequest
from pipelines.preprocess.sources import SourceConfig
from pipelines.site import Site


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_duet_without_a_root_is_made_for_as_long_as_it_is_read(tmp_path):
    with SourceConfig(format="duet", count=2, seed=1).reader(tmp_path / "new") as reader:
        sources = reader.sources()
        assert len(sources) == 2
        assert reader.read(sources[0])[0].captions
    assert list((tmp_path / "new").iterdir()) == []


def test_duet_with_a_root_is_made_once_and_kept(tmp_path):
    root = tmp_path / "raw" / "duet"
    with SourceConfig(format="duet", root=root, count=2, seed=1).reader(tmp_path) as reader:
        assert isinstance(reader, InterHumanReader)
    made = files(root)
    assert "split/train.txt" in made
    with SourceConfig(format="duet", root=root, count=2, seed=1).reader(tmp_path) as reader:
        assert len(reader.sources()) == 2
    assert files(root) == made


@pytest.mark.parametrize(("count", "seed"), [(3, 1), (2, 2)])
def test_a_root_of_duet_made_with_another_count_or_seed_is_refused(count, seed, tmp_path):
    write_duet(tmp_path / "raw", count=2, seed=1)
    with pytest.raises(UserError) as caught:
        SourceConfig(format="duet", root=tmp_path / "raw", count=count, seed=seed).check()
    assert str(caught.value) == (
        f"{tmp_path / 'raw'}: was made with count 2 and seed 1, not with count {count} and seed {seed}"
        " (allowed: count 2 and seed 1, or another --root)"
    )


def test_a_root_of_duet_in_another_layout_is_refused(tmp_path):
    write_duet(tmp_path / "raw", count=2, seed=1)
    source = SourceConfig(format="duet", root=tmp_path / "raw", count=2, seed=1, layout="interx")
    message = (
        f"{tmp_path / 'raw'}: was made with layout interhuman, count 2 and seed 1, not with layout interx, count 2 and "
        "seed 1 (allowed: layout interhuman, count 2 and seed 1, or another --root)"
    )
    for note in (None, '{"count": 2, "seed": 1}'):  # as folders have it that were made before there were layouts
        if note:
            (tmp_path / "raw/duet.json").write_text(note)
        with pytest.raises(UserError) as caught:
            source.check()
        assert str(caught.value) == message
    source.model_copy(update={"layout": "interhuman"}).check()


def test_duet_in_the_layout_of_interx_is_read_by_its_reader_with_the_body_written_beside_it(tmp_path):
    config = SourceConfig(format="duet", root=tmp_path / "raw", count=2, seed=1, layout="interx")
    for source in (config, config, config.model_copy(update={"root": None})):
        with source.reader(tmp_path / "new") as reader:
            assert isinstance(reader, InterXReader)
            assert (reader.body_model, reader.names_persons) == (reader.root / "body_model.npz", True)
            assert [len(reader.read(listed)) for listed in reader.sources()] == [1, 1]
    assert list((tmp_path / "new").iterdir()) == []


def test_a_root_of_duet_that_holds_something_else_is_refused(tmp_path):
    root = tmp_path / "raw"
    root.mkdir()
    SourceConfig(format="duet", root=root).check()  # an empty folder will be filled
    (root / "annots").mkdir()
    with pytest.raises(UserError) as caught:
        SourceConfig(format="duet", root=root).check()
    assert str(caught.value) == (f"{root}: was not made by duet (allowed: another --root, or a folder made by duet)")
    for damage in ("{", "[]"):
        (root / "duet.json").write_text(damage)
        with pytest.raises(UserError) as caught:
            SourceConfig(format="duet", root=root).check()
        assert str(caught.value) == f"{root / 'duet.json'}: cannot be read (allowed: what duet has written there)"


def test_solo_is_made_and_read_as_humanml3d(tmp_path):
    root = tmp_path / "raw"
    for source in (SourceConfig(format="solo", root=root, count=2, seed=1), SourceConfig(format="solo", count=2)):
        with source.reader(tmp_path / "new") as reader:
            assert isinstance(reader, HumanML3DReader)
            ids = [recording.id for listed in reader.sources() for recording in reader.read(listed)]
            assert sorted(ids) == ["000000", "000001", "M000000", "M000001"]
    assert list((tmp_path / "new").iterdir()) == []
    made = files(root)
    with SourceConfig(format="humanml3d", root=root).reader(tmp_path) as reader:
        assert len(reader.sources()) == 4
    SourceConfig(format="solo", root=root, count=2, seed=1).check()
    assert files(root) == made
    with pytest.raises(UserError) as caught:
        SourceConfig(format="solo", root=root, count=3, seed=1).check()
    assert str(caught.value) == (
        f"{root}: was made with count 2 and seed 1, not with count 3 and seed 1 (allowed: count 2 and seed 1, or "
        "another --root)"
    )
    with pytest.raises(UserError, match="was not made by duet"):
        SourceConfig(format="duet", root=root, count=2, seed=1).check()


def test_roots_are_absolute_since_tasks_may_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "pairs.csv").write_text("id,person1,person2,split,captions\n")
    for kind, expected in (
        ("interhuman", InterHumanReader),
        ("bvh", BvhPairReader),
        ("humanml3d", HumanML3DReader),
    ):
        with SourceConfig.parse({"format": kind, "root": "raw"}).reader(tmp_path) as reader:
            assert isinstance(reader, expected)
            assert reader.root == tmp_path / "raw"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "fbx"}, "format = 'fbx' (allowed: 'duet', 'interhuman', 'interx', 'bvh', 'solo' or 'humanml3d')"),
        ({"format": "duet", "count": 0}, "count = 0 (allowed: greater than or equal to 1)"),
        ({"format": "bvh", "scale": -1}, "scale = -1 (allowed: greater than 0)"),
        ({"format": "bvh", "fps": 4}, "fps = 4 (allowed: greater than or equal to 5)"),
        ({"format": "bvh", "fps": 1001}, "fps = 1001 (allowed: less than or equal to 1000)"),
    ],
)
def test_options_out_of_range_are_refused(values, message):
    with pytest.raises(UserError) as caught:
        SourceConfig.parse(values)
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", ["interhuman", "bvh", "humanml3d"])
def test_recordings_that_are_not_made_here_need_a_root(kind, tmp_path):
    with pytest.raises(UserError) as caught:
        SourceConfig.parse({"format": kind}).check()
    assert str(caught.value) == f"{kind}: the folder of the recordings is not given (allowed: --root DIR)"


def test_a_request_is_checked_before_anything_is_written(tmp_path):
    def request(out: str, **source: object) -> PreprocessRequest:
        return PreprocessRequest("x", SourceConfig.parse(source), "minilm", tmp_path / out, Site(""))

    duet = request("out", format="duet", root=str(tmp_path / "raw"))
    assert duet.checked() == duet
    with pytest.raises(UserError, match=f"{tmp_path / 'raw'}"):
        request("out", format="interhuman", root=str(tmp_path / "raw")).checked()
    assert list(tmp_path.iterdir()) == []
    write_duet(tmp_path / "raw", count=2, seed=0)
    request("out", format="interhuman", root=str(tmp_path / "raw")).checked()
    with pytest.raises(UserError) as caught:
        request("raw", format="duet").checked()
    assert str(caught.value) == (
        f"{tmp_path / 'raw'}: exists already and is not overwritten (allowed: a new or an empty folder)"
    )


def test_the_options_of_bvh_reach_its_reader(tmp_path):
    (tmp_path / "pairs.csv").write_text("id,person1,person2,split,captions\n")
    source = SourceConfig(format="bvh", root=tmp_path, mapping="lafan1", scale=0.01, fps=24, follow_links=True)
    with source.reader(tmp_path) as reader:
        assert isinstance(reader, BvhPairReader)
        assert (reader.scale, reader.fps, reader.mapping.tpose["Hips"]) == (0.01, 24, (90, 0, 90))
        assert reader.follow_links
