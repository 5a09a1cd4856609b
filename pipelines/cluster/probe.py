"""What a node of the cluster sees, asked in a task that runs there.

Ray sends these functions by value: a node whose environment lacks this project answers, too. So the module imports the
standard library alone.
"""

import hashlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Of an environment: what must be the same on all nodes.
_PACKAGES = ("torch", "ray")
_PROJECT = ("intermoe", "pipelines")


def look(
    reads: Sequence[str], markers: Sequence[str], server: str | None, versions: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What this node sees.

    Args:
        reads: paths that a job reads.
        markers: paths of files that the driver has written for this question.
        server: address of MLflow's server, if it is one.
        versions: of the driver; where they differ, nothing else is looked at, which might fail for that reason.

    Returns:
        ``versions`` of the environment here; ``fingerprints`` of what is read, None for what is not there; the
        ``markers``' contents, likewise; and why the ``server`` does not answer, None where it does.
    """
    here: dict[str, Any] = {"versions": environment(), "fingerprints": {}, "markers": {}, "server": None}
    if versions in (None, here["versions"]):
        here["fingerprints"] = {path: fingerprint(path) for path in reads}
        here["markers"] = {path: _text(path) for path in markers}
        here["server"] = None if server is None else _unreachable(server)
    return here


def environment() -> dict[str, str]:
    """Versions of Python and of the packages, and a hash of the project's source."""
    versions = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions | {name: _source(name) for name in _PROJECT}


def fingerprint(path: str) -> str | None:
    """A hash that tells whether two nodes see the same file or folder; None where nothing is there.

    Of a folder it takes the names and sizes of what lies in it and its small documents (.json, which hold the checksums
    of the rest); it does not read what is large.
    """
    place = Path(path)
    if place.is_file():
        return hashlib.sha256(place.read_bytes()).hexdigest()
    if not place.is_dir():
        return None
    whole = hashlib.sha256()
    for file in sorted(place.iterdir()):
        size = file.stat().st_size if file.is_file() else -1
        whole.update(f"{file.name}\0{size}\0".encode(errors="surrogateescape"))
        if file.suffix == ".json" and file.is_file():
            whole.update(file.read_bytes())
    return whole.hexdigest()


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return None


def _source(package: str) -> str:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return "not installed"
    folder = Path(spec.origin).parent
    whole = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        whole.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return f"source {whole.hexdigest()[:8]}"


def _unreachable(server: str) -> str | None:
    from intermoe.errors import UserError
    from pipelines.tracking.address import check_reachable

    try:
        check_reachable(server)
    except UserError as error:
        return str(error)
    return None
