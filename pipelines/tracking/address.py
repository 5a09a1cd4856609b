"""The address of the MLflow store: which it is, whether anything answers there, and how it is shown."""

import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

from intermoe.errors import UserError


def tracking_uri() -> str:
    """The address of the MLflow store, the same wherever it is used from.

    It is ``MLFLOW_TRACKING_URI`` where that is set, otherwise the file mlflow.db in the working directory. Ray workers
    have another working directory, so the driver asks once and hands the answer on.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if (database := sqlite_file(uri)) is not None:
        return f"sqlite:///{database.absolute()}"
    return uri if urlsplit(uri).scheme else str(Path(uri).absolute())


def sqlite_file(uri: str) -> Path | None:
    """The database file of a store, where it is one."""
    file = uri.removeprefix("sqlite:///")
    return Path(file) if file != uri else None


def check_reachable(uri: str) -> None:
    """Say at once what MLflow would try for minutes.

    Raises:
        UserError: no server answers there, or the database cannot be written.
    """
    address = urlsplit(uri)
    database = sqlite_file(uri)
    if address.scheme in ("http", "https"):
        try:
            port = address.port or (443 if address.scheme == "https" else 80)
            socket.create_connection((address.hostname or "", port), timeout=10).close()
        except (OSError, ValueError) as error:
            raise UserError(f"MLflow does not answer: {error}", where=shown(uri)) from None
    elif database is not None:
        try:
            database.parent.mkdir(parents=True, exist_ok=True)
            with database.open("ab"):
                pass
        except OSError as error:
            raise UserError(f"cannot be written: {error.strerror}", where=database) from None


def as_noted(noted: str, here: str) -> str:
    """The address of the store that a note names: with this process's credentials, if it is the one it uses.

    Args:
        noted: from ``shown``.
        here: the address of this process's store.

    Example:
        >>> as_noted("https://mlflow.example", "https://user:secret@mlflow.example")
        'https://user:secret@mlflow.example'
    """
    return here if shown(here) == noted else noted


def shown(uri: str) -> str:
    """The address without the name and password that it may hold."""
    return re.sub(r"://[^/\s]*@", "://", uri)
