"""What a job is sent with: its files, its environment, and the line that the cluster runs."""

import argparse
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import intermoe
import pipelines
from intermoe.checkpoint import MANIFEST
from intermoe.data.card import CARD
from intermoe.errors import UserError
from pipelines.cluster.job_environment import SHARED_STORAGE, check_command, check_tracking, is_uri, on_loopback
from pipelines.tracking.address import shown

MAX_BYTES = 100 * 10**6

# Environment of the submitting machine that the job gets. Nothing that names a file of this machine: no AWS_PROFILE,
# no HF_HOME.
_HANDED_ON = (
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "MLFLOW_S3_ENDPOINT_URL",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
)
_HANDED_ON_PREFIXES = ("GOOGLE_", "INTERMOE_")
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL")
# A job that is stopped ends as after Ctrl-C, with time to close its run in MLflow.
_OF_RAY = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}

# What is not sent. Hidden files and folders are not either: version control, environments, caches, secrets.
_FOLDERS = ("__pycache__", "mlartifacts", "mlruns", "node_modules", "site-packages")
_TOP_FOLDERS = ("build", "data", "demo", "dist", "outputs", "runs")
# A folder that holds one of these is a virtual environment, shards, recordings, a checkpoint, a run or a sweep.
_MARKS = ("pyvenv.cfg", CARD, "duet.json", MANIFEST, "run.json", "sweep.json")
# Motions, videos, arrays, weights, archives.
_SUFFIXES = (
    *(".avi", ".bvh", ".gif", ".glb", ".mkv", ".mov", ".mp4", ".webm"),
    *(".ckpt", ".npy", ".npz", ".parquet", ".pt", ".pth", ".safetensors"),
    *(".gz", ".pyc", ".tar", ".zip"),
)
# Credentials.
_SECRETS = (".env", ".key", ".pem")
_SECRET_FILES = ("credentials.json",)
_ENTRYPOINT = "pipelines/cluster/entrypoint.sh"


@dataclass(frozen=True)
class Package:
    """The files of a job, in a folder of their own.

    Attributes:
        folder: becomes the job's working directory.
        files: relative to it, sorted.
        num_bytes: the sum of their sizes.
    """

    folder: Path
    files: tuple[str, ...]
    num_bytes: int

    def __str__(self) -> str:
        return f"{len(self.files)} files, {self.num_bytes / 1e6:.1f} MB"

    def check_file(self, label: str, file: str | Path) -> None:
        """Refuse a file of the command line, relative to the working directory, that is not among those sent.

        Raises:
            UserError: it is not.
        """
        path = Path(os.path.normpath(file))
        if not path.is_absolute() and path.as_posix() not in self.files:
            allowed = "a file below the working directory that Git does not ignore and that is not hidden"
            raise UserError("is not among the files that are sent", where=f"{label} {file}", allowed=allowed)


@contextmanager
def packed(folder: Path) -> Iterator[Package]:
    """The files of a working directory without data, runs and caches, and the packages of this process.

    Args:
        folder: the working directory. In a Git checkout, what Git ignores is left out too.

    Yields:
        The package; its folder lasts as long as the block.

    Raises:
        UserError: they are more than 100 MB, or one cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="intermoe-submit-") as staging:
        try:
            package = _staged(folder, Path(staging))
        except OSError as error:
            raise UserError(f"cannot be sent: {error.strerror or error}", where=error.filename or folder) from None
        yield package


def check_sendable(options: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a command that cannot work on a cluster, before anything is sent.

    Args:
        options: of the command.
        environment: of this process.

    Raises:
        UserError: what cannot work there, and what is allowed.
    """
    check_command(options)
    for name in ("text_folder", "word_vectors"):
        folder = getattr(options, name, None)
        if folder is not None and not is_uri(folder) and Path(folder).is_relative_to(Path.home()):
            option = f"--{name.replace('_', '-')}"
            raise UserError("is in the home folder of this machine", where=f"{option} {folder}", allowed=SHARED_STORAGE)
    if uri := environment.get("MLFLOW_TRACKING_URI"):
        check_tracking(uri)
    for name in _ENDPOINTS:
        if on_loopback(environment.get(name, "")):
            raise UserError(
                "is an address of this machine alone",
                where=f"{name} {shown(environment[name])}",
                allowed="one that every node reaches",
            )


