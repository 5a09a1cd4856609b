"""The MLflow server of infra/mlflow, started with the command of its compose file."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import requests
import yaml

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "a-password-of-the-test"
_SECONDS = 120


@contextlib.contextmanager
def mlflow_server(
    folder: Path, host: str = "127.0.0.1", *, artifacts: str | None = None, env: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The address of a server behind basic auth, whose user `admin` has ``PASSWORD``.

    Args:
        folder: of its databases (SQLite instead of PostgreSQL) and its log.
        host: address that it listens on.
        artifacts: URI where it keeps artifacts, which it hands on itself; a folder if None.
        env: its environment beside that of this process.
    """
    rights = (ROOT / "infra/mlflow/basic_auth.ini").read_text("utf-8")
    (folder / "basic_auth.ini").write_text(rights.replace("= postgresql://", f"= sqlite:///{folder}/users.db"), "utf-8")
    with socket.socket() as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
    here = {
        "--backend-store-uri": f"sqlite:///{folder}/runs.db",
        "--artifacts-destination": artifacts or (folder / "artifacts").as_uri(),
        "--host": host,
        "--port": str(port),
        "--workers": "1",
    }
    compose = yaml.safe_load((ROOT / "infra/mlflow/compose.yaml").read_text("utf-8"))["services"]["mlflow"]
    words = [word.partition("=") for word in compose["command"][1:]]
    command = [name + sign + here.get(name, value) for name, sign, value in words]
    environment = {
        **os.environ,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-of-the-test",
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"{host}:*",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": compose["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"],
        **(env or {}),
    }
    address = f"http://{host}:{port}"
    with running([sys.executable, "-m", "mlflow", *command], folder, environment, address, _SECONDS):
        yield address


@contextlib.contextmanager
def running(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], address: str, seconds: float
) -> Iterator[None]:
    """A server that answers, for as long as the block runs.

    Args:
        command: that starts it.
        folder: in which it runs and where its log is.
        environment: of its process.
        address: that it listens on.
        seconds: that it may take to answer.
    """
    with (folder / "log").open("w") as log:
        started = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                requests.get(f"{address}/health", timeout=5).raise_for_status()
                break
            except requests.RequestException:
                assert started.poll() is None, (folder / "log").read_text("utf-8")
                assert time.monotonic() < deadline, (folder / "log").read_text("utf-8")
                time.sleep(0.1)
        yield
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        started.wait()
