"""Where a Ray of our own listens; a driver that is killed, and what the next one does with the agents of its Ray."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pipelines.cluster.left_behind import end_left_behind

pytestmark = pytest.mark.faults

DRIVER = """
from ray._private.worker import global_worker
from pipelines.cluster.session import ray_session
with ray_session():
    print(global_worker.node.get_session_dir_path(), flush=True)
    input()
"""


def agents_of(session: Path) -> dict[str, psutil.Process]:
    """Ray's agents that write to the logs of a session, by their titles."""
    agents = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            title = " ".join(process.cmdline()).split(" ")[0]
            if title.endswith("Agent") and any(
                file.path.startswith(f"{session}/logs") for file in process.open_files()
            ):
                agents[title] = process
    return agents


def addresses(processes: list[psutil.Process]) -> set[str]:
    """Where processes listen for connections."""
    listening = set()
    for process in processes:
        with suppress(psutil.Error):
            sockets = [each for each in process.net_connections(kind="inet") if each.status == psutil.CONN_LISTEN]
            listening |= {each.laddr.ip.removeprefix("::ffff:") for each in sockets}
    return listening


def start_driver() -> tuple[subprocess.Popen[str], Path]:
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], env=variables, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert driver.stdout is not None
    return driver, Path(driver.stdout.readline().strip())


def test_a_ray_of_our_own_listens_on_loopback_and_the_agents_of_a_killed_drivers_ray_are_ended():
    driver, session = start_driver()
    agents = agents_of(session)
    assert sorted(agents) == ["ray::DashboardAgent", "ray::RuntimeEnvAgent"]
    processes = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
    assert addresses(processes) == {"127.0.0.1"}
    driver.kill()
    driver.wait()
    assert psutil.wait_procs(agents.values(), timeout=5)[0] == []

    successor, another = start_driver()
    assert another.is_dir()

    assert psutil.wait_procs(agents.values(), timeout=5)[1] == []
    assert not (session / "intermoe-driver.lock").exists()
    successor.communicate("\n", timeout=60)
    assert successor.returncode == 0
    assert end_left_behind(session.parent) == []