def handed_on(environment: Mapping[str, str] = os.environ) -> tuple[dict[str, str], tuple[str, ...]]:
    """The variables that a job gets from this environment, and the names of those that name a file of this machine.

    Example:
        >>> handed_on({"HF_TOKEN": "secret", "HOME": "/root", "GOOGLE_APPLICATION_CREDENTIALS": "/root/key.json"})
        ({'HF_TOKEN': 'secret'}, ('GOOGLE_APPLICATION_CREDENTIALS',))
    """
    given = {
        name: value
        for name, value in sorted(environment.items())
        if value and (name in _HANDED_ON or name.startswith(_HANDED_ON_PREFIXES))
    }
    local = tuple(name for name, value in given.items() if name.startswith(_HANDED_ON_PREFIXES) and _names_file(value))
    return {name: value for name, value in given.items() if name not in local}, local


def runtime_environment(package: Package, variables: Mapping[str, str]) -> dict[str, object]:
    """Ray's runtime environment of a job: its working directory and its variables."""
    return {"working_dir": str(package.folder), "env_vars": {**variables, **_OF_RAY}}


def entrypoint(words: Sequence[str]) -> str:
    """The shell line that the cluster runs for the words of a command.

    Example:
        >>> entrypoint(["generate", "Two people bow.", "--out", "s3://b/o"])
        "exec sh pipelines/cluster/entrypoint.sh generate 'Two people bow.' --out s3://b/o"
    """
    return f"exec sh {_ENTRYPOINT} {shlex.join(words)}"


def new_job_id(verb: str) -> str:
    """A job's id that says what it is."""
    return f"intermoe-{verb}-{uuid4().hex[:8]}"


def _staged(folder: Path, staging: Path) -> Package:
    sources = {name: folder / name for name in _files(folder)}
    for package in (intermoe, pipelines):
        # The code of this process, wherever it is installed, takes the place of what lies here under its name.
        root = Path(package.__path__[0])
        sources = {name: file for name, file in sources.items() if not name.startswith(f"{root.name}/")}
        sources |= {f"{root.name}/{name}": root / name for name in _walk(root, keep=_is_source)}
    sizes = {name: file.stat().st_size for name, file in sources.items()}
    total = sum(sizes.values())
    if total > MAX_BYTES:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        raise UserError(
            f"{len(sizes)} files, {total / 1e6:.1f} MB, are too much to send; the largest: "
            + ", ".join(f"{name} ({sizes[name] / 1e6:.1f} MB)" for name in largest),
            where=folder,
            allowed=f"{MAX_BYTES // 10**6} MB: keep data elsewhere, or let Git ignore it",
        )
    for name, file in sources.items():
        copy = staging / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return Package(staging, tuple(sorted(sources)), total)


def _files(folder: Path) -> list[str]:
    """The files of a working directory that are sent."""
    files = _walk(folder, keep=_is_kept)
    tracked = _known_to_git(folder)
    return files if tracked is None else [name for name in files if name in tracked]


def _known_to_git(folder: Path) -> set[str] | None:
    """The files that Git tracks or would add; None where this is not a checkout."""
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    try:
        listing = subprocess.run(command, cwd=folder, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return {os.fsdecode(name) for name in listing.stdout.split(b"\0")}


def _walk(root: Path, keep: Callable[[Path, Path], bool]) -> list[str]:
    """The files below a folder, relative to it; ``keep(path, root)`` says which files and folders to look at."""
    names = []
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if keep(here / name, root))
        # A folder behind a symbolic link is not looked into; a file behind one is sent as it is.
        paths = [here / name for name in sorted(files)]
        names += [path.relative_to(root).as_posix() for path in paths if keep(path, root) and path.is_file()]
    return names


def _is_source(path: Path, _root: Path) -> bool:
    return not path.name.startswith(".") and path.name != "__pycache__" and path.suffix != ".pyc"


def _is_kept(path: Path, root: Path) -> bool:
    name = path.name
    if name.startswith("."):
        return False
    if not path.is_dir():
        if name in _SECRET_FILES or not path.resolve().is_relative_to(root.resolve()):
            return False
        return path.suffix.lower() not in (*_SUFFIXES, *_SECRETS) and not name.startswith("mlflow.db")
    if name in _FOLDERS or name.endswith(".egg-info") or (path.parent == root and name in _TOP_FOLDERS):
        return False
    return not any((path / mark).exists() for mark in _MARKS)


def _names_file(value: str) -> bool:
    return value.startswith(("/", "~", "./", "../", "file:"))
