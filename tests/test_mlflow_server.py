"""The MLflow server of infra/mlflow, started: who has no password gets nothing, not even an artifact."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import requests
import yaml
from mlflow.server import get_app_client

ROOT = Path(__file__).parents[1]
PASSWORD = "a-password-of-the-test"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server that compose.yaml starts, with files instead of PostgreSQL and S3, on loopback."""
    folder = tmp_path_factory.mktemp("server")
    rights = (ROOT / "infra/mlflow/basic_auth.ini").read_text("utf-8")
    (folder / "basic_auth.ini").write_text(rights.replace("= postgresql://", f"= sqlite:///{folder}/users.db"), "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = {
        "--backend-store-uri": f"sqlite:///{folder}/runs.db",
        "--artifacts-destination": (folder / "artifacts").as_uri(),
        "--host": "127.0.0.1",
        "--port": str(port),
        "--workers": "1",
    }
    compose = yaml.safe_load((ROOT / "infra/mlflow/compose.yaml").read_text("utf-8"))["services"]["mlflow"]
    words = [word.partition("=") for word in compose["command"][1:]]
    command = [name + sign + here.get(name, value) for name, sign, value in words]
    environment = os.environ | {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-of-the-test",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": compose["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"],
    }
    log = (folder / "log").open("w")
    started = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *command],
        cwd=folder,
        env=environment,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                requests.get(f"{address}/health", timeout=5).raise_for_status()
                break
            except requests.RequestException:
                assert started.poll() is None, (folder / "log").read_text("utf-8")
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        started.wait()
        log.close()


@pytest.mark.slow
def test_only_a_password_opens_runs_and_artifacts(server: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    get_app_client("basic-auth", tracking_uri=server).create_user("cluster", "a-password-of-the-cluster")
    client = mlflow.MlflowClient(server)
    run = client.create_run(client.create_experiment("shared"))
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")

    # Another user of the team adds to a run of the same experiment.
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "cluster")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-password-of-the-cluster")
    run = client.create_run(run.info.experiment_id)
    client.log_text(run.info.run_id, "a result", "result.txt")

    page = f"get-artifact?run_uuid={run.info.run_id}&path=result.txt"
    proxied = run.info.artifact_uri.replace("mlflow-artifacts:", "api/2.0/mlflow-artifacts/artifacts") + "/result.txt"
    for path in ("api/2.0/mlflow/experiments/search?max_results=5", page, proxied, ""):
        statuses = {
            password: requests.get(f"{server}/{path}", auth=("admin", password), timeout=30).status_code
            for password in ("", "password1234", PASSWORD)
        }
        assert statuses == {"": 401, "password1234": 401, PASSWORD: 200}, path
        assert requests.get(f"{server}/{path}", timeout=30).status_code == 401
