"""MLflow's pages as a child process."""

import os
import signal
import socket
import subprocess
import sys
from urllib.request import urlopen

import mlflow
import pytest

from intermoe.errors import UserError
from pipelines.tracking import pages
from pipelines.tracking.ui import ui


def test_a_port_in_use_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port} cannot be listened on: Address already in use"):
            ui(port=port)


@pytest.mark.parametrize("credentials", ["", "team:secret@", "team:s@cret@"])
def test_a_server_elsewhere_is_only_named_without_credentials(monkeypatch, capsys, credentials):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://{credentials}mlflow.example")
    ui()
    assert capsys.readouterr().out == "MLflow is served at https://mlflow.example\n"


def test_the_first_page_begins_in_the_view_for_trainings():
    client = pages.flask_app.test_client()
    page = client.get("/")
    assert page.status_code == 200
    head = page.get_data(as_text=True).partition("<head>")[2]
    assert head.startswith('<script>for (const [key, value] of Object.entries({"mlflow.workflowType_v1": "machine_lea')
    assert head.count("mlflow.workflowType_v1") == 1
    assert client.get("/version").get_data(as_text=True) == mlflow.__version__


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_ended_and_leaves_no_process(tmp_path, end):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", f"from pipelines.tracking.ui import ui; ui(port={port})"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(f"MLflow is served at http://127.0.0.1:{port}/#/experiments")
    with urlopen(f"http://127.0.0.1:{port}/") as page:
        assert b"MLflow" in page.read()
    process.send_signal(end)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
