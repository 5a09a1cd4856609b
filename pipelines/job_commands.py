"""The commands that run other commands on a Ray cluster: submit, jobs, logs, stop."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipelines import settings
from pipelines.cluster.job_environment import check_sources, is_uri
from pipelines.cluster.job_server import JobServer, server_address
from pipelines.cluster.jobs import how_to_go_on, print_log, stop, table, watch
from pipelines.cluster.submit import (
    Package,
    check_sendable,
    entrypoint,
    handed_on,
    new_job_id,
    packed,
    runtime_environment,
)
from pipelines.grammar import parse
from pipelines.sweep.file import load as load_sweep


def submit(command: Sequence[str], *, address: str | None = None, detach: bool = False) -> int:
    """Run a command as a job, and show its log until it ends.

    Args:
        command: its words, with or without a leading ``intermoe``.
        address: of the job server; that of the environment if None.
        detach: whether to return when the job is sent.

    Returns:
        The exit code of the command.

    Raises:
        UserError: the command cannot work on a cluster, or cannot be sent.
        KeyboardInterrupt: Ctrl-C while the log is shown.
    """
    words = list(command[1:] if command[0] == "intermoe" else command)
    options = parse(words)
    check_sendable(options)
    url = server_address(address)
    variables, local = handed_on()
    hint = _hint(address)
    with packed(Path.cwd()) as package:
        _check_files(options, package)
        server = JobServer(url)
        job_id = new_job_id(options.verb)
        server.send(
            job_id,
            entrypoint(words),
            runtime_environment(package, variables),
            command=shlex.join(words),
            resume=_resume(words, options, hint),
        )
    print(f"job {job_id} is sent to {server.address}: {package}")
    print(f"handed on from this environment: {', '.join(variables) or 'nothing'}")
    print(f"dashboard: {server.address}/#/jobs/{job_id}")
    print(how_to_go_on(job_id, hint), flush=True)
    for name in local:
        print(f"note: {name} names a file of this machine and is not handed on", file=sys.stderr)
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        print("note: MLFLOW_TRACKING_URI is not set here, so the cluster's own is used", file=sys.stderr)
    return 0 if detach else watch(server, job_id, hint)


def list_jobs(*, address: str | None = None) -> None:
    """Print the jobs of a cluster."""
    for line in table(JobServer(server_address(address)).all_details(), datetime.now(UTC)):
        print(line)


def show_log(job_id: str, *, address: str | None = None, follow: bool = False) -> int:
    """Print the log of a job, until it ends if ``follow`` is set; the exit code of the job, 0 if it is not."""
    server = JobServer(server_address(address))
    if follow:
        return watch(server, job_id, _hint(address))
    print_log(server, job_id)
    return 0


def stop_job(job_id: str, *, address: str | None = None) -> None:
    """Stop a job and print what happened."""
    stop(JobServer(server_address(address)), job_id)


def _check_files(options: argparse.Namespace, package: Package) -> None:
    """Refuse configurations, mappings and sweep files that are not sent, or that the job would refuse."""
    overrides = settings.parse_overrides(getattr(options, "overrides", []))
    config = getattr(options, "config", None)
    if config is not None:
        if config.endswith((".yaml", ".yml")):
            package.check_file("--config", config)
        settings.load(config, overrides)
    mapping = getattr(options, "mapping", "")
    if mapping.endswith((".yaml", ".yml")):
        package.check_file("--mapping", mapping)
    file = getattr(options, "file", None)
    if file is not None and not is_uri(file):
        package.check_file("FILE", file)
        data = load_sweep(file, overrides).profile.data
        check_sources(file, root=data.root, text_folder=data.text_folder, word_vectors=data.word_vectors)
        if data.mapping.endswith((".yaml", ".yml")):
            package.check_file("data.mapping", data.mapping)


def _resume(words: Sequence[str], options: argparse.Namespace, hint: str) -> str | None:
    """The line that goes on with a job that was stopped, if its command can."""
    if not hasattr(options, "resume"):
        return None
    return f"intermoe submit{hint} -- {shlex.join(words)}" + ("" if options.resume else " --resume")


def _hint(address: str | None) -> str:
    return f" --address {shlex.quote(address)}" if address else ""
