"""Processes that are taken for ones that a killed driver's Ray has left, and those that are not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipelines.cluster.left_behind import end_left_behind, note_driver

LOGS = "import sys, time; log = open(sys.argv[1], 'w'); print('open', flush=True); time.sleep(600)"
GONE = {"pid": 2**22 + 1, "started": 0.0}


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
    sessions = {name: tmp_path / f"session_{name}" for name in ("gone", "reused", "runs", "unnoted", "unreadable")}
    agents = {name: start("ray::DashboardAgent", session / "logs/agent.log") for name, session in sessions.items()}
    reader = start("tail", sessions["gone"] / "logs/agent.out")
    documents = {
        "gone": GONE,
        # The number of the driver's process is another one's by now.
        "reused": {"pid": os.getpid(), "started": psutil.Process().create_time() - 60},
        "unreadable": [],
    }
    for name, document in documents.items():
        (sessions[name] / "intermoe-driver.json").write_text(json.dumps(document))
    note = note_driver(sessions["runs"])
    (tmp_path / "session_latest").symlink_to(sessions["gone"])

    ended = end_left_behind(tmp_path)

    assert sorted(ended) == sorted(agents[name].pid for name in ("gone", "reused"))
    assert [agents[name].wait(10) for name in ("gone", "reused")] == [-9, -9]
    assert [process.poll() for process in (agents["runs"], agents["unnoted"], agents["unreadable"], reader)] == [
        None
    ] * 4
    noted = [name for name, session in sessions.items() if (session / note.name).exists()]
    assert noted == ["runs", "unreadable"]
    assert end_left_behind(tmp_path) == []


def test_a_note_that_is_a_link_is_not_believed(start, tmp_path):
    session = tmp_path / "ray/session_1"
    agent = start("ray::DashboardAgent", session / "logs/agent.log")
    (tmp_path / "note.json").write_text(json.dumps(GONE))
    (session / "intermoe-driver.json").symlink_to(tmp_path / "note.json")
    assert end_left_behind(tmp_path / "ray") == []
    assert agent.poll() is None


def test_where_no_ray_was_ever_started_nothing_is_ended(tmp_path):
    assert end_left_behind(tmp_path / "ray") == []
