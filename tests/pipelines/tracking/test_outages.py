"""A tracking server that is away, wrong or slow: nothing waits for it, nothing is lost, nothing is there twice."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty_server import FAULTS, Door
from mlflow import MlflowClient

from intermoe.errors import UserNote
from pipelines.cli import main
from pipelines.tracking import delivery
from pipelines.tracking.runs import Run
from pipelines.tracking.writer import MEASURED

pytestmark = pytest.mark.slow

LOSSES = [(step, 100.0 - step) for step in range(0, 200, 10)]


@pytest.fixture
def client(server_port: int) -> MlflowClient:
    """A client that does not go through the door."""
    return MlflowClient(f"http://127.0.0.1:{server_port}")


def start(door: Door, folder: Path) -> Run:
    return Run.start(door.uri, "outages", "a run", params={"seed": 1}, folder=folder)


def points(client: MlflowClient, run_id: str, name: str = "loss") -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def log(run: Run, losses: list[tuple[int, float]]) -> float:
    """Log some points; the most seconds that one took."""
    longest = 0.0
    for step, loss in losses:
        began = time.monotonic()
        run.log_metrics({"loss": loss, "norm": 1.0}, step)
        longest = max(longest, time.monotonic() - began)
    return longest


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_delays_nothing_and_has_everything_once_afterwards(
    fault: str, door: Door, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "SECONDS", 0.1)
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "weights").write_bytes(b"first")
    run = start(door, tmp_path)
    log(run, LOSSES[:5])
    assert run.flush()
    door.break_by(fault)
    began = time.monotonic()
    assert log(run, LOSSES[5:12]) < 0.5
    run.log_artifact(tmp_path / "best" / "weights", "samples")
    run.log_checkpoint(tmp_path / "best", 110, {"fid": 0.5})
    run.set_tags({"place": "here"})
    run.describe(f"before\n\n{MEASURED}")
    run.log_metrics({"loss/validation": 0.125}, 110)
    run.save()
    assert time.monotonic() - began < 2
    # As a later checkpoint does.
    (tmp_path / "best" / "weights").unlink()
    (tmp_path / "best" / "weights").write_bytes(b"second")
    time.sleep(1.5)
    door.heal()
    log(run, LOSSES[12:])
    run.describe(f"after\n\n{MEASURED}")
    run.finish()
    assert points(client, run.id) == LOSSES
    assert points(client, run.id, "fid") == [(110, 0.5)]
    logged = client.get_run(run.id)
    assert logged.info.status == "FINISHED"
    assert logged.data.tags["place"] == "here"
    table = "| measure | at the end |\n|---|---|\n| loss/validation | 0.125 |"
    assert logged.data.tags["mlflow.note.content"] == f"after\n\n{table}"
    (model,) = logged.outputs.model_outputs
    assert len(client.search_logged_models([logged.info.experiment_id], f"source_run_id = '{run.id}'")) == 1
    for held in (client.download_artifacts(run.id, "samples/weights"), f"{_files(client, model.model_id)}/weights"):
        assert Path(held).read_bytes() == b"first"
    assert {path.name for path in tmp_path.iterdir()} == {"best"}


def _files(client: MlflowClient, model_id: str) -> str:
    from mlflow.artifacts import download_artifacts

    model = client.get_logged_model(model_id)
    return download_artifacts(artifact_uri=model.artifact_location, tracking_uri=client.tracking_uri)


SCRIPT = """
import sys, time
from pathlib import Path
from pipelines.tracking.run_log import join
from pipelines.tracking.runs import Run
uri, run_id, folder, ready = sys.argv[1:]
run = join(uri, run_id, Path(folder)) if ready == "worker" else Run.reopen(uri, run_id, Path(folder))
for step in range(50, 120, 10):
    run.log_metrics({"loss": 100.0 - step, "norm": 1.0}, step)
print("logged", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("fault", ["500", "stored, then 500"])
def test_a_process_that_is_killed_during_an_outage_leaves_all_to_be_delivered(
    fault: str,
    door: Door,
    client: MlflowClient,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", door.uri)
    monkeypatch.setattr(delivery, "SECONDS", 0.1)
    run = start(door, tmp_path)
    log(run, LOSSES[:5])
    run.close()
    door.break_by(fault)
    command = [sys.executable, "-c", SCRIPT, door.uri, run.id, str(tmp_path), "driver"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "logged\n"
    time.sleep(1.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # In the middle of a line.
    with (tmp_path / "tracking" / f"{run.id}.jsonl").open("a") as spool:
        spool.write('{"kind": "points", "time": 1, "st')
    # A process that goes on from step 80 while the server is still away.
    again = Run.reopen(door.uri, run.id, tmp_path)
    log(again, LOSSES[8:])
    with pytest.warns(UserNote) as notes:
        again.finish(patience=1.0)
    (note,) = [str(note.message) for note in notes if note.category is UserNote]
    assert note.startswith(f"not in MLflow at {door.uri} yet: ")
    assert note.endswith(f"`intermoe sync {tmp_path}` delivers what is left")
    door.heal()
    assert main(["sync", str(tmp_path)]) == 0
    assert points(client, run.id) == LOSSES
    assert points(client, run.id, "norm") == [(step, 1.0) for step, _ in LOSSES]
    assert client.get_run(run.id).info.status == "FINISHED"
    capsys.readouterr()
    assert main(["sync", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: nothing is left to deliver\n"
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_a_proxy_finds_too_large_keeps_nothing_else_from_the_store(
    door: Door, client: MlflowClient, tmp_path: Path
) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "weights").write_bytes(bytes(20_000))
    run = start(door, tmp_path)
    assert run.flush()
    door.largest = 10_000
    run.log_artifact(tmp_path / "best" / "weights", "samples")
    run.log_checkpoint(tmp_path / "best", 10, {"fid": 0.5})
    log(run, LOSSES)
    with pytest.warns(UserNote) as notes:
        run.finish()
    assert points(client, run.id) == LOSSES
    assert client.get_run(run.id).info.status == "FINISHED"
    *_, note = [str(note.message) for note in notes]
    assert note.startswith("MLflow did not take 2 of what was logged, such as artifact: 413 ")


def test_an_outage_of_days_does_not_end_the_delivery(
    door: Door, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "SECONDS", 0.1)
    run = start(door, tmp_path)
    log(run, LOSSES[:1])
    assert run.flush()
    door.break_by("refuse")
    # As many requests as fail in two days.
    run._delivery._num_failures = 5000
    log(run, LOSSES[1:2])
    time.sleep(1)
    door.heal()
    run.finish()
    assert points(client, run.id) == LOSSES[:2]
