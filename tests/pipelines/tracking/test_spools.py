"""The spool of a run: what is in it, however its processes end, on a disk and in the storage of a URI."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from upath import UPath

from intermoe.errors import UserError, UserNote
from intermoe.files import write_note
from intermoe.places import as_place, is_folder
from pipelines.cli import main
from pipelines.tracking import delivery
from pipelines.tracking.lines import DAMAGED, line_of
from pipelines.tracking.run_log import join
from pipelines.tracking.runs import Run
from pipelines.tracking.spool import Spool, Undelivered
from pipelines.tracking.spools import RemoteSpool, spools_below
from pipelines.tracking.sync import sync

RUN_ID = "0123456789abcdef" * 2
APPEND = """
import sys
from pathlib import Path
from pipelines.tracking.spool import Spool
spool = Spool(Path(sys.argv[1]), sys.argv[2], "store")
for step in range(300):
    spool.append("points", 1, step=step, values={sys.argv[3]: 1.0})
"""


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A store."""
    return f"sqlite:///{tmp_path}/store/mlflow.db"


def steps(spool: Spool) -> list[int]:
    return [entry.arguments["step"] for entry in spool.entries()]


def test_lines_of_several_processes_are_all_there_and_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-c", APPEND, str(tmp_path / "tracking"), RUN_ID]
    processes = [subprocess.Popen([*command, name]) for name in ("a", "b", "c")]
    assert [process.wait() for process in processes] == [0, 0, 0]
    (spool,) = spools_below(tmp_path)
    assert (spool.run_id, spool.store) == (RUN_ID, "store")
    logged = [(name, entry.arguments["step"]) for entry in spool.entries() for name in entry.arguments["values"]]
    assert sorted(logged) == [(name, step) for name in ("a", "b", "c") for step in range(300)]
    assert spool.undelivered() == Undelivered(points=900)


def test_half_a_line_spoils_no_other(tmp_path: Path) -> None:
    spool = Spool(tmp_path, RUN_ID)
    spool.append("points", 1, step=1, values={})
    with spool.file.open("a") as file:
        file.write('{"kind": "poin')
    assert steps(spool) == [1]
    Spool(tmp_path, RUN_ID).append("points", 1, step=2, values={})
    assert steps(spool) == [1, 2]


def test_what_was_delivered_is_not_there_any_more(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "tracking", RUN_ID)
    (tmp_path / "picture.png").write_bytes(b"1234")
    held = spool.hold(tmp_path / "picture.png")
    spool.append("artifact", 1, **held, folder=None)
    spool.append("tags", 1, tags={"a": "b"})
    assert spool.undelivered() == Undelivered(files=1, notes=1, bytes=4)
    assert str(spool.undelivered()) == "1 file, 1 note"
    first, second = spool.entries()
    spool.note_delivered(first)
    assert not (spool.folder / held["held"]).exists()
    assert str(Spool(tmp_path / "tracking", RUN_ID).undelivered()) == "1 note"
    assert not spool.remove_if_delivered()
    spool.note_delivered(second)
    with spool.delivering() as alone, Spool(tmp_path / "tracking", RUN_ID).delivering() as other:
        assert (alone, other) == (True, False)
        assert spool.remove_if_delivered()
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    spool.append("points", 1, step=3, values={})
    assert steps(spool) == [3]


def test_no_password_is_in_a_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.tracking.runs._ASK_SECONDS", 0.1)
    run = Run("http://user:secret@127.0.0.1:9", RUN_ID, tmp_path)
    run.log_metrics({"loss": 1.0}, 1)
    with pytest.warns(UserNote) as notes:
        run.finish(patience=0.1)
    assert "http://127.0.0.1:9" in (tmp_path / "tracking" / f"{RUN_ID}.jsonl").read_text()
    texts = [file.read_text() for file in (tmp_path / "tracking").iterdir()]
    assert not any("secret" in text for text in (*texts, *(str(note.message) for note in notes)))


