"""Whether all nodes of a cluster see what a job needs: its folders, MLflow's store, and one environment.

A job on nodes that differ fails late, or ends well and its results are nowhere. So each node is asked before.
"""

import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import state
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from intermoe.errors import UserError
from intermoe.places import Place, as_place, is_remote
from pipelines.cluster import probe
from pipelines.tracking.address import shown, sqlite_file

# A node starts a process for the question, and may have to unpack the environment of the job.
_SECONDS = 120.0
_SHARED = "a folder that all nodes share, or a URI such as s3://..."
_SERVER = "MLFLOW_TRACKING_URI=http(s)://..., a server that all nodes reach"


@dataclass(frozen=True)
class Marker:
    """A file that the driver writes into a folder, to see which nodes have the same folder.

    Attributes:
        path: of the file.
        token: what it says.
        what: the folder stands for, as a message names it.
        allowed: instead, where a node does not see it.
    """

    path: Path
    token: str
    what: str
    allowed: str = _SHARED


def check_nodes(
    *,
    reads: Iterable[str | Place | None] = (),
    writes: Iterable[str | Place | None] = (),
    tracking_uri: str | None = None,
) -> None:
    """Ask each node of the cluster whether it sees what the driver sees; of a single node nothing is asked.

    Args:
        reads: files and folders that the job reads; None and URIs (``s3://...``) are left out.
        writes: folders that it writes, there already or not; likewise.
        tracking_uri: the address of MLflow's store; None for a job that records nothing.

    Raises:
        UserError: a node differs; names the node, what is different there, and what is allowed.
    """
    nodes = _staying()
    if len(nodes) < 2:
        return
    read = _local(reads)
    server = tracking_uri if tracking_uri and tracking_uri.startswith(("http://", "https://")) else None
    with _markers(_local(writes), tracking_uri) as markers:
        question = (read, [str(marker.path) for marker in markers], server)
        here = probe.look(*question)
        there = _ask(nodes, question, here["versions"])
    for address in sorted(there):
        check_view(address, there[address], here=here, markers=markers)


def check_view(address: str, there: Mapping[str, Any], *, here: Mapping[str, Any], markers: Iterable[Marker]) -> None:
    """Compare what a node sees (``probe.look``) with what the driver sees.

    Raises:
        UserError: they differ.
    """
    where = f"node {address}"
    for name, version in here["versions"].items():
        if there["versions"][name] != version:
            raise UserError(
                f"{name} is {there['versions'][name]}", where=where, allowed=f"{version}, as on the node of the driver"
            )
    for path, fingerprint in here["fingerprints"].items():
        if fingerprint != there["fingerprints"][path]:
            seen = there["fingerprints"][path]
            problem = f"has another {path} than the node of the driver" if seen else f"does not have {path}"
            raise UserError(problem, where=where, allowed=_SHARED)
    for marker in markers:
        if there["markers"][str(marker.path)] != marker.token:
            problem = f"does not share {marker.what} with the node of the driver"
            raise UserError(problem, where=where, allowed=marker.allowed)
    if there["server"]:
        raise UserError(there["server"], where=where, allowed=_SERVER)


def _staying() -> dict[str, str]:
    """The addresses of the nodes that are alive and not about to be taken away, by their ids."""
    leaving = state.state.get_draining_nodes()
    alive = (node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving)
    return {node["NodeID"]: node["NodeManagerAddress"] for node in alive}


def _ask(nodes: Mapping[str, str], question: tuple[Any, ...], versions: Mapping[str, str]) -> dict[str, Any]:
    """What each node sees, by its address."""
    ray.cloudpickle.register_pickle_by_value(probe)
    look = ray.remote(num_cpus=0, max_retries=1)(probe.look)
    asked = {
        node: look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            *question, versions
        )
        for node in nodes
    }
    answers = {}
    for node, answer in asked.items():
        try:
            answers[nodes[node]] = ray.get(answer, timeout=_SECONDS)
        except (RayError, TimeoutError) as error:
            if node not in _staying():
                # It was lost or taken away meanwhile.
                continue
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"does not answer: {reason}", where=f"node {nodes[node]}") from None
    return answers


def _local(paths: Iterable[str | Place | None]) -> list[str]:
    """Absolute paths of what is not a URI."""
    at = [as_place(path) for path in paths if path is not None]
    return [str(path.absolute()) for path in at if not is_remote(path)]


@contextmanager
def _markers(writes: Iterable[str], tracking_uri: str | None) -> Iterator[list[Marker]]:
    """A marker in the folder of each path, or in the nearest above that is there, for as long as the block runs."""
    places = [(f"the folder of {path}", path, _SHARED) for path in writes]
    if tracking_uri is not None and (store := _store_path(tracking_uri)) is not None:
        places.append((f"the folder of MLflow's store {shown(tracking_uri)}", str(store), _SERVER))
    markers = []
    for what, path, allowed in places:
        token = secrets.token_hex(8)
        markers.append(Marker(_folder(Path(path)) / f".intermoe-{token}", token, what, allowed))
    try:
        for marker in markers:
            try:
                marker.path.write_text(marker.token, "utf-8")
            except OSError as error:
                raise UserError(f"cannot be written: {error.strerror}", where=marker.path.parent) from None
        yield markers
    finally:
        for marker in markers:
            marker.path.unlink(missing_ok=True)


def _store_path(tracking_uri: str) -> Path | None:
    """Where MLflow's store lies, if that is a database file or a folder."""
    if (database := sqlite_file(tracking_uri)) is not None:
        return database
    if tracking_uri.startswith("file:"):
        return Path(tracking_uri.removeprefix("file:").removeprefix("//"))
    return None if "://" in tracking_uri else Path(tracking_uri)


def _folder(path: Path) -> Path:
    """The path, if it is a folder, or the nearest folder above it."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
