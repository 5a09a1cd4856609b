import numpy as np
import pytest
from PIL import Image
from small_model import WordEncoder, save_model, small_model

from intermoe.body.skeletons import SMPL22
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.model import InterMoE
from intermoe.motion import Motion
from pipelines.cli import main
from pipelines.figure import identity_error


def recorded(kind_index: int, caption: str) -> Motion:
    recording = make_interaction(seed=0, index=kind_index)
    return Motion(
        recording.position_TPJ3.astype(np.float32),
        recording.rotation_TPR6.astype(np.float32),
        30,
        caption,
        SMPL22,
    )


def test_who_acts_is_checked_where_the_words_are_duets():
    number = int(make_interaction(seed=0, index=1).label["actor"])
    names = ("the first person", "the second person")
    actor, other = names[number], names[1 - number]
    assert identity_error(recorded(1, f"{actor.capitalize()} bows deeply to {other}.")) is None
    assert identity_error(recorded(1, f"{other.capitalize()} bows deeply to {actor}.")) == f"identity: {actor} acts"
    assert identity_error(recorded(1, f"{other.capitalize()} curtsies to {actor}.")) is None


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A folder of a small model that has learned nothing."""
    monkeypatch.setattr(InterMoE, "encoder", WordEncoder())
    return save_model(tmp_path / "model", small_model())


def test_one_command_draws_all_prompts_of_all_models(model, tmp_path, capsys):
    out = tmp_path / "new" / "figure.png"
    words = ["figure", "Two people bow.", "They hug.", "--model", str(model), "--model", str(model)]
    assert main([*words, "--headings", "one", "two", "--out", str(out), "--seconds", "1", "--frames", "2"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.width > 4 * 288
    assert [file.name for file in out.parent.iterdir()] == ["figure.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "a.pdf"], "a.pdf: unknown suffix '.pdf' (allowed: .png)"),
        (["--out", "a.png", "--headings", "one", "two"], "--headings: 2 headings (allowed: 1, one for each model)"),
        (["--out", "there.png"], "there.png: exists already and is not overwritten (allowed: another name)"),
        (["--out", "a.png", "--seed", "-1"], "seed -1 (allowed: 0 or more)"),
        (["--out", "a.png", "--frames", "1"], "--frames: 1 (allowed: 2 or more)"),
        (["--out", "a.png", "--seconds", "60"], "seconds: 60 seconds are 1800 frames"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(model, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.png").write_bytes(b"")
    before = sorted(file.name for file in tmp_path.iterdir())
    assert main(["figure", "Two people bow.", "--model", str(model), *words]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {message}"), line
    assert sorted(file.name for file in tmp_path.iterdir()) == before


def test_what_can_be_known_is_refused_before_anything_is_generated(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(InterMoE, "generate", lambda *_, **__: pytest.fail("a motion is generated"))
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    words = ["figure", "Two people bow.", "--seconds", "1", "--model", str(model)]
    for more, message in (
        (["--model", str(tmp_path / "nowhere"), "--out", str(tmp_path / "a.png")], "nowhere"),
        (["--out", str(tmp_path / "file" / "a.png")], "is not a folder"),
        (["--out", str(tmp_path / "folder.png")], "is a folder (allowed: a file (.png))"),
        (["--out", str(tmp_path / f"{'n' * 5000}.png")], "too long"),
    ):
        assert main([*words, *more]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert message in lines[0]
