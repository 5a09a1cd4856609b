"""MLflow: opening runs, and delivering what is logged of them: parameters, curves, files, data sets, checkpoints.

Nothing relies on MLflow's notion of an active run.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from threading import Thread
from types import TracebackType
from typing import Any, Literal, Self

from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from intermoe.errors import UserError, UserNote
from intermoe.places import Place, is_remote
from pipelines.settings import flatten
from pipelines.tracking.address import check_reachable, shown, sqlite_file
from pipelines.tracking.client import batches_of, child_run, experiment_named, explained, param_text
from pipelines.tracking.delivery import BYTES_PER_SECOND, Delivery
from pipelines.tracking.run_log import RunLog
from pipelines.tracking.sync import deliver_left
from pipelines.tracking.system_load import SystemLoad

Status = Literal["FINISHED", "FAILED", "KILLED"]
PATIENCE = 30.0
"""The end of a run waits so many seconds for a store that takes nothing."""
# After Ctrl-C.
_IMPATIENCE = 5.0
# To ask whether a run is there before going on with it; where nobody answers, it goes on.
_ASK_SECONDS = 10.0
# What MLflow takes at once.
_PARAMS = 100


class Run(RunLog):
    """One run in MLflow that this process writes to and delivers.

    What is logged goes to the spool in the run's folder (spool.py), and from there to MLflow by a thread
    (delivery.py): nothing here waits for MLflow but :meth:`start` and, for a bounded time, the end.

    Leaving a ``with`` block finishes the run: as FINISHED, as KILLED on Ctrl-C, as FAILED on any other exception.
    """

    def __init__(self, uri: str, id: str, folder: Place | None, *, part: str = "driver") -> None:
        """Take up a run that is there; nothing is asked of the store. Arguments as for ``RunLog``."""
        super().__init__(uri, id, folder, part=part)
        self._delivery: Delivery | None = None
        self._load: SystemLoad | None = None
        # What another process has left there.
        self._deliver()

    @classmethod
    def start(
        cls,
        uri: str,
        experiment: str,
        name: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        parent: str | None = None,
        folder: Place | None = None,
    ) -> Self:
        """Open a new run.

        Args:
            uri: from ``tracking_uri``.
            experiment: name of the experiment, which is made where it does not exist.
            name: of the run, for people.
            params: the config, nested as it is; logged as ``moe.experts`` and so on.
            tags: what the run is found by, such as the run whose VAE it uses.
            parent: id of the run that this one belongs to.
            folder: of the run; what it logs is kept there until MLflow has it.

        Raises:
            UserError: the store does not answer or refuses.
        """
        all_tags = resolve_tags(dict(tags or {}))
        if parent is not None:
            all_tags["mlflow.parentRunId"] = parent
        with explained(uri):
            check_reachable(uri)
            client = MlflowClient(uri)
            experiment_id = experiment_named(client, uri, experiment)
            # A process that was killed before it had noted its run anywhere left one.
            run = child_run(client, experiment_id, all_tags)
            if run is None:
                run = client.create_run(experiment_id, tags=all_tags, run_name=name)
            flat = [Param(key, param_text(value)) for key, value in flatten(params).items()]
            for part in batches_of(flat, _PARAMS):
                client.log_batch(run.info.run_id, params=part)
        return cls(uri, run.info.run_id, folder)

    @classmethod
    def reopen(cls, uri: str, id: str, folder: Place | None = None) -> Self:
        """Go on with a run, after an interruption; the store need not answer.

        What the interrupted process has logged and could not deliver is delivered now. A point of a step that its curve
        has passed is not logged again.

        Raises:
            UserError: the store has no such run.
        """
        _check_known(uri, id)
        run = cls(uri, id, folder)
        run._log("status", status="RUNNING")
        return run

    @classmethod
    def attach(cls, uri: str, id: str, folder: Place | None = None, *, part: str = "driver") -> Self:
        """Attach to a run without changing its status; the store need not answer.

        Raises:
            UserError: the store has no such run.
        """
        _check_known(uri, id)
        return cls(uri, id, folder, part=part)

    def flush(self, patience: float = PATIENCE) -> bool:
        """Wait until MLflow has what was logged, or has taken nothing for so many seconds; whether it has."""
        self._deliver()
        return self._delivery is None or self._delivery.wait(patience)

    def measure_system(self) -> None:
        """Log the load of this machine (processors, memory, disk, network, GPUs) every 10 seconds until the end."""
        self._load = SystemLoad(self.uri, self.id, self.log_metrics, self._waiting_points)

    def close(self, patience: float = PATIENCE) -> None:
        """Stop writing; the run continues elsewhere.

        Waits for MLflow to take what was logged, and says what it has not taken after so many seconds without taking
        any. Delivering goes on for as long as the process lives.
        """
        self._stop_measuring()
        self._deliver()
        if self._delivery is None:
            return
        delivery, self._delivery = self._delivery, None
        if patience > _IMPATIENCE and delivery.failure is None:
            patience += self._spool.undelivered().bytes / BYTES_PER_SECOND
        delivery.end()
        delivered = delivery.wait(min(patience, _IMPATIENCE))
        if not delivered and delivery.is_elsewhere:
            # The process that has the run delivers this too.
            return
        if not delivered and patience > _IMPATIENCE:
            _note(
                f"MLflow at {shown(self.uri)}: {delivery.failure or 'is slow, or does not answer'}; "
                f"waiting up to {patience - _IMPATIENCE:.0f} s for it to take {self._spool.undelivered()}"
            )
            delivery.wait(patience - _IMPATIENCE)
        if left := self._spool.undelivered():
            self._spool.save()
            reason = delivery.failure or "it is slow, or does not answer"
            _note(
                f"not in MLflow at {shown(self.uri)} yet: {left} ({reason}); "
                f"`intermoe sync {self._folder}` delivers what is left"
            )
        elif is_remote(self._folder) and self._part == "driver":
            # There a worker has a spool of its own, and may have ended before all of it was delivered.
            deliver_left(self._folder, self.uri, patience)
        if delivery.refused:
            _note(f"MLflow did not take {len(delivery.refused)} of what was logged, such as {delivery.refused[0]}")

    def leave(self, status: Status | None = None) -> None:
        """Stop writing, and wait for nothing: what was logged is delivered for as long as the process lives.

        Args:
            status: how the run ended, if it has.
        """
        if status is not None:
            self._log("status", status=status)
        self._deliver()
        if self._delivery is not None:
            self._delivery.end()
            self._delivery = None

    def finish(self, status: Status = "FINISHED", patience: float = PATIENCE) -> None:
        """Say how the run ended, and close it."""
        # Before the status, which is the last that is said of a run.
        self._stop_measuring()
        self._log("status", status=status)
        self.close(patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            interrupted = issubclass(kind, KeyboardInterrupt)
            # What the block was left with is what there is to say.
            with suppress(UserError):
                self.finish("KILLED" if interrupted else "FAILED", _IMPATIENCE)

    def _stop_measuring(self) -> None:
        if self._load is not None:
            self._load.stop()
            self._load = None

    def _waiting_points(self) -> Iterator[tuple[int, list[str]]]:
        """Step and names of the points that MLflow does not have yet."""
        for entry in self._spool.entries():
            if entry.kind == "points":
                yield int(entry.arguments["step"]), list(entry.arguments["values"])

    def _log(self, kind: str, **arguments: Any) -> None:
        super()._log(kind, **arguments)
        self._deliver()

    def _deliver(self) -> None:
        """Have a thread deliver, where there is anything to deliver."""
        if self._delivery is None and self._spool.file.exists():
            self._delivery = Delivery(self.uri, self._spool)


def _check_known(uri: str, run_id: str) -> None:
    """Raise ``UserError`` where a store says that it has no such run; one that does not answer says nothing."""
    if sqlite_file(uri) is not None:
        check_reachable(uri)
    answers: list[UserError] = []

    def ask() -> None:
        try:
            with explained(uri):
                check_reachable(uri)
                MlflowClient(uri).get_run(run_id)
        except UserError as error:
            cause = error.__cause__
            if isinstance(cause, MlflowException) and cause.error_code == "RESOURCE_DOES_NOT_EXIST":
                answers.append(error)

    # A server that stands still takes the request.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_ASK_SECONDS)
    if answers:
        raise answers[0]


def _note(text: str) -> None:
    warnings.warn(UserNote(text), stacklevel=3)
