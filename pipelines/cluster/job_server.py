"""The job server of a Ray cluster: what is asked of it, with one line for what it refuses."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import requests
from pydantic import ValidationError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from intermoe.errors import UserError, first_line, reason_of
from pipelines.environment import environment_of
from pipelines.tracking.address import shown

Answer = TypeVar("Answer")

POLL_SECONDS = 2.0
# Without a word in the log, before the job is looked at.
SILENCE_SECONDS = 60.0
_REQUEST_SECONDS = 60.0
# For a cluster that has just been started to know its nodes.
_AGENT_SECONDS = 60.0
# What a job notes of itself for whoever sees it later.
COMMAND, RESUME = "intermoe.command", "intermoe.resume"
_TOKEN = "RAY_AUTH_MODE=token, and the cluster's token in RAY_AUTH_TOKEN or its file in RAY_AUTH_TOKEN_PATH"

# Their lines about packages and addresses would stand among ours.
for _name in ("_private.runtime_env.packaging", "dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk"):
    logging.getLogger(f"ray.{_name}").setLevel(logging.WARNING)


class ServerSilent(UserError):
    """The job server does not answer now; it may later."""


class _Client(JobSubmissionClient):
    """Ray's client with a limit to how long a request may take, and with the address that it is given.

    Ray's lets RAY_API_SERVER_ADDRESS win over the address, and waits for an answer for ever.
    """

    def __init__(self, address: str) -> None:
        with environment_of(RAY_API_SERVER_ADDRESS=address):
            super().__init__(address)

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        return super()._do_request(method, endpoint, timeout=_REQUEST_SECONDS, **options)


class JobServer:
    """The job server of a cluster; what it refuses is one line.

    Args:
        address: such as ``http://10.0.0.1:8265``.

    Raises:
        UserError: nothing answers there, or it asks for a token.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._client = self._asked(lambda: _Client(self.address))

    def send(
        self, job_id: str, entrypoint: str, runtime_environment: Mapping[str, Any], *, command: str, resume: str | None
    ) -> None:
        """Start a job.

        Args:
            job_id: its new id.
            entrypoint: the shell line that it runs.
            runtime_environment: Ray's.
            command: what `jobs` shows of it.
            resume: the command that goes on with it after it was stopped.

        Raises:
            UserError: the server does not take it.
        """
        metadata = {COMMAND: command} | ({RESUME: resume} if resume else {})
        deadline = time.monotonic() + _AGENT_SECONDS
        while True:
            try:
                self._asked(
                    lambda: self._client.submit_job(
                        entrypoint=entrypoint,
                        submission_id=job_id,
                        runtime_env=dict(runtime_environment),
                        metadata=metadata,
                    )
                )
            except UserError as error:
                # A cluster that has just been started knows its nodes a moment later.
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)
            else:
                return

    def details(self, job_id: str) -> JobDetails:
        """The state of a job; ``UserError`` where there is none of that id."""
        return self._asked(lambda: self._client.get_job_info(job_id), job_id)

    def all_details(self) -> list[JobDetails]:
        """The states of all jobs that were submitted, oldest first."""
        jobs = self._asked(self._client.list_jobs)
        return sorted((job for job in jobs if job.submission_id), key=lambda job: job.start_time or 0)

    def log(self, job_id: str) -> str:
        """The log of a job so far; ``UserError`` where there is none of that id."""
        return self._asked(lambda: self._client.get_job_logs(job_id), job_id)

    def request_stop(self, job_id: str) -> None:
        """Ask a job to stop; it takes a moment."""
        self._asked(lambda: self._client.stop_job(job_id), job_id)

    async def tail(self, job_id: str, write: Callable[[str], None]) -> None:
        """Hand on a job's log from its beginning as it grows, until the job or the connection ends or is silent."""
        async with aclosing(self._client.tail_job_logs(job_id)) as parts:  # type: ignore[type-var]
            while (part := await _next(parts)) is not None:
                write(part)

    def _asked(self, ask: Callable[[], Answer], job_id: str = "") -> Answer:
        try:
            return ask()
        except AuthenticationError as error:
            refusal = "refuses the token" if "Authentication failed" in str(error) else "asks for a token"
            raise UserError(f"Ray's job server {refusal}", where=self.address, allowed=_TOKEN) from None
        except (TypeError, KeyError, ValidationError) as error:
            reason = reason_of(error)
            raise UserError(f"is not a Ray job server: {reason}", where=self.address) from None
        except (requests.RequestException, OSError) as error:
            reason = reason_of(error)
            # Ray's own words say no more than ours.
            what = "does not answer" + ("" if reason.startswith("Failed to connect to Ray") else f": {reason}")
            raise ServerSilent(f"Ray's job server {what}", where=self.address) from None
        except RuntimeError as error:
            text = str(error)
            if job_id and "status code 404" in text:
                raise UserError(
                    f"job {job_id} is not known there",
                    where=self.address,
                    allowed="one of `intermoe jobs`; a cluster that is restarted forgets its jobs",
                ) from None
            kind = ServerSilent if "status code 5" in text and "No available agent" not in text else UserError
            raise kind(first_line(text), where=self.address) from None


async def _next(parts: AsyncIterator[str]) -> str | None:
    """The next part of a log; None at the end, which may be that of the connection: the job's state says which."""
    try:
        return await asyncio.wait_for(anext(parts), SILENCE_SECONDS)
    except (StopAsyncIteration, TimeoutError, aiohttp.ClientError, OSError, RuntimeError):
        return None


def server_address(given: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The address of the job server: given, or RAY_API_SERVER_ADDRESS, or RAY_ADDRESS where that is one.

    Raises:
        UserError: none is set, or it is not one.

    Example:
        >>> server_address(None, {"RAY_ADDRESS": "http://10.0.0.1:8265"})
        'http://10.0.0.1:8265'
    """
    allowed = "such as http://HOST:8265"
    for name, address in (("--address", given), ("RAY_API_SERVER_ADDRESS", environment.get("RAY_API_SERVER_ADDRESS"))):
        if address:
            if not _is_http(address):
                raise UserError("is not the address of a job server", where=f"{name} {shown(address)}", allowed=allowed)
            return address
    address = environment.get("RAY_ADDRESS", "")
    if not _is_http(address):
        raise UserError(
            "the address of the cluster's job server is not set",
            allowed=f"--address URL or RAY_API_SERVER_ADDRESS, {allowed}",
        )
    return address


def _is_http(address: str) -> bool:
    """Whether it is an address of a server, without a name and a password, which would be printed and stored."""
    parts = urlsplit(address)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
