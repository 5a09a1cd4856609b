"""The address of the MLflow store: which it is, whether anything answers there, and how it is shown."""

import os
import re
import socket
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from intermoe.errors import UserError

RUN_ID = re.compile("[0-9a-f]{32}")
ADDRESSES = "such as sqlite:///FILE, postgresql://HOST/NAME, http://HOST:PORT or https://HOST"
"""What the address of a store looks like."""

# For a connection, and then for the first byte of an answer.
_SECONDS = 8.0


def tracking_uri() -> str:
    """The address of the MLflow store, the same wherever it is used from.

    It is ``MLFLOW_TRACKING_URI`` where that is set, otherwise the file mlflow.db in the working directory. Ray workers
    have another working directory, so the driver asks once and hands the answer on.

    Raises:
        UserError: it is no address.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if (database := sqlite_file(uri)) is not None:
        return f"sqlite:///{database.absolute()}"
    try:
        scheme = urlsplit(uri).scheme
    except ValueError as error:
        raise UserError(f"{shown(uri)}: {error}", where="MLFLOW_TRACKING_URI", allowed=ADDRESSES) from None
    return uri if scheme else str(Path(uri).absolute())


def sqlite_file(uri: str) -> Path | None:
    """The database file of a store, where it is one."""
    file = uri.removeprefix("sqlite:///")
    return Path(file) if file != uri else None


class MlflowSilent(UserError):
    """MLflow does not answer, or not as it should; it may later."""


def check_reachable(uri: str) -> None:
    """Say at once what MLflow would try for minutes, and make a database that is not there yet.

    Raises:
        UserError: no server answers there (``MlflowSilent``), the database cannot be used, or its address is none.
    """
    address = urlsplit(uri)
    database = sqlite_file(uri)
    if address.scheme in ("http", "https"):
        try:
            _call(address)
        except (OSError, ValueError) as error:
            raise MlflowSilent(f"MLflow does not answer: {error}", where=shown(uri)) from None
        return
    # Here, so that an address can be named in a Python that has no package but this one.
    from pipelines.tracking.database import check_address, make_database

    if database is not None:
        make_database(database)
    else:
        check_address(uri)


def _call(address: SplitResult) -> None:
    """Return when a server answers, whatever it says; one that takes connections may still be standing still."""
    secure = address.scheme == "https"
    with socket.create_connection(
        (address.hostname or "", address.port or (443 if secure else 80)), timeout=_SECONDS
    ) as connection:
        if not secure:
            request = f"GET {address.path.rstrip('/')}/health HTTP/1.0\r\nHost: {address.hostname}\r\n\r\n"
            connection.sendall(request.encode())
            connection.recv(1)


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
    """The address, or a text that names one, without the name, password and query that it may hold.

    Example:
        >>> shown("https://me:a/secret@mlflow.example/path?token=secret")
        'https://mlflow.example/path'
        >>> shown("me:secret@mlflow.example")
        'mlflow.example'
    """
    # A password that is not quoted may hold any character, "@" too.
    uri = re.sub(r"://\S*@", "://", uri)
    uri = re.sub(r"(://[^\s?]*)\?\S*", r"\1", uri)
    return re.sub(r"^[^\s/@]+:[^\s/@]+@", "", uri)
