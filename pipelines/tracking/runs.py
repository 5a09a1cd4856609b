"""MLflow: runs with their parameters, curves, files, data sets and checkpoints.

A run is addressed by the address of its store and its id, two plain strings, so that a driver can open it and a Ray
worker on another machine can write to it. Nothing relies on MLflow's notion of an active run.
"""

import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Thread
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlencode

from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from intermoe.errors import UserError, UserNote
from intermoe.places import Place, cache, is_remote
from pipelines.settings import flatten
from pipelines.tracking.address import check_reachable, shown, sqlite_file
from pipelines.tracking.client import batches_of, child_run, experiment_named, explained, param_text
from pipelines.tracking.delivery import BYTES_PER_SECOND, Delivery
from pipelines.tracking.spools import FOLDER, spool_of
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


class Run:
    """One run in MLflow that this process writes to.

    What is logged goes to the spool in the run's folder (spool.py), and from there to MLflow by a thread
    (delivery.py): nothing here waits for MLflow but :meth:`start` and, for a bounded time, the end.

    Attributes:
        uri: of the store.
        id: of the run.

    Leaving a ``with`` block finishes the run: as FINISHED, as KILLED on Ctrl-C, as FAILED on any other exception.
    """

    def __init__(self, uri: str, id: str, folder: Place | None, *, part: str = "driver", delivers: bool = True) -> None:
        """Take up a run that is there; nothing is asked of the store.

        Args:
            uri: of the store.
            id: of the run.
            folder: of the run, where its spool is; one in the user's cache if None.
            part: of this process in the run (``spool_of``).
            delivers: whether this process hands on what it logs; otherwise another one does, which has the folder too.
        """
        self.uri, self.id = uri, id
        self._folder, self._part, self._delivers = folder or cache() / "runs" / id, part, delivers
        self._spool = spool_of(self._folder, id, shown(uri), part)
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

    @classmethod
    def join(cls, uri: str, id: str, folder: Place) -> Self:
        """Log to a run that another process has opened and delivers, from a worker of it.

        In the storage of a URI, which cannot be added to, the worker delivers what it logs itself.
        """
        return cls(uri, id, folder, part="worker", delivers=is_remote(folder))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a point to each named curve; points are delivered together every few seconds (``delivery.SECONDS``)."""
        if metrics:
            self._log("points", step=step, values={name: float(value) for name, value in metrics.items()})

    def save(self) -> None:
        """Wait until the disk has what was logged; call it before a checkpoint is written.

        A run that goes on from the checkpoint then misses no point, even if the machine has died.
        """
        self._spool.save()

    def flush(self, patience: float = PATIENCE) -> bool:
        """Wait until MLflow has what was logged, or has taken nothing for so many seconds; whether it has."""
        self._deliver()
        return self._delivery is None or self._delivery.wait(patience)

    def log_artifact(self, path: Place, folder: str | None = None) -> None:
        """Add a file, or a folder with all it holds, as it is now, below the named folder of the run's artifacts."""
        self._log("artifact", **self._spool.hold(path), folder=folder)

    def describe(self, markdown: str) -> None:
        """Set the description on the page of the run, in place of an earlier one.

        It is cut to what MLflow takes; ``writer.MEASURED`` in it becomes a table of the newest measures.
        """
        self._log("describe", markdown=markdown)

    def artifact_link(self, path: str) -> str:
        """The address of a file among the run's artifacts."""
        return f"get-artifact?{urlencode({'path': path, 'run_uuid': self.id})}"

    def picture(self, path: str, text: str | None = None) -> str:
        """A picture among the run's artifacts as Markdown for a description; ``text`` is for who does not see it."""
        return f"![{path if text is None else text}]({self.artifact_link(path)})"

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        if tags:
            self._log("tags", tags=dict(tags))

    def log_dict(self, document: Mapping[str, Any], file: str) -> None:
        """Add a document as a .json or .yaml file."""
        self._log("document", document=dict(document), file=file)

    def log_table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Add a table as a .json file, which the page of the run shows as one; an earlier one is replaced."""
        self._log("table", columns={name: list(values) for name, values in columns.items()}, file=file)

    def log_dataset(self, name: str, digest: str, source: str, *, profile: Mapping[str, Any], context: str) -> None:
        """Note which data the run used.

        Args:
            name: of the data set.
            digest: a hash of what it holds.
            source: where it lies.
            profile: its counts and whatever else describes it.
            context: what for, such as "training".
        """
        self._log("dataset", name=name, digest=digest, source=source, profile=dict(profile), context=context)

    def log_checkpoint(self, folder: Place, step: int, metrics: Mapping[str, float]) -> None:
        """Add a checkpoint as a logged model that belongs to the run; once a step, however often it is called.

        Args:
            folder: the checkpoint, added as it is now.
            step: at which it was taken.
            metrics: what was measured of it; they are points of the run's curves too, not to be logged again.
        """
        self._log("checkpoint", **self._spool.hold(folder), step=step, metrics=dict(metrics))

    def log_evaluated(self, model_run: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record metrics of this run on the newest checkpoint of another run.

        The numbers then stand on the page of the checkpoint too. Nothing is said where the store does not know the
        other run, or no checkpoint of it.
        """
        self._log("evaluated", model_run=model_run, metrics=dict(metrics), step=step)

    def measure_system(self) -> None:
        """Log the load of this machine (processors, memory, disk, network, GPUs) every 10 seconds until the end."""
        self._load = SystemLoad(self.uri, self.id, self.log_metrics)

    def move(self, folder: Place) -> None:
        """Keep what MLflow does not have yet in another folder of the same file system from now on."""
        self._spool.move(folder / FOLDER / self._part if is_remote(folder) else folder / FOLDER)
        self._folder = folder

    def close(self, patience: float = PATIENCE) -> None:
        """Stop writing; the run continues elsewhere.

        Waits for MLflow to take what was logged, and says what it has not taken after so many seconds without taking
        any; a process that does not deliver waits for nothing. Delivering goes on for as long as the process lives.
        """
        self._stop_measuring()
        if not self._delivers:
            self._spool.save()
            return
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

    def _log(self, kind: str, **arguments: Any) -> None:
        self._spool.append(kind, int(time.time() * 1000), **arguments)
        self._deliver()

    def _deliver(self) -> None:
        """Have a thread deliver, where there is anything to deliver."""
        if self._delivers and self._delivery is None and self._spool.file.exists():
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
