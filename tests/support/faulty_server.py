"""An MLflow server, and a door in front of it that can be told to fail."""

import contextlib
import http.client
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mlflow_server import running

_SECONDS = 60
FAULTS = ("refuse", "hang", "slow", "500", "401", "stored, then 500")


@contextlib.contextmanager
def plain_server(folder: Path) -> Iterator[int]:
    """The port of an MLflow server on loopback whose store is in a folder."""
    from pipelines.tracking.database import make_database

    make_database(folder / "mlflow.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with running(command, folder, environment, f"http://127.0.0.1:{port}", _SECONDS):
        yield port


class Door:
    """An address that hands requests on to a server, or does not.

    Attributes:
        fault: one of ``FAULTS``; None while all is well.
        slowness: seconds that a request takes while it is ``slow``.
        largest: bytes of a request, above which it is answered with 413, as a proxy does; None for no bound.
        requests: the paths of all that was asked for.
    """

    def __init__(self, port: int) -> None:
        self._behind = port
        self.fault: str | None = None
        self.slowness = 0.3
        self.largest: int | None = None
        self.requests: list[str] = []
        self._opened: ThreadingHTTPServer | None = None
        self._port = 0
        self._healed = threading.Event()
        self.open()

    @property
    def uri(self) -> str:
        """The address."""
        return f"http://127.0.0.1:{self._port}"

    def open(self) -> None:
        """Take connections, at the same address as before."""
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def _handle(self) -> None:
                door._answer(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

        ThreadingHTTPServer.allow_reuse_address = True
        self._opened = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._opened.daemon_threads = True
        self._port = self._opened.server_address[1]
        threading.Thread(target=self._opened.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Take no connections."""
        if self._opened is not None:
            self._opened.shutdown()
            self._opened.server_close()
            self._opened = None

    def break_by(self, fault: str) -> None:
        """Fail in this way from now on."""
        assert fault in FAULTS
        self._healed.clear()
        self.fault = fault
        if fault == "refuse":
            self.close()

    def heal(self) -> None:
        """Hand on all that is asked from now on."""
        self.fault = None
        self._healed.set()
        if self._opened is None:
            self.open()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.requests.append(handler.path)
        fault = self.fault
        if fault == "hang":
            self._healed.wait()
            return
        if fault == "slow":
            time.sleep(self.slowness)
        status, content, kind = 500, b"Internal Server Error", "text/plain"
        if fault == "401":
            status, content = 401, b"You are not authenticated."
        elif self.largest is not None and len(body) > self.largest:
            status, content = 413, b"Request Entity Too Large"
        elif fault != "500":
            connection = http.client.HTTPConnection("127.0.0.1", self._behind, timeout=60)
            headers = {name: value for name, value in handler.headers.items() if name not in ("Host", "Connection")}
            connection.request(handler.command, handler.path, body, headers)
            answer = connection.getresponse()
            answered = answer.read()
            # What changes something is done, and its answer lost.
            if fault != "stored, then 500" or handler.command == "GET" or "/search" in handler.path:
                status, content, kind = answer.status, answered, answer.headers.get("Content-Type", kind)
        with contextlib.suppress(OSError):
            handler.send_response(status)
            handler.send_header("Content-Type", kind)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)
