"""Processes that are taken for ones that a killed driver's Ray has left, and those that are not."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cluster.left_behind import end_left_behind, noted_driver

LOGS = "import sys, time; log = open(sys.argv[1], 'w'); print('open', flush=True); time.sleep(600)"
NOTE = "intermoe-driver.lock"


@pytest.fixture
def start():
    """A function that starts a process with a title, which writes to a log."""
    processes = []

    def start(title: str, log: Path) -> subprocess.Popen[str]:
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [title, "-c", LOGS, str(log)]
        process = subprocess.Popen(command, executable=sys.executable, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_only_rays_processes_in_sessions_of_ours_whose_driver_is_gone_are_ended(start, tmp_path):
    sessions = {name: tmp_path / f"session_{name}" for name in ("gone", "runs", "unnoted")}
    agents = {name: start("ray::DashboardAgent", session / "logs/agent.log") for name, session in sessions.items()}
    reader = start("tail", sessions["gone"] / "logs/agent.out")
    (sessions["gone"] / NOTE).touch()
    (tmp_path / "session_latest").symlink_to(sessions["gone"])
    with noted_driver(sessions["runs"]):
        assert end_left_behind(tmp_path) == [agents["gone"].pid]
        assert agents["gone"].wait(10) == -9
        assert [process.poll() for process in (agents["runs"], agents["unnoted"], reader)] == [None] * 3
        assert [name for name, session in sessions.items() if (session / NOTE).exists()] == ["runs"]
        assert end_left_behind(tmp_path) == []
    assert not (sessions["runs"] / NOTE).exists()


def test_the_note_of_a_driver_that_was_killed_says_so(start, tmp_path):
    agent = start("ray::DashboardAgent", tmp_path / "session_1/logs/agent.log")
    script = f"""
import time
from pathlib import Path
from pipelines.cluster.left_behind import noted_driver
with noted_driver(Path({str(tmp_path / "session_1")!r})):
    print("noted", flush=True)
    time.sleep(600)
"""
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "noted\n"
    assert end_left_behind(tmp_path) == []
    driver.kill()
    driver.wait()
    assert end_left_behind(tmp_path) == [agent.pid]


def test_a_note_that_is_a_link_is_not_believed(start, tmp_path):
    session = tmp_path / "ray/session_1"
    agent = start("ray::DashboardAgent", session / "logs/agent.log")
    (tmp_path / "note").touch()
    (session / NOTE).symlink_to(tmp_path / "note")
    assert end_left_behind(tmp_path / "ray") == []
    assert agent.poll() is None


def test_where_no_ray_was_ever_started_nothing_is_ended(tmp_path):
    assert end_left_behind(tmp_path / "ray") == []
