"""Jobs on a Ray cluster: follow one, report how it ended, stop it, list all."""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from ray.job_submission import JobDetails, JobStatus

from intermoe.errors import UserError, first_line
from pipelines.cluster.job_server import COMMAND, POLL_SECONDS, RESUME, Answer, JobServer, ServerSilent

# For a server to come back after a connection was lost, and for a job to stop.
RECONNECT_SECONDS = 600.0
STOP_SECONDS = 90.0


def follow(server: JobServer, job_id: str) -> JobDetails:
    """Print the log of a job until it ends, over lost connections and a server that restarts; how it ended.

    Raises:
        UserError: the job is not known, or the server does not come back.
    """
    log = _Log(job_id)
    while True:
        log.restart()
        asyncio.run(server.tail(job_id, log.write))
        details = _patiently(lambda: server.details(job_id), job_id)
        if details.status.is_terminal():
            log.restart()
            try:
                log.write(server.log(job_id))
            except UserError as error:  # the log lies on the job's node, which may be gone
                print(f"the end of the log cannot be read: {error}", file=sys.stderr, flush=True)
            return details
        if details.status == JobStatus.PENDING:
            print(f"job {job_id} is pending: {first_line(details.message or 'no reason is given')}", flush=True)
        time.sleep(POLL_SECONDS)


def watch(server: JobServer, job_id: str, hint: str = "") -> int:
    """Follow a job and report its end; on Ctrl-C, ask whether to stop it.

    Args:
        server: of the cluster.
        job_id: of the job.
        hint: options that lead a later command to the same cluster.

    Returns:
        The exit code of the job's command.

    Raises:
        KeyboardInterrupt: Ctrl-C; the message says what becomes of the job.
        UserError: as :func:`follow`.
    """
    try:
        details = follow(server, job_id)
    except KeyboardInterrupt:
        if _is_to_stop():
            stop(server, job_id)
            raise KeyboardInterrupt(f"job {job_id} was stopped") from None
        raise KeyboardInterrupt(f"the job goes on; {how_to_go_on(job_id, hint)}") from None
    return report_end(job_id, details)


def how_to_go_on(job_id: str, hint: str = "") -> str:
    """The commands that show a job's log and stop it.

    Example:
        >>> how_to_go_on("intermoe-train-1")
        '`intermoe logs intermoe-train-1 --follow` shows it, `intermoe stop intermoe-train-1` stops it'
    """
    return f"`intermoe logs {job_id} --follow{hint}` shows it, `intermoe stop {job_id}{hint}` stops it"


def print_log(server: JobServer, job_id: str) -> None:
    """Print the log of a job so far; ``UserError`` where it is not known."""
    _Log(job_id).write(server.log(job_id))


def report_end(job_id: str, details: JobDetails) -> int:
    """Print how a job ended and how to go on with it; the exit code of its command, 1 where there is none."""
    code = details.driver_exit_code
    if details.status == JobStatus.SUCCEEDED:
        print(f"job {job_id} succeeded")
        return 0
    if details.status == JobStatus.STOPPED:
        print(f"job {job_id} was stopped")
    elif code is None:
        print(f"job {job_id} failed: {first_line(details.message or 'no reason is given')}")
    else:
        print(f"job {job_id} failed with exit code {code}")
    if resume := (details.metadata or {}).get(RESUME):
        print(f"go on with it: {resume}")
    # A command that a signal ended has a negative code here, and in a shell one above 128.
    return 1 if not code else code if code > 0 else 128 - code


def stop(server: JobServer, job_id: str) -> None:
    """Stop a job, wait until it has ended, and print what happened.

    Raises:
        UserError: the job is not known, or does not stop in time.
    """
    details = server.details(job_id)
    if details.status.is_terminal():
        print(f"job {job_id} had ended before: {details.status.value.lower()}")
        return
    deadline = time.monotonic() + STOP_SECONDS
    print(f"job {job_id} is asked to stop", flush=True)
    while not details.status.is_terminal():
        if time.monotonic() > deadline:
            raise UserError(
                f"job {job_id} has not stopped in {STOP_SECONDS:.0f} s, it is {details.status.value.lower()}",
                where=server.address,
                allowed="the same command again",
            )
        server.request_stop(job_id)
        time.sleep(POLL_SECONDS)
        details = server.details(job_id)
    report_end(job_id, details)


def table(jobs: Sequence[JobDetails], now: datetime) -> list[str]:
    """Lines that list jobs: id, state, when they began, how long they took, and their commands."""
    rows = [("JOB", "STATE", "BEGAN", "TOOK", "COMMAND")]
    for job in jobs:
        began, ended = (datetime.fromtimestamp(ms / 1000).astimezone() if ms else None for ms in _times(job))
        took = str(timedelta(seconds=round(((ended or now) - began).total_seconds()))) if began else ""
        command = (job.metadata or {}).get(COMMAND) or job.entrypoint
        when = f"{began:%Y-%m-%d %H:%M:%S}" if began else ""
        rows.append((job.submission_id or "", job.status.value.lower(), when, took, first_line(command)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join([*map(str.ljust, row, widths), row[-1]]) for row in rows]


class _Log:
    """Prints a log that comes from its beginning with each connection, each part once."""

    def __init__(self, job_id: str) -> None:
        self._header = f"Running entrypoint for job {job_id}: "
        self._shown = self._position = 0

    def restart(self) -> None:
        self._position = 0

    def write(self, text: str) -> None:
        fresh = text[max(0, self._shown - self._position) :]
        self._position += len(text)
        self._shown = max(self._shown, self._position)
        for line in fresh.splitlines(keepends=True):
            if not line.startswith(self._header):  # a line of Ray's, with ours for the shell
                sys.stdout.write(line)
        sys.stdout.flush()


def _is_to_stop() -> bool:
    """What the user answers, where somebody can answer."""
    if not sys.stdin.isatty():
        return False
    try:
        return input("\nstop the job or leave it running? [s/L] ").strip().lower() in ("s", "stop")
    except (EOFError, KeyboardInterrupt):
        return False


def _patiently(ask: Callable[[], Answer], job_id: str) -> Answer:
    """Ask a server that may be restarting."""
    deadline, silent = time.monotonic() + RECONNECT_SECONDS, False
    while True:
        try:
            answer = ask()
        except ServerSilent as error:
            if time.monotonic() > deadline:
                allowed = f"`intermoe logs {job_id} --follow` when it is back; the job may go on"
                raise UserError(str(error), allowed=allowed) from None
            if not silent:
                print(f"{error}; trying again for {RECONNECT_SECONDS / 60:.0f} minutes", file=sys.stderr, flush=True)
            silent = True
            time.sleep(POLL_SECONDS)
        else:
            if silent:
                print(f"the job server answers again: job {job_id}", file=sys.stderr, flush=True)
            return answer


def _times(job: JobDetails) -> tuple[int | None, int | None]:
    return job.start_time, job.end_time if job.status.is_terminal() else None
