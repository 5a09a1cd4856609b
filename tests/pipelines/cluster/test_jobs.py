"""Jobs of a cluster, with a job server that is made up: following, ends, stopping, listing."""

import asyncio
import io
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus

from intermoe.errors import UserError
from pipelines.cluster import job_server, jobs
from pipelines.cluster.job_server import JobServer, ServerSilent, server_address
from pipelines.cluster.jobs import follow, report_end, stop, table, watch

URL = "http://10.0.0.1:8265"
LOG = "Running entrypoint for job a: exec sh x\none\ntwo\nthree\n"
RESUME = "intermoe submit -- train vae --resume"


def details(status, code=None, message=None, **more):
    metadata = {"intermoe.command": "train vae", "intermoe.resume": RESUME}
    return JobDetails(
        **{"type": "SUBMISSION", "submission_id": "a", "entrypoint": "exec sh x", "metadata": metadata}
        | {"status": status, "driver_exit_code": code, "message": message}
        | more
    )


RUNNING, SUCCEEDED = details(JobStatus.RUNNING), details(JobStatus.SUCCEEDED, 0)


class Server(JobServer):
    """Tells of a job what a test says: what each connection to the log gives, and each look at its state."""

    address = URL

    def __init__(self, states, tails=(), log=LOG):
        self.states, self.tails, self.whole = list(states), list(tails), log
        self.stops = 0

    def details(self, job_id):
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, BaseException):
            raise state
        return state

    async def tail(self, job_id, write):
        for part in self.tails.pop(0) if self.tails else ():
            if isinstance(part, BaseException):
                raise part
            write(part)

    def log(self, job_id):
        if isinstance(self.whole, BaseException):
            raise self.whole
        return self.whole

    def request_stop(self, job_id):
        self.stops += 1


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Seconds that pass only while somebody sleeps."""
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    # asyncio keeps the real clock.
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    return now


def test_a_log_is_shown_once_over_connections_that_end(capsys):
    server = Server([RUNNING, RUNNING, SUCCEEDED], [[LOG[:50], LOG[50:53]], [LOG[:30]], [LOG[:30], LOG[30:54]]])
    assert follow(server, "a") == SUCCEEDED
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_a_server_that_restarts_is_waited_for(capsys):
    silent = ServerSilent("does not answer", where=URL)
    server = Server([silent, silent, RUNNING, SUCCEEDED], [[LOG[:44]], []])
    assert follow(server, "a") == SUCCEEDED
    assert capsys.readouterr() == (
        "one\ntwo\nthree\n",
        f"{URL}: does not answer; trying again for 10 minutes\nthe job server answers again: job a\n",
    )


def test_a_server_that_does_not_come_back_is_given_up(clock):
    with pytest.raises(UserError) as caught:
        follow(Server([ServerSilent("does not answer", where=URL)]), "a")
    assert str(caught.value) == (
        f"{URL}: does not answer (allowed: `intermoe logs a --follow` when it is back; the job may go on)"
    )
    assert 600 < clock[0] < 605


def test_a_job_that_has_not_begun_says_why(capsys):
    pending = details(JobStatus.PENDING, message="Job has not started yet.\nMore.")
    follow(Server([pending, SUCCEEDED], log=""), "a")
    assert capsys.readouterr().out == "job a is pending: Job has not started yet.\n"


def test_a_log_whose_node_is_gone_costs_its_end_alone(capsys):
    failed = details(JobStatus.FAILED, message="Job supervisor actor died\n at ...")
    assert watch(Server([failed], [[LOG[:44]]], log=ServerSilent("gone", where=URL)), "a") == 1
    assert capsys.readouterr() == (
        f"one\njob a failed: Job supervisor actor died\ngo on with it: {RESUME}\n",
        f"the end of the log cannot be read: {URL}: gone\n",
    )


@pytest.mark.parametrize(
    ("ended", "code", "lines"),
    [
        (SUCCEEDED, 0, ["job a succeeded"]),
        (details(JobStatus.FAILED, 2), 2, ["job a failed with exit code 2", f"go on with it: {RESUME}"]),
        (details(JobStatus.FAILED, -9), 137, ["job a failed with exit code -9", f"go on with it: {RESUME}"]),
        (details(JobStatus.STOPPED), 1, ["job a was stopped", f"go on with it: {RESUME}"]),
        (details(JobStatus.FAILED, metadata={}), 1, ["job a failed: no reason is given"]),
    ],
)
def test_the_exit_code_is_that_of_the_command(capsys, ended, code, lines):
    assert report_end("a", ended) == code
    assert capsys.readouterr().out.splitlines() == lines


def interrupted(monkeypatch, answer):
    """Ctrl-C while a log is followed; ``answer`` is what the user types, None where there is no terminal."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer or ""))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: answer is not None, raising=False)
    server = Server([RUNNING, details(JobStatus.STOPPED)], [[KeyboardInterrupt()]])
    with pytest.raises(KeyboardInterrupt) as caught:
        watch(server, "a", " --address u")
    return server.stops, str(caught.value)


@pytest.mark.parametrize("answer", [None, "", "\n", "L\n"])
def test_ctrl_c_leaves_a_job_running(monkeypatch, answer):
    stays = "the job goes on; `intermoe logs a --follow --address u` shows it, `intermoe stop a --address u` stops it"
    assert interrupted(monkeypatch, answer) == (0, stays)


