"""A Ray in a process of its own, which stays when the commands that use it are killed."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil

# It ends with its standard input: also when the test is killed.
_PROGRAM = """
import logging, sys
import ray
ray.init("local", num_cpus=4, object_store_memory=10**9, include_dashboard=False, log_to_driver=False,
         logging_level=logging.ERROR)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
_SECONDS = 60


class StandingRay:
    """A running Ray of 4 CPUs.

    Attributes:
        environment: by which a command finds it.
    """

    def __init__(self, process: subprocess.Popen[str], token: Mapping[str, str]) -> None:
        """Wait until a process that runs the program above has started Ray."""
        assert process.stdout is not None
        self.environment = {"RAY_ADDRESS": process.stdout.readline().strip(), **token}
        self._process = psutil.Process(process.pid)

    def processes(self, name: str = "") -> list[psutil.Process]:
        """Its actors and tasks whose title holds a name; some are Ray's own, and stay when a driver ends."""
        busy = []
        for process in self._process.children(recursive=True):
            try:
                title = " ".join(process.cmdline())
            except psutil.Error:
                continue
            # Without its agents, Ray itself ends.
            if (
                title.startswith("ray::")
                and name in title
                and not title.startswith(("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnv"))
            ):
                busy.append(process)
        return busy


@contextmanager
def standing_ray(variables: Mapping[str, str]) -> Iterator[StandingRay]:
    """A Ray for as long as the block runs; its processes have these environment variables, too."""
    variables = {
        # Ray gives its processes a lower priority than those of other programs have.
        "RAY_worker_niceness": "0",
        # As a Ray of our own has them (pipelines/cluster/session.py).
        "RAY_worker_maximum_startup_concurrency": "16",
        "RAY_idle_worker_killing_time_threshold_ms": "120000",
        **variables,
    }
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex()}
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, **token, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield StandingRay(process, token)
    finally:
        process.communicate(timeout=_SECONDS)