@pytest.mark.slow
def test_in_a_storage_what_waits_is_saved_with_each_checkpoint(
    bucket: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = as_place(f"{bucket}/spooled")
    write_note(folder / "run.json", {})
    run = Run.start(uri, "stored", "a run", params={}, folder=folder)
    (tmp_path / "picture.png").write_bytes(b"1234")
    with monkeypatch.context() as away:
        away.setattr(delivery.Delivery, "_send", _fail)
        for step in (10, 20):
            run.log_metrics({"loss": 1.0 * step}, step)
        run.log_artifact(tmp_path / "picture.png")
        run.save()
        # After the checkpoint, before the process is killed.
        run.log_metrics({"loss": 30.0}, 30)
        _end_thread(run, monkeypatch)
        (name,) = [path.name for path in (folder / "tracking" / "driver").iterdir() if path.name.endswith(".jsonl")]
        again = Run.reopen(uri, name.partition(".")[0], folder)
        again.log_metrics({"loss": 30.0}, 30)
        with pytest.warns(UserNote, match=r"yet: 3 points, 1 file, 2 notes \(away\); `intermoe sync s3://"):
            again.finish(patience=2.0)
    (line,) = sync([folder])
    assert line.endswith(f"delivered 3 points, 1 file, 2 notes to run {again.id} in MLflow at {uri}")
    client = MlflowClient(uri)
    history = client.get_metric_history(again.id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(10, 10.0), (20, 20.0), (30, 30.0)]
    assert [file.path for file in client.list_artifacts(again.id)] == ["picture.png"]
    assert client.get_run(again.id).info.status == "FINISHED"
    assert list(sync([folder])) == [f"{folder}: nothing is left to deliver"]


@pytest.mark.slow
def test_the_driver_delivers_what_a_worker_has_left_in_a_storage(
    bucket: str, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = as_place(f"{bucket}/left")
    driver = Run.start(uri, "stored", "a run", params={}, folder=folder)
    with monkeypatch.context() as away:
        away.setattr(delivery.Delivery, "_send", _fail)
        worker = join(uri, driver.id, folder)
        assert isinstance(worker, Run)
        worker.log_metrics({"loss": 1.0}, 10)
        with pytest.warns(UserNote, match=r"yet: 1 point \(away\)"):
            worker.close(patience=2.0)
        _end_thread(worker, monkeypatch)
    driver.finish()
    history = MlflowClient(uri).get_metric_history(driver.id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(10, 1.0)]
    assert not folder.exists()


def test_what_a_process_saves_to_a_storage_while_another_delivers_what_it_had_saved_before_stays(bucket: str) -> None:
    home = as_place(f"{bucket}/raced/tracking/worker")
    assert isinstance(home, UPath)
    worker = RemoteSpool(home, RUN_ID, "store")
    worker.append("points", 1, step=1, values={"loss": 1.0})
    worker.save()
    driver = RemoteSpool(home, RUN_ID)
    worker.append("points", 1, step=2, values={"loss": 2.0})
    worker.save()
    (entry,) = driver.entries()
    driver.note_delivered(entry)
    assert driver.remove_if_delivered()
    assert steps(RemoteSpool(home, RUN_ID)) == [1, 2]
    for entry in worker.entries():
        worker.note_delivered(entry)
    assert worker.remove_if_delivered()
    assert not is_folder(home)


def test_what_another_process_has_delivered_and_removed_is_saved_again_with_the_lines_that_speak_of_it(
    bucket: str, tmp_path: Path
) -> None:
    home = as_place(f"{bucket}/held/tracking/worker")
    assert isinstance(home, UPath)
    (tmp_path / "plot.png").write_bytes(b"plot")
    worker = RemoteSpool(home, RUN_ID, "store")
    worker.append("artifact", 1, **worker.hold(tmp_path / "plot.png"), folder=None)
    worker.save()
    driver = RemoteSpool(home, RUN_ID)
    for entry in driver.entries():
        driver.note_delivered(entry)
    assert driver.remove_if_delivered()
    worker.append("points", 1, step=2, values={"loss": 2.0})
    worker.save()
    left = RemoteSpool(home, RUN_ID)
    assert [entry.kind for entry in left.entries()] == ["artifact", "points"]
    left.check()


def _end_thread(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if its process had ended: its thread reads no line any more, and so delivers and removes nothing."""
    monkeypatch.setattr(run._spool, "entries", _fail)


def _fail(*_: object) -> None:
    raise OSError("away")


def test_lines_that_follow_those_that_are_gone_are_not_taken_for_delivered(tmp_path: Path) -> None:
    spool = Spool(tmp_path, RUN_ID, "store")
    for step in range(40):
        spool.append("points", 1, step=step, values={"loss": 1.0})
    spool.note_delivered(list(spool.entries())[19])
    spool.file.unlink()
    again = Spool(tmp_path, RUN_ID, "store")
    for step in range(5):
        again.append("points", 1, step=100 + step, values={"loss": 1.0})
    assert steps(again) == [100, 101, 102, 103, 104]


@pytest.mark.parametrize("noted", [10**12, -5, 10**400])
def test_what_a_note_says_that_cannot_be_is_not_believed(tmp_path: Path, noted: int) -> None:
    """All is delivered again then, of which MLflow adds nothing twice."""
    spool = Spool(tmp_path, RUN_ID, "store")
    spool.append("points", 1, step=1, values={"loss": 1.0})
    write_note(tmp_path / f"{RUN_ID}.json", {"delivered": noted})
    assert steps(spool) == [1]
    assert spool.damages() == [f"{spool.file}: its end is cut off"]
    assert not spool.remove_if_delivered()


@pytest.mark.parametrize(
    "fields", [{"time": float("inf"), "step": 1}, {"time": 1, "step": float("inf")}, {"time": 1, "step": 10**30}]
)
def test_numbers_that_no_store_holds_are_damage(tmp_path: Path, fields: dict[str, float]) -> None:
    spool = Spool(tmp_path, RUN_ID, "store")
    spool.append("points", 1, step=1, values={"loss": 1.0})
    with spool.file.open("ab") as stream:
        stream.write(line_of({"kind": "points", **fields, "values": {"loss": 1.0}}))
        stream.write(line_of({"kind": "points", "time": 1, "step": 2, "values": {"loss": 10**400}}))
    assert [entry.kind for entry in spool.entries()] == ["points", DAMAGED, DAMAGED]


def test_a_pipe_in_the_place_of_a_spool_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "tracking").mkdir()
    os.mkfifo(tmp_path / "tracking" / f"{RUN_ID}.jsonl")
    assert spools_below(tmp_path) == []


def test_a_spool_in_use_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process delivers while it is checked is gone by then."""
    (tmp_path / "weights").write_bytes(b"weights")
    spool = Spool(tmp_path / "tracking", RUN_ID, "store")
    spool.append("artifact", 1, **spool.hold(tmp_path / "weights"), folder=None)
    (entry,) = spool.entries()
    monkeypatch.setattr(spool, "entries", lambda: iter([entry]))
    shutil.rmtree((spool.folder / entry.arguments["held"]).parent)
    with pytest.raises(UserError, match="weights does not match its checksum: it is damaged"):
        spool.check()
    spool.note_delivered(entry)
    spool.check()
    assert spool.delivered == entry.end


def test_sync_of_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        list(sync([tmp_path / "nothing"]))
    where = tmp_path / "nothing"
    assert str(error.value) == f"{where}: no such folder (allowed: the folder of a run or of a sweep)"
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / "notes.jsonl").write_text(json.dumps({"kind": "points"}))
    assert list(sync([tmp_path])) == [f"{tmp_path}: nothing is left to deliver"]


@pytest.mark.slow
def test_sync_delivers_the_other_runs_too_where_one_cannot_be(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.tracking.sync._PATIENCE", 1.0)
    run = Run.start(uri, "stored", "a run", params={}, folder=tmp_path / "b")
    run.close()
    for folder, run_id in ((tmp_path / "a", "0" * 32), (tmp_path / "b", run.id), (tmp_path / "c", "1" * 32)):
        Spool(folder / "tracking", run_id, uri).append("points", 1, step=3, values={"loss": 0.5})
    lines = []
    with pytest.raises(UserError) as error:
        lines.extend(iter(sync([tmp_path / name for name in "abc"])))
    assert str(error.value) == (
        f"2 runs have something left; the first: {tmp_path}/a/tracking: run {'0' * 32} still has 1 point "
        f"to deliver: Run with id={'0' * 32} not found (allowed: `intermoe sync` again, when MLflow takes it)"
    )
    assert lines == [f"{tmp_path}/b/tracking: delivered 1 point to run {run.id} in MLflow at {uri}"]
    assert [point.step for point in MlflowClient(uri).get_metric_history(run.id, "loss")] == [3]


def test_a_damaged_line_is_left_out_and_touches_nothing_outside_the_spool(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").touch()
    spool = Spool(tmp_path / "tracking", RUN_ID, "store")
    spool.append("points", 1, step=1, values={"loss": 1.0})
    for held in (str(mine / "file"), "../mine/file", "0" * 32, f"{'0' * 32}/..", f"{'0' * 32}/a/b", 3):
        spool.append("artifact", 1, held=held, folder=None)
    for damaged in (
        {"step": 2},
        {"step": "x", "values": {}},
        {"step": 2, "values": {"loss": "x"}},
        {"step": 2, "values": 3},
    ):
        spool.append("points", 1, **damaged)
    with spool.file.open("ab") as file:
        file.write(b"[]\n" + b"[" * 100_000 + b"\n")
    spool.append("points", 1, step=3, values={"loss": 2.0})
    kinds = [entry.kind for entry in spool.entries()]
    assert kinds == ["points", *[DAMAGED] * 12, "points"]
    assert spool.undelivered() == Undelivered(points=2)
    for entry in spool.entries():
        spool.note_delivered(entry)
    assert (mine / "file").exists()


def test_arguments_that_a_kind_does_not_have_are_refused(tmp_path: Path, uri: str) -> None:
    run = Run.start(uri, "tests", "run", params={}, folder=tmp_path)
    spool = Spool(tmp_path / "tracking", run.id, uri)
    spool.append("tags", 1, labels={})
    run.log_metrics({"loss": 1.0}, 1)
    with pytest.warns(UserNote, match="MLflow did not take 1 of what was logged, such as tags: a damaged line"):
        run.finish()
    assert MlflowClient(uri).get_run(run.id).info.status == "FINISHED"


@pytest.mark.slow
def test_what_was_changed_in_a_spool_is_named_and_all_else_delivered(
    tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = Run.start(uri, "tests", "run", params={})
    spool = Spool(tmp_path / "tracking", run.id, uri)
    for step in (1, 2, 3):
        spool.append("points", step, step=step, values={"loss": 0.5})
    (tmp_path / "picture.png").write_bytes(b"1234")
    held = spool.hold(tmp_path / "picture.png")
    spool.append("artifact", 4, **held, folder=None)
    spool.file.write_bytes(spool.file.read_bytes().replace(b'"step": 2', b'"step": 9') + b'{"kind"')
    (spool.folder / held["held"]).write_bytes(b"12345")
    note = spool.folder / f"{run.id}.json"
    note.write_text('{"delivered": 1')
    assert main(["sync", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    left = "what is left is delivered"
    assert printed.out == f"{spool.folder}: delivered 2 points, 1 file to run {run.id} in MLflow at {uri}\n"
    assert [line for line in printed.err.splitlines() if line.startswith(("note", "error"))] == [
        f"note: {note}: cannot be read: it is damaged, or no JSON object; {left}",
        f"note: {spool.file}: its end is cut off; {left}",
        f"error: {spool.file}: damaged: not as it was written; left out: 2, all else is delivered",
    ]
    history = MlflowClient(uri).get_metric_history(run.id, "loss")
    assert [metric.step for metric in history] == [1, 3]
    assert MlflowClient(uri).list_artifacts(run.id) == []


def test_half_a_line_that_a_full_disk_has_left_is_gone_with_the_next_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path, RUN_ID, "store")
    spool.append("points", 1, step=1, values={})
    with spool.file.open("ab") as file:
        file.write(b'{"kind": "points", ' + b" " * 100_000)
    spool.append("points", 1, step=2, values={})
    assert steps(spool) == [1, 2]
    assert spool.damages() == []
