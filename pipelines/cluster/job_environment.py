"""What a command may rely on as a job of a Ray cluster: storage and an MLflow store that every node reaches.

A job's driver runs in a copy of the working directory that Ray removes with the job, on a node that the user does not
choose. What would be written or looked for there is refused: before a job is sent, and again where it runs, since
`ray job submit -- intermoe ...` comes without the first check.
"""

import argparse
import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from intermoe.errors import UserError
from pipelines.tracking.address import shown, tracking_uri

SHARED_STORAGE = "a URI such as s3://BUCKET/FOLDER, or an absolute path on storage that all nodes share"
SHARED_STORE = "the address of an MLflow server that every node reaches, such as https://mlflow.example.org"
NOT_AS_A_JOB = ("demo", "jobs", "logs", "stop", "submit", "ui")
"""Commands that show or steer something on the user's machine."""

# Options that hold a folder or a file of storage, and those of them that may hold the id of an MLflow run instead.
_STORAGE = (
    "out",
    "data",
    "vae",
    "root",
    "statistics_of",
    "model",
    "evaluator",
    "sweep",
    "run",
    "folders",
    "after",
    "given",
)
# Options that hold a path of the nodes' file systems, never a URI.
_PATHS = ("denoiser", "stats", "text_folder", "word_vectors")
_MAY_BE_A_RUN = ("model", "evaluator", "run")
_POSITIONAL = ("sweep", "run", "folders")
# Options whose default is a folder below the working directory.
_DEFAULTS = {"train": "out", "sweep": "out", "evaluate": "evaluator"}
_TRACKED = ("train", "evaluate", "sweep", "register", "sync")


def in_ray_job() -> bool:
    """Whether this process is the driver of a job that was submitted to a Ray cluster."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return True
    try:
        return "runtime_resources/working_dir_files" in Path.cwd().as_posix()
    except FileNotFoundError:
        raise UserError("the working directory is gone", allowed="another one") from None


def check_in_job(options: argparse.Namespace) -> None:
    """In the driver of a job: refuse a command that would lose its results, or cannot work.

    Raises:
        UserError: storage in the job's working directory, an MLflow store in a file, or a command that is not for jobs.
    """
    if in_ray_job():
        check_command(options)
        if _uses_tracking(options):
            if not os.environ.get("MLFLOW_TRACKING_URI"):
                raise UserError("MLFLOW_TRACKING_URI is not set, and a job keeps no store", allowed=SHARED_STORE)
            check_tracking(tracking_uri(), loopback=True)


def check_noted_store(uri: str) -> None:
    """In the driver of a job: refuse to go on with a run of a store that is not there."""
    if in_ray_job():
        check_tracking(uri, loopback=True)


def check_command(options: argparse.Namespace) -> None:
    """Refuse a command that cannot work as a job, or whose storage is not there for all nodes.

    Raises:
        UserError: which option, and what is allowed.
    """
    if options.verb in NOT_AS_A_JOB:
        raise UserError("is not for a cluster", where=f"intermoe {options.verb}", allowed="run it on your own machine")
    if getattr(options, "dry_run", False):
        return
    default = _DEFAULTS.get(options.verb)
    if default and getattr(options, default) is None:
        raise UserError(
            f"--{default} is not given, and its default is a folder of the job's working directory, which goes with it",
            where=f"intermoe {options.verb}",
            allowed=SHARED_STORAGE,
        )
    for label, value in _storage(options):
        check_shared(label, value)
    for name in _PATHS:
        value = getattr(options, name, None)
        if value is not None and not Path(str(value)).is_absolute():
            raise UserError(
                "is no path of the nodes",
                where=f"--{name.replace('_', '-')} {value}",
                allowed="an absolute path on storage that all nodes share",
            )


def check_shared(label: str, value: object) -> None:
    """Refuse a relative path.

    Args:
        label: where the user wrote it, such as ``--out``.
        value: text, a path or a URI.

    Raises:
        UserError: it is relative.

    Example:
        >>> check_shared("--out", "s3://bucket/runs")
        >>> check_shared("--out", "/shared/runs")
        >>> check_shared("--data", "shards")
        Traceback (most recent call last):
            ...
        intermoe.errors.UserError: --data shards: is below the job's working directory, which goes with the job \
(allowed: a URI such as s3://BUCKET/FOLDER, or an absolute path on storage that all nodes share)
    """
    if not (is_uri(value) or Path(str(value)).is_absolute()):
        raise UserError(
            "is below the job's working directory, which goes with the job",
            where=f"{label} {value}",
            allowed=SHARED_STORAGE,
        )


def check_sources(file: object, **paths: object) -> None:
    """Refuse relative paths of recordings in a sweep file.

    Args:
        file: the sweep file.
        paths: of its ``data``, by their keys; None where one is not given.

    Raises:
        UserError: which path.
    """
    for name, value in paths.items():
        if value is not None:
            check_shared(f"{file}: data.{name}", value)


def is_uri(value: object) -> bool:
    """Whether text or a place is a URI; ``UserError`` where it is a URI of unknown storage."""
    from intermoe.places import as_place, is_remote  # not all that they import is there in a bare Python

    return is_remote(as_place(cast(Any, value)))


def check_tracking(uri: str, *, loopback: bool = False) -> None:
    """Refuse an MLflow store that a single machine sees.

    Args:
        uri: address of the store.
        loopback: whether an address of the machine itself may do: of a cluster of one node.

    Raises:
        UserError: a database file, a folder, or a server on loopback.

    Example:
        >>> check_tracking("https://mlflow.example.org")
        >>> check_tracking("sqlite:///mlflow.db")
        Traceback (most recent call last):
            ...
        intermoe.errors.UserError: MLFLOW_TRACKING_URI sqlite:///mlflow.db: is a store in a file of one machine \
