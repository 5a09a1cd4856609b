"""A Ray to run on: the cluster that is there, or one on this machine for as long as the command runs."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
import ray.data
import torch
from ray._private import ray_constants
from ray._private.worker import global_worker
from rich.console import Console

from intermoe.errors import UserError
from pipelines.cluster.left_behind import end_left_behind, noted_driver
from pipelines.cluster.live import LiveCluster
from pipelines.cluster.resources import Demand, await_resources
from pipelines.environment import environment_of
from pipelines.settings import WorkersConfig

_OBJECT_STORE_BYTES = 2 * 1024**3
_LOOPBACK = "127.0.0.1"
_TOKEN = Path.home() / ".ray" / "auth_token"
_CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 120
# The path of a socket may have so many bytes; Ray's lie below its temporary folder, in the folder of the session.
_SOCKET_PATH, _SOCKET = 107, "/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"


@contextmanager
def ray_session(workers: WorkersConfig | None = None, jobs: int = 1) -> Iterator[None]:
    """Ray, ready to use: one that this process runs already or RAY_ADDRESS names, else one started for this block.

    On a cluster the block begins when it has what the job asks for.

    Args:
        workers: what a job will ask for.
        jobs: how many jobs will do so at once.

    Raises:
        UserError: the workers want more GPUs than this machine has, or more than the cluster has or has free in time;
            nothing answers at RAY_ADDRESS; or the path of the temporary folder is too long for Ray.
    """
    workers = workers or WorkersConfig()
    if ray.is_initialized():
        yield
        return
    with _same_signals():
        _start(workers, jobs)
    with ExitStack() as stack:
        stack.callback(ray.shutdown)
        if os.environ.get("RAY_ADDRESS"):
            await_resources(Demand(workers.fewest, jobs), LiveCluster(), _tell)
        elif node := global_worker.node:
            stack.enter_context(noted_driver(Path(node.get_session_dir_path())))
        yield


def _start(workers: WorkersConfig, jobs: int) -> None:
    """Connect to a cluster, or start a Ray here."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    cluster = os.environ.get("RAY_ADDRESS")
    if cluster:
        _connect(cluster, options)
    else:
        _start_own(workers, jobs, options)


def _start_own(workers: WorkersConfig, jobs: int, options: dict[str, Any]) -> None:
    end_left_behind(_temporary_folder() / "ray")
    gpus = torch.cuda.device_count()
    if workers.gpu and workers.count > gpus:
        raise UserError(
            f"workers.count = {workers.count} with workers.gpu", allowed=f"as many as there are GPUs: {gpus}"
        )
    own = max(os.cpu_count() or 1, jobs * workers.count * workers.cpus)
    port = _free_port()
    # For the processes of this Ray and all that those start.
    variables = {
        # Ray ends a process that has been idle for a second. The feed's tasks come every half minute, and each
        # would import everything again, which takes as long as a dozen steps.
        "RAY_idle_worker_killing_time_threshold_ms": str(_IDLE_SECONDS * 1000),
        # Where several Rays run on one machine, Ray Train does not find its own by itself, and what a trial that
        # was stopped had taken would never be free again.
        "RAY_API_SERVER_ADDRESS": f"http://{_LOOPBACK}:{port}",
        # Nobody takes its only node away: no process of each training that asks for that.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        # Of no use to other machines: its servers, and those of its processes, listen on loopback. Ray has that switch
        # for systems whose firewall asks about every other server.
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
    }
    with environment_of(**variables), _on_loopback():
        # "local": not one that somebody happens to have started here, whose CPUs are not ours to plan with.
        ray.init(
            "local",
            num_cpus=own,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=True,
            dashboard_host=_LOOPBACK,
            dashboard_port=port,
            **options,
        )
    # Ray makes it readable for everybody.
    with suppress(FileNotFoundError):
        _TOKEN.chmod(0o600)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """The Ray that is started in the block has the address of loopback; this process has read that switch already."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _same_signals() -> Iterator[None]:
    """What SIGTERM does stays as it is: Ray's own handler aborts the process, with a dump of its stacks."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as candidate:
        candidate.bind((_LOOPBACK, 0))
        port: int = candidate.getsockname()[1]
    return port


def _connect(address: str, options: dict[str, Any]) -> None:
    """Become a driver of the cluster at RAY_ADDRESS, and say where its dashboard is."""
    try:
        host, _, port = address.rpartition("://")[2].rpartition(":")
        if port.isdecimal():
            # Ray would go on asking for minutes.
            socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
        context = ray.init(**options)
    except (OSError, ValueError):
        raise UserError(
            "no Ray cluster answers, or it wants a token",
            where=f"RAY_ADDRESS={address}",
            allowed="the address of a cluster; where it has a token, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH",
        ) from None
    nodes = LiveCluster().nodes()
    count = f"{len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}"
    _tell(f"Ray cluster of {count}; its dashboard: http://{context.dashboard_url or address}")


def _tell(line: str) -> None:
    Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True)


def _temporary_folder() -> Path:
    """Where Ray's folder is; ``UserError`` where its sockets would have too long a path, a traceback of Ray's."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    room = _SOCKET_PATH - len(_SOCKET)
    if len(os.fsencode(folder)) > room:
        raise UserError(
            f"the path of the temporary folder has {len(os.fsencode(folder))} bytes, too long for Ray's sockets",
            where=folder,
            allowed=f"up to {room}: set RAY_TMPDIR to a shorter one",
        )
    return Path(folder)


@contextmanager
def quiet_data() -> Iterator[ray.data.DataContext]:
    """Ray Data without bars and lines of its own on the console; its log file has them all.

    Yields:
        The options of the data sets that are planned in the block.
    """
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    consoles = [handler for handler in logging.getLogger("ray.data").handlers if _is_console(handler)]
    levels = [handler.level for handler in consoles]
    for handler in consoles:
        handler.setLevel(logging.CRITICAL)
    try:
        with ray.data.DataContext.current(context):
            yield context
    finally:
        for handler, level in zip(consoles, levels, strict=True):
            handler.setLevel(level)


def _is_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