def test_ctrl_c_stops_a_job_if_the_user_says_so(monkeypatch, capsys):
    assert interrupted(monkeypatch, "s\n") == (1, "job a was stopped")
    assert capsys.readouterr().out.splitlines() == [
        "",
        "stop the job or leave it running? [s/L] job a is asked to stop",
        "job a was stopped",
        f"go on with it: {RESUME}",
    ]


def test_stopping_waits_for_the_end(capsys):
    stop(Server([RUNNING, RUNNING, details(JobStatus.STOPPED)]), "a")
    assert capsys.readouterr().out.splitlines() == [
        "job a is asked to stop",
        "job a was stopped",
        f"go on with it: {RESUME}",
    ]


def test_a_job_that_has_ended_is_not_stopped(capsys):
    server = Server([SUCCEEDED])
    stop(server, "a")
    assert (server.stops, capsys.readouterr().out) == (0, "job a had ended before: succeeded\n")


def test_a_job_that_does_not_stop_is_given_up():
    with pytest.raises(UserError) as caught:
        stop(Server([RUNNING]), "a")
    assert str(caught.value) == f"{URL}: job a has not stopped in 90 s, it is running (allowed: the same command again)"


def test_jobs_are_listed_with_their_commands():
    begin = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    local = f"{begin.astimezone():%Y-%m-%d %H:%M:%S}"
    ms = round(begin.timestamp() * 1000)
    listed = [
        details(JobStatus.SUCCEEDED, 0, start_time=ms, end_time=ms + 61_000),
        details(JobStatus.RUNNING, start_time=ms, submission_id="other", metadata=None),
        details(JobStatus.PENDING),
    ]
    assert table(listed, begin + timedelta(hours=1)) == [
        "JOB    STATE      BEGAN                TOOK     COMMAND",
        f"a      succeeded  {local}  0:01:01  train vae",
        f"other  running    {local}  1:00:00  exec sh x",
        "a      pending                                  train vae",
    ]


class Client:
    """Ray's client: every request ends with an error, and a log gives its parts."""

    def __init__(self, error=None, parts=()):
        self.error, self.parts = error, parts

    def get_job_info(self, job_id):
        raise self.error

    async def tail_job_logs(self, job_id):
        for part in self.parts:
            if isinstance(part, BaseException):
                raise part
            await asyncio.sleep(part if isinstance(part, float) else 0)
            if isinstance(part, str):
                yield part


def server_with(client, monkeypatch):
    monkeypatch.setattr(job_server, "_Client", lambda address: client)
    return JobServer(URL + "/")


TOKEN = "(allowed: RAY_AUTH_MODE=token, and the cluster's token in RAY_AUTH_TOKEN or its file in RAY_AUTH_TOKEN_PATH)"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("Request failed with status code 404: Job a does not exist."),
            (
                "job a is not known there"
                " (allowed: one of `intermoe jobs`; a cluster that is restarted forgets its jobs)"
            ),
        ),
        (
            RuntimeError("Request failed with status code 400: bad\nTraceback"),
            "Request failed with status code 400: bad",
        ),
        (AuthenticationError("Authentication required: none\n\nmore"), f"Ray's job server asks for a token {TOKEN}"),
        (AuthenticationError("Authentication failed: wrong"), f"Ray's job server refuses the token {TOKEN}"),
    ],
)
def test_what_the_server_refuses_is_one_line(monkeypatch, error, message):
    with pytest.raises(UserError) as caught:
        server_with(Client(error), monkeypatch).details("a")
    assert str(caught.value) == f"{URL}: {message}"
    assert not isinstance(caught.value, ServerSilent)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (requests.ConnectionError("refused\nmore"), "Ray's job server does not answer: refused"),
        (ConnectionError(), "Ray's job server does not answer: ConnectionError"),
        (RuntimeError("Request failed with status code 503: busy"), "Request failed with status code 503: busy"),
    ],
)
def test_a_server_that_may_come_back_is_silent(monkeypatch, error, message):
    with pytest.raises(ServerSilent) as caught:
        server_with(Client(error), monkeypatch).details("a")
    assert str(caught.value) == f"{URL}: {message}"


@pytest.mark.parametrize("end", [RuntimeError("closed"), ConnectionError(), 30.0])
def test_a_connection_that_is_lost_or_silent_ends_without_an_error(monkeypatch, end):
    monkeypatch.setattr(job_server, "SILENCE_SECONDS", 0.05)
    written = []
    asyncio.run(server_with(Client(parts=["a\n", "b\n", end]), monkeypatch).tail("a", written.append))
    assert written == ["a\n", "b\n"]


def test_the_address_is_given_or_set():
    both = {"RAY_API_SERVER_ADDRESS": "https://api", "RAY_ADDRESS": "http://ray"}
    assert server_address("http://given", both) == "http://given"
    assert server_address(None, both) == "https://api"
    assert server_address(None, {"RAY_ADDRESS": "http://ray"}) == "http://ray"
    with pytest.raises(UserError) as caught:
        server_address(None, {"RAY_API_SERVER_ADDRESS": "auto", "RAY_ADDRESS": "http://ray"})
    assert str(caught.value) == (
        "RAY_API_SERVER_ADDRESS auto: is not the address of a job server (allowed: such as http://HOST:8265)"
    )
