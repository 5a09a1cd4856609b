"""The MLflow server of infra/mlflow, started: who has no password gets nothing, not even an artifact."""

from collections.abc import Iterator

import mlflow
import pytest
import requests
from mlflow.server import get_app_client
from mlflow_server import PASSWORD, mlflow_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server that compose.yaml starts, with files instead of PostgreSQL and S3, on loopback."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as address:
        yield address


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