(allowed: the address of an MLflow server that every node reaches, such as https://mlflow.example.org)
    """
    where = f"MLFLOW_TRACKING_URI {shown(uri)}"
    if urlsplit(uri).scheme in ("", "file", "sqlite"):
        raise UserError("is a store in a file of one machine", where=where, allowed=SHARED_STORE)
    if not loopback and on_loopback(uri):
        raise UserError("is an address of this machine alone", where=where, allowed=SHARED_STORE)


def on_loopback(uri: str) -> bool:
    """Whether an address means the machine that asks.

    Example:
        >>> [on_loopback(uri) for uri in ("http://localhost:5000", "http://[::1]", "http://10.0.0.2:5000")]
        [True, True, False]
    """
    host = urlsplit(uri).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _storage(options: argparse.Namespace) -> Iterator[tuple[str, object]]:
    """The options that name storage: how the user writes each, and its value."""
    # An evaluation's actors read the model on nodes that know nothing of what the driver has fetched.
    fetched = () if options.verb == "evaluate" else _MAY_BE_A_RUN
    for name in _STORAGE:
        value = getattr(options, name, None)
        if value is not None and not (name in fetched and _names_run(value)):
            label = name.removesuffix("s").upper() if name in _POSITIONAL else f"--{name.replace('_', '-')}"
            yield from ((label, each) for each in (value if isinstance(value, list) else [value]))


def _names_run(value: object) -> bool:
    from pipelines.tracking.queries import names_run  # MLflow, which takes a second

    if str(value).startswith("models:/"):
        return True
    return not Path(str(value)).is_absolute() and not is_uri(value) and names_run(str(value))


def _uses_tracking(options: argparse.Namespace) -> bool:
    if getattr(options, "dry_run", False):
        return False
    models = [str(getattr(options, name, None) or "") for name in _MAY_BE_A_RUN]
    return options.verb in _TRACKED or any(model.startswith("models:/") or _names_run(model) for model in models)
