"""The long form of tests/pipelines/tracking: outages of a minute, and first commands at once, twenty times."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty_server import FAULTS, Door, plain_server
from mlflow import MlflowClient

from pipelines.cli import main
from pipelines.tracking.runs import Run

pytestmark = pytest.mark.faults
_OUTAGE_SECONDS = 60
_ROUNDS, _AT_ONCE = 20, 3

# A worker of a training, as far as MLflow is concerned: a step of some work, then points, now and then a checkpoint.
# It prints its last step and the median seconds of a step.
WORKER = """
import statistics, sys, time
from pathlib import Path
import torch
from pipelines.tracking.run_log import join
uri, run_id, folder, seconds = sys.argv[1:]
worker = join(uri, run_id, Path(folder))
torch.set_num_threads(1)
matrix_NN = torch.randn(256, 256)
first = int(Path(folder, "step").read_text()) if Path(folder, "step").exists() else 0
began, step, took = time.monotonic(), first, []
while time.monotonic() - began < float(seconds):
    at = time.monotonic()
    for _ in range(8):
        matrix_NN = (matrix_NN @ matrix_NN).tanh()
    step += 1
    worker.log_metrics({f"curve{number}": step / 2 for number in range(5)}, step)
    if step % 100 == 0:
        worker.save()
        Path(folder, "step").write_text(str(step))
    took.append(time.monotonic() - at)
print(step, statistics.median(took), flush=True)
time.sleep(600)
"""
DRIVER = """
import sys, time
from pathlib import Path
from pipelines.tracking.runs import Run
uri, run_id, folder = sys.argv[1:]
run = Run.reopen(uri, run_id, Path(folder))
time.sleep(600)
"""


def _work(door: Door, run_id: str, folder: Path, seconds: float) -> tuple[int, float]:
    """Train for some seconds, then be killed; the last step, and the median seconds of a step."""
    words = [door.uri, run_id, str(folder)]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *words])
    worker = subprocess.Popen([sys.executable, "-c", WORKER, *words, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    step, median = worker.stdout.readline().split()
    for process in (driver, worker):
        process.kill()
        process.wait()
    return int(step), float(median)


@pytest.mark.parametrize("fault", FAULTS)
def test_steps_take_as_long_as_ever_and_each_point_is_there_once(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that are killed at the end of each minute, by turns with a server and without one."""
    (tmp_path / "server").mkdir()
    with plain_server(tmp_path / "server") as port:
        door = Door(port)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", door.uri)
        folder = tmp_path / "run"
        folder.mkdir()
        run = Run.start(door.uri, "faults", "worker", params={}, folder=folder)
        medians: dict[str | None, list[float]] = {None: [], fault: []}
        step = 0
        for turn, seconds in ((None, 15), (fault, _OUTAGE_SECONDS), (None, 15), (fault, 15), (None, 15)):
            if turn:
                door.break_by(turn)
            step, median = _work(door, run.id, folder, seconds)
            medians[turn].append(median)
            door.heal()
        ratio = statistics.median(medians[fault]) / statistics.median(medians[None])
        assert ratio < 1.05, f"{fault}: {ratio:.3f} of the time of a step without it"
        assert main(["sync", str(folder)]) == 0
        client = MlflowClient(f"http://127.0.0.1:{port}")
        for number in range(5):
            history = client.get_metric_history(run.id, f"curve{number}")
            assert [(metric.step, metric.value) for metric in history] == [
                (number, number / 2) for number in range(1, step + 1)
            ]
        door.close()


FIRST = """
import sys
from pipelines.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_first_commands_at_once_all_work(tmp_path: Path) -> None:
    """Each is refused for what it asks, since there is no such run, and none for the store."""
    refused = []
    for turn in range(_ROUNDS):
        folder = tmp_path / str(turn)
        folder.mkdir()
        command = [sys.executable, "-c", FIRST, "generate", "x", "--model", "0123456789abcdef" * 2, "--out", "o"]
        processes = [subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) for _ in range(_AT_ONCE)]
        refused += [process.communicate(timeout=300)[1] for process in processes]
        assert {path.name for path in folder.iterdir()} == {"mlflow.db"}
    assert len(refused) == _ROUNDS * _AT_ONCE
    assert all("Run with id=0123456789abcdef0123456789abcdef not found" in text for text in refused), refused
    assert all(text.count("\n") == 1 for text in refused)


def test_a_server_that_stands_still_is_one_line_within_twenty_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "server").mkdir()
    with plain_server(tmp_path / "server") as port:
        door = Door(port)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", door.uri)
        door.break_by("hang")
        began = time.monotonic()
        assert main(["generate", "x", "--model", "0" * 32, "--out", str(tmp_path / "out")]) == 2
        assert time.monotonic() - began < 20
        assert capsys.readouterr().err == f"error: {door.uri}: MLflow does not answer: timed out\n"
        door.heal()
        door.close()
