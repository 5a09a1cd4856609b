"""MLflow's pages, served to this machine for as long as the command runs."""

import os
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import entry_points
from importlib.util import find_spec
from tempfile import TemporaryFile
from urllib.parse import urlsplit
from urllib.request import urlopen

from intermoe.errors import UserError
from pipelines.tracking.address import shown, sqlite_file, tracking_uri
from pipelines.tracking.database import make_database

# The name under which pyproject.toml offers pages.py to MLflow.
_PAGES = "intermoe"


def ui(host: str = "127.0.0.1", port: int = 5000) -> None:
    """Serve MLflow's pages until Ctrl-C.

    Raises:
        UserError: the port is in use, or the server does not start.
        ModuleNotFoundError: MLflow is not installed.
    """
    if find_spec("mlflow") is None:
        raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
    uri = tracking_uri()
    if urlsplit(uri).scheme in ("http", "https"):
        _say(f"MLflow is served at {shown(uri)}")
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"{host}:{port} cannot be listened on: {error.strerror}", allowed="another port") from None
    url = f"http://{host}:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    if (database := sqlite_file(uri)) is not None:
        make_database(database)
        command += ["--artifacts-destination", str(database.parent / "mlruns")]
    # An installation that is older than the entry point has MLflow's own pages.
    if entry_points(group="mlflow.app", name=_PAGES):
        command += ["--app-name", _PAGES]
    # Job execution would start a set of worker processes (1.6 GB) that nothing here uses.
    # The store is named here, since a command line is no place for the password that it may hold.
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # A terminated `intermoe ui` takes its server with it, as Ctrl-C does.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryFile("w+") as output:
        # In a session of its own, so that Ctrl-C reaches this process alone, which then ends the server in order.
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            _wait_until_served(server, url)
            if server.poll() is None:
                # Without this, MLflow begins in its view for language models, where checkpoints are "agent versions".
                _say(f"MLflow is served at {url}/#/experiments?workflowType=machine_learning (Ctrl-C ends it)")
            server.wait()
        except KeyboardInterrupt:
            return
        finally:
            _end(server)
            signal.signal(signal.SIGTERM, previous)
        output.seek(0)
        last = [line for line in output.read().splitlines() if line.strip()][-1:]
        raise UserError(f"the MLflow server ended: {last[0] if last else f'exit status {server.returncode}'}")


def _wait_until_served(server: subprocess.Popen[bytes], url: str) -> None:
    """Return when the server answers, or has ended."""
    while server.poll() is None:
        try:
            urlopen(f"{url}/health", timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and the processes it has started."""
    if server.poll() is not None:
        return
    os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
