"""What a training worker logs without MLflow."""

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.tracking.run_log import RunLog, join
from pipelines.tracking.runs import Run


def test_a_worker_logs_what_the_process_that_opened_the_run_delivers(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/store/mlflow.db"
    driver = Run.start(uri, "tests", "a run", params={}, folder=tmp_path / "run")
    worker = join(uri, driver.id, tmp_path / "run")
    assert type(worker) is RunLog
    worker.log_metrics({"loss": 0.5}, 3)
    worker.set_tags({"place": "here"})
    worker.close()
    driver.finish()
    run = MlflowClient(uri).get_run(driver.id)
    assert (run.data.metrics, run.data.tags["place"]) == ({"loss": 0.5}, "here")


@pytest.mark.slow
def test_no_worker_imports_mlflow() -> None:
    """Which takes two seconds of each of them."""
    modules = "pipelines.train.worker, pipelines.train.feed, pipelines.evaluate.actor, pipelines.preprocess.tasks"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print('mlflow' in sys.modules)"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "False\n")
