"""Full disks under whole commands, nearly all without Ray; test_full_disk.py has the writers and those that need it."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from published_files import SMALL_WORDS, small_files, write_stats
from small_disk import SmallDisk
from trained_folder import TRIAL, Begun, install_mlflow, stop_before_ray, without_ray, write_sweep

from intermoe.body.skeletons import SMPL22
from intermoe.errors import UserError
from intermoe.motion import _WRITERS, Motion
from pipelines.cli import main
from pipelines.sweep.file import load as load_sweep
from pipelines.sweep.prerequisites import Prerequisites
from pipelines.tracking.database import make_database

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NO_ROOM = "cannot be written: No space left on device"
FULL, ROOMY = 4, 60_000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with a trained run, and what they were made of."""
    root = tmp_path_factory.mktemp("full")
    write_sweep(root)
    return root


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)
    install_mlflow(monkeypatch)


Refused = Callable[..., None]


@pytest.fixture
def refused(disk: SmallDisk, capsys: pytest.CaptureFixture[str]) -> Refused:
    """A function that runs a command on the disk with room for nothing, and expects a line that names a file."""

    def refused(words: Sequence[object], *, below: str, kib: int = FULL, left: Sequence[str] | None = ()) -> None:
        disk.resize(kib)
        assert main([str(word) for word in words]) == 2
        (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
        assert re.fullmatch(f"error: {disk.root}/{below}: {NO_ROOM}", line), line
        assert left is None or disk.files() == list(left)
        disk.resize(ROOMY)

    return refused


def works(words: Sequence[object]) -> None:
    assert main([str(word) for word in words]) == 0


def contents(folder: Path) -> dict[str, bytes]:
    """The files in a folder, but videos: their encoder has several threads, whose order shows in the bytes."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".mp4")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize("suffix", _WRITERS)
def test_a_motion_in_each_form(disk, tmp_path, suffix):
    draw = np.random.default_rng(0)
    motion = Motion(
        draw.standard_normal((40, 2, 22, 3)).astype(np.float32),
        draw.standard_normal((40, 2, 21, 6)).astype(np.float32),
        30,
        "They bow.",
        SMPL22,
    )
    disk.resize(FULL)
    with pytest.raises(UserError) as caught:
        motion.save(disk.root / f"a{suffix}")
    assert re.fullmatch(f"{disk.root}/a(_person1)?{re.escape(suffix)}: {NO_ROOM}", str(caught.value))
    assert disk.files() == []
    disk.resize(ROOMY)
    motion.save(disk.root / f"a{suffix}")
    motion.save(tmp_path / f"whole/a{suffix}")
    assert contents(disk.root) == contents(tmp_path / "whole")


def test_generate_with_a_routing_map(refused, root, disk, tmp_path):
    given = ["--model", root / "sweep" / TRIAL / "denoiser", "--seconds", 0.6, "--routing-map"]
    words = ["generate", "Bow.", *given, "--out"]
    works([*words, tmp_path / "whole"])
    size = (tmp_path / "whole/00_bow.npz").stat().st_size
    for kib, file in ((FULL, "00_bow.npz"), (size // 1024 + 12, "00_bow.routing.png")):
        refused([*words, disk.root / "out"], below=f"out/{file}", kib=kib)
    works([*words, disk.root / "out"])
    assert contents(disk.root / "out") == contents(tmp_path / "whole")


def test_report(refused, root, disk, tmp_path):
    works(["report", root / "sweep", "--out", tmp_path / "whole"])
    size = sum(file.stat().st_size for file in (tmp_path / "whole").glob("*.png"))
    for kib, file in ((FULL, "(training|cost).png"), (size // 1024 + 24, "report.html")):
        refused(["report", root / "sweep", "--out", disk.root / "out"], below=f"out/{file}", kib=kib)
    works(["report", root / "sweep", "--out", disk.root / "out"])
    assert contents(disk.root / "out") == contents(tmp_path / "whole")


def test_import(refused, disk, tmp_path):
    files, stats = small_files(tmp_path), write_stats(tmp_path / "stats")
    given = ["--denoiser", files["denoiser"], "--vae", files["vae"], "--stats", stats, *SMALL_WORDS]
    words = ["import", "published", *given, "--out"]
    works([*words, tmp_path / "whole"])
    refused([*words, disk.root / "model"], below=r"model/\w+\.safetensors")
    works([*words, disk.root / "model"])
    assert contents(disk.root / "model") == contents(tmp_path / "whole")


class InProcess:
    """Stands in for Ray Data: the rows of a list, and an actor that takes them in turn."""

    def __init__(self, rows: Sequence[dict[str, int]]) -> None:
        self._rows = rows

    def map_batches(self, actor: Any, *, fn_constructor_args: Any, fn_constructor_kwargs: Any, **_: Any) -> "InProcess":
        self._actor = actor(*fn_constructor_args, **fn_constructor_kwargs)
        return self

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        for row in self._rows:
            answer = self._actor({"job": np.array([row["job"]])})
            yield {name: values[0] for name, values in answer.items()}


def test_evaluate(refused, root, disk, tmp_path, monkeypatch):
    data = SimpleNamespace(from_items=lambda rows, **_: InProcess(rows), ActorPoolStrategy=lambda **_: None)
    monkeypatch.setattr("pipelines.evaluate.evaluate.ray", SimpleNamespace(data=data))
    few = ["evaluation.multimodality.captions=0", "evaluation.batch_size=2"]
    given = ["--model", root / "sweep" / TRIAL / "denoiser", "--evaluator", root / "evaluator", *few]
    words = ["evaluate", *given, "--out"]
    works([*words, tmp_path / "whole"])
    # What is done stays: the same command goes on with it.
    for kib, file in ((FULL, r"plan\.json"), (40, r"parts/[\w-]+\.npz")):
        refused([*words, disk.root / "out"], below=rf"\.out\.partial/{file}", kib=kib, left=None)
    works([*words, disk.root / "out"])
    before, after = (contents(folder)["results.json"] for folder in (tmp_path / "whole", disk.root / "out"))
    assert after == before


def test_sweep(refused, root, disk, tmp_path, monkeypatch):
    """Its notes; what it makes are trainings and evaluations."""
    keys = [trial.key for trial in load_sweep(ROOT / "sweeps/smoke.yaml").trials]
    made = Prerequisites(root / "shards", dict.fromkeys(keys, root / "vae"), root / "evaluator")
    monkeypatch.setattr("pipelines.sweep.sweep.make_shared", lambda *_: made)
    monkeypatch.setattr("pipelines.sweep.sweep._run", lambda *_: {})
    monkeypatch.setattr("pipelines.report.report.report", lambda _folder, out, **_: [out])
    words = ["sweep", ROOT / "sweeps/smoke.yaml", "--out"]
    works([*words, tmp_path / "whole"])
    refused([*words, disk.root / "out"], below=r"out/sweep\.json")
    refused([*words, disk.root / "out"], below=r"out/tracking: smoke\.yaml", kib=8, left=["out/sweep.json"])
    works([*words, disk.root / "out", "--resume"])
    assert contents(disk.root / "out") == contents(tmp_path / "whole")


def test_demo(ray_session, refused, disk, monkeypatch):
    refused(["demo", "--out", disk.root / "out"], below="out/duet")
    stop_before_ray(monkeypatch)
    with pytest.raises(Begun):
        main(["demo", "--out", str(disk.root / "out")])


def test_sync(root, disk, monkeypatch, capsys):
    client = install_mlflow(monkeypatch)
    monkeypatch.setattr("pipelines.tracking.sync._PATIENCE", 1.0)
    disk.resize(ROOMY)
    run = disk.root / "run"
    (run / "tracking").mkdir(parents=True)
    shutil.copytree(root / "sweep" / TRIAL / "denoiser/tracking", run / "tracking", dirs_exist_ok=True)
    # In memory a file takes whole pages.
    disk.resize(4 * sum(-(-path.stat().st_size // 4096) for path in run.rglob("*") if path.is_file()))
    assert main(["sync", str(run)]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert line.startswith(f"error: {run}/tracking: ")
    assert "No space left on device" in line
    disk.resize(ROOMY)
    works(["sync", run])
    assert disk.files() == []
    # What could not be noted as delivered is written again, which MLflow takes for the same.
    assert list(dict.fromkeys(name for name, _ in client.written)) == [
        "log_batch",
        "set_tag",
        "log_artifact",
        "set_terminated",
    ]


def test_the_database_of_mlflow(disk):
    database = disk.root / "mlflow.db"
    with pytest.raises(UserError) as caught:
        make_database(database)
    assert str(caught.value) == f"{database}: cannot be written: database or disk is full"
    assert disk.files() == [".mlflow.db.lock"]
    disk.resize(ROOMY)
    make_database(database)
    assert disk.files() == ["mlflow.db"]


def test_register(root, disk, store, tmp_path, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setattr(tempfile, "tempdir", str(disk.root))
    words = ["register", str(root / "vae"), "--alias", "best", "--name", "full-disk"]
    assert main(words) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert re.fullmatch(f"error: {disk.root}.*: {NO_ROOM}", line), line
    assert disk.files() == []
    disk.resize(ROOMY)
    works(words)
