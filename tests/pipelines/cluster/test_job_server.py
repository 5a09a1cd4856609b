"""Jobs on a real Ray with token authentication: how they end, and who is refused."""

import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
RAY = Path(sys.executable).with_name("ray")
STORAGE = "(allowed: a URI such as s3://BUCKET/FOLDER, or an absolute path on storage that all nodes share)"
TRAIN = ["train", "vae", "--config", "duet", "--data", "/shared/shards", "--out", "runs/x"]
Ran = subprocess.CompletedProcess[str]

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@dataclass(frozen=True)
class Cluster:
    """A Ray on loopback, and the folder from which jobs are sent."""

    url: str
    environment: dict[str, str]
    folder: Path

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Begin `intermoe` with some words."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str) -> tuple[int, list[str]]:
        """The exit status and the lines of `intermoe`."""
        process = self.start(*words)
        printed, _ = process.communicate(timeout=180)
        return process.returncode, printed.splitlines()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # Ray's sockets bear long names: its folder needs a short one.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as private:
        token = Path(private, "token")
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        port, dashboard, agent, client = free_ports(4)
        # Of the environment of the tests, nothing: a cluster has its own.
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": private,
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        options = {
            "node-ip-address": "127.0.0.1",
            "port": port,
            "dashboard-host": "127.0.0.1",
            "dashboard-port": dashboard,
            "dashboard-agent-listen-port": agent,
            "ray-client-server-port": client,
            "num-cpus": 1,
            "object-store-memory": 10**8,
            "temp-dir": f"{private}/ray",
        }
        log = Path(private, "start.log")
        with log.open("w") as output:
            ray = subprocess.Popen(
                [RAY, "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())],
                cwd=private,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        url = f"http://127.0.0.1:{dashboard}"
        folder = tmp_path_factory.mktemp("client")
        shutil.copy(ROOT / "pipelines/presets/duet.yaml", folder / "mine.yaml")
        try:
            wait_for(lambda: status(url) == 401, 90, log.read_text)
            yield Cluster(url, environment | {"RAY_API_SERVER_ADDRESS": url, "PYTHONPATH": str(ROOT)}, folder)
        finally:
            ray.terminate()  # with --block it ends what it has started
            ray.wait(timeout=60)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def status(url: str, token: str | None = None) -> int:
    """The HTTP status of the list of jobs, 0 where nothing answers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/api/jobs/", headers=headers), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def wait_for(is_so: Callable[[], bool], seconds: float, explain: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.5)


def read_until(process: "subprocess.Popen[str]", begin: str) -> list[str]:
    """What a process prints, to the first line that begins so."""
    lines: list[str] = []
    assert process.stdout is not None
    while not (lines and lines[-1].startswith(begin)):
        line = process.stdout.readline()
        assert line, lines
        lines.append(line.rstrip("\n"))
    return lines


def job_in(lines: list[str]) -> str:
    """The id in the first line of `intermoe submit`."""
    return next(line.split()[1] for line in lines if " is sent to " in line)


def test_a_request_without_the_token_is_refused(cluster):
    assert status(cluster.url) == 401
    assert status(cluster.url, "wrong") == 403


def test_a_job_that_succeeds_shows_its_log_and_exits_with_0(cluster):
    code, lines = cluster.run("submit", "--", "intermoe", "describe", "--config", "mine.yaml")
    assert code == 0, lines
    job = job_in(lines)
    assert lines[0].startswith(f"job {job} is sent to {cluster.url}: ")
    assert lines[-1] == f"job {job} succeeded"
    assert any(line.startswith("parameters") for line in lines), lines
    assert not any("Running entrypoint" in line or "Traceback" in line for line in lines)
    code, logged = cluster.run("logs", job)
    assert code == 0
    assert logged == lines[lines.index(logged[0]) : -1]


def test_a_job_that_fails_exits_with_the_code_of_its_command(cluster):
    code, lines = cluster.run("submit", "--", "report", "/nowhere/sweep")
    assert code == 2, lines
    assert lines[-2:] == [
        "error: /nowhere/sweep: holds no sweep (allowed: a folder of `intermoe sweep`)",
        f"job {job_in(lines)} failed with exit code 2",
    ]


def test_a_job_goes_on_after_ctrl_c_until_it_is_stopped(cluster):
    command = "bench moe --repeats 100000"
    sender = cluster.start("submit", "--", *command.split())
    lines = read_until(sender, "bench moe: 0/")
    job = job_in(lines)
    sender.send_signal(signal.SIGINT)
    printed, _ = sender.communicate(timeout=60)
    assert sender.returncode == 130
    assert printed.splitlines()[-1] == (
        f"interrupted: the job goes on; `intermoe logs {job} --follow` shows it, `intermoe stop {job}` stops it"
    )
    follower = cluster.start("logs", job, "--follow")
    read_until(follower, "bench moe: 0/")
    assert cluster.run("stop", job) == (0, [f"job {job} is asked to stop", f"job {job} was stopped"])
    shown, _ = follower.communicate(timeout=120)
    assert follower.returncode == 1
    # The command ended as after Ctrl-C.
    assert shown.splitlines()[-2:] == ["interrupted", f"job {job} was stopped"]
    assert cluster.run("stop", job) == (0, [f"job {job} had ended before: stopped"])
    (row,) = (line for line in cluster.run("jobs")[1] if line.startswith(job))
    assert row.split()[1] == "stopped"
    assert row.endswith(command)


def test_a_job_that_is_not_known_is_one_line(cluster):
    refusal = (
        f"error: {cluster.url}: job nobody is not known there"
        " (allowed: one of `intermoe jobs`; a cluster that is restarted forgets its jobs)"
    )
    for words in (["logs", "nobody"], ["logs", "nobody", "--follow"], ["stop", "nobody"]):
        assert cluster.run(*words) == (2, [refusal])


def test_a_relative_out_is_refused_before_it_is_sent_and_where_ray_sends_it(cluster, tmp_path):
    refusal = f"error: --out runs/x: is below the job's working directory, which goes with the job {STORAGE}"
    assert cluster.run("submit", "--", *TRAIN) == (2, [refusal])
    for package in ("intermoe", "pipelines"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [RAY, "job", "submit", "--working-dir", tmp_path, "--", sys.executable, "-m", "pipelines.cli", *TRAIN]
    ran: Ran = subprocess.run(
        command, cwd=tmp_path, env=cluster.environment, capture_output=True, text=True, timeout=180
    )
    assert ran.returncode != 0
    assert refusal in ran.stdout.splitlines()
