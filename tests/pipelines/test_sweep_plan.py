"""What is looked at before a sweep begins, and what it says it would do; test_sweep.py has whole sweeps."""

from pathlib import Path

import pytest
import yaml
from rich.console import Console

from intermoe.datasets.duet import write_duet
from intermoe.errors import UserError
from pipelines import sweep_file
from pipelines.settings import flatten
from pipelines.sweep import SWEEP_FILE, _shared, check_request, plan_table
from pipelines.tracking import Run

SMOKE = Path(__file__).resolve().parents[2] / "sweeps" / "smoke.yaml"


def load(folder: Path, *words: str, **data: object) -> sweep_file.Sweep:
    """smoke.yaml with other recordings."""
    values = yaml.safe_load(SMOKE.read_text())
    values["profiles"]["tiny"]["data"].update(data)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return sweep_file.load(folder / "sweep.yaml", words)


def steps(found: sweep_file.Sweep) -> list[str]:
    console = Console(width=120, record=True, quiet=True)
    (column,) = (column for column in plan_table(found).columns if column.header == "steps")
    console.print(plan_table(found))
    return [str(cell) for cell in column.cells]


def test_the_plan_counts_steps_as_far_as_the_recordings_are_known(tmp_path):
    assert steps(load(tmp_path)) == ["29", "29", "29"]  # 6 epochs of 0.8 * 48 recordings by 8
    missing = load(tmp_path, format="interhuman", root=str(tmp_path / "raw"))
    assert steps(missing) == ["?", "?", "?"]
    write_duet(tmp_path / "raw", count=20, seed=0)
    trained = len((tmp_path / "raw/split/train.txt").read_text().split())
    assert steps(missing) == [str(-(-6 * trained // 8))] * 3


def test_recordings_that_are_missing_are_told_before_anything_is_written(tmp_path):
    found = load(tmp_path, format="interhuman", root=str(tmp_path / "raw"))
    with pytest.raises(UserError, match="raw"):
        check_request(found, tmp_path / "out", resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]
    write_duet(tmp_path / "raw", count=10, seed=0)
    check_request(found, tmp_path / "out", resume=False)


def test_a_folder_that_is_taken_or_holds_no_sweep_is_refused(tmp_path):
    found = sweep_file.load(SMOKE)
    with pytest.raises(UserError, match="holds no sweep to resume"):
        check_request(found, tmp_path, resume=True)
    (tmp_path / SWEEP_FILE).write_text("{}")
    check_request(found, tmp_path, resume=True)
    with pytest.raises(UserError, match="exists and is not empty"):
        check_request(found, tmp_path, resume=False)


@pytest.mark.slow
def test_what_is_shared_is_made_once_and_gone_on_with_when_the_rest_of_the_file_has_changed(
    ray_session, store, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    found = load(tmp_path)
    with Run.start(store, "tests", "sweep", {}) as parent:
        with pytest.raises(UserError, match=r"evaluation\.pool = 40 \(allowed: at most \d, the recordings of the test"):
            _shared(load(tmp_path, "evaluation.pool=40"), tmp_path, parent)
        made = _shared(found, tmp_path, parent)
        when = [(path / "best/manifest.json").stat().st_mtime_ns for path in made[1:]]
        # As if the process had ended between the last checkpoint and the note.
        made[1].with_name(f"{made[1].name}.done").unlink()
        changed = load(tmp_path, "train.denoiser.epochs=3", "moe.sigma=0.005")
        assert flatten(changed.base.model_dump()) != flatten(found.base.model_dump())
        assert _shared(changed, tmp_path, parent) == made
        assert made[1].with_name(f"{made[1].name}.done").is_file()
        assert (made[2] / "best/manifest.json").stat().st_mtime_ns == when[1]
        other = _shared(load(tmp_path, "train.vae.learning_rate=0.001"), tmp_path, parent)
    assert other[0] == made[0]
    assert other[1] != made[1]
    assert other[2] == made[2]
