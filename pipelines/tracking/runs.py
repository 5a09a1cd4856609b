"""MLflow: runs with their parameters, curves, files, data sets and checkpoints.

A run is addressed by the address of its store and its id, two plain strings, so that a driver can open it and a Ray
worker on another machine can write to it. Nothing relies on MLflow's notion of an active run.
"""

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlencode

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
)
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.context.registry import resolve_tags

from intermoe.errors import reason_of
from intermoe.places import Place, on_disk
from pipelines.settings import flatten
from pipelines.tracking.address import check_reachable
from pipelines.tracking.client import (
    DIGEST_LENGTH,
    EVALUATED,
    batches_of,
    child_run,
    experiment_named,
    explained,
    logged_models,
    newest_checkpoint,
    param_text,
)

Status = Literal["FINISHED", "FAILED", "KILLED"]
FLUSH_SECONDS = 10.0
# What MLflow takes at once.
_BATCH = 1000
_PARAMS = 100
# Characters of a tag.
_NOTE_LENGTH = 8000

_log = logging.getLogger(__name__)


class Run:
    """One run in MLflow that this process writes to.

    Attributes:
        uri: of the store.
        id: of the run.

    Leaving a ``with`` block finishes the run: as FINISHED, as KILLED on Ctrl-C, as FAILED on any other exception.
    """

    def __init__(self, uri: str, id: str) -> None:
        self.uri, self.id = uri, id
        self._client = MlflowClient(uri)
        self._waiting: list[Metric] = []
        self._flushed = time.monotonic()
        self._system: SystemMetricsMonitor | None = None
        run = self._client.get_run(id)
        self._experiment, self._name = run.info.experiment_id, str(run.info.run_name)
        # A resumed worker computes again what it has logged since its checkpoint; those points are there already.
        self._logged = {metric.key: metric.step for metric in run.data._metric_objs}

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
    ) -> Self:
        """Open a new run.

        Args:
            uri: from ``tracking_uri``.
            experiment: name of the experiment, which is made where it does not exist.
            name: of the run, for people.
            params: the config, nested as it is; logged as ``moe.experts`` and so on.
            tags: what the run is found by, such as the run whose VAE it uses.
            parent: id of the run that this one belongs to.

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
            return cls(uri, run.info.run_id)

    @classmethod
    def reopen(cls, uri: str, id: str) -> Self:
        """Go on with a run, from another process or after an interruption.

        A point that the run has already, or of an earlier step, is not logged again.

        Raises:
            UserError: the store does not answer, or has no such run.
        """
        run = cls.attach(uri, id)
        with explained(uri):
            run._client.update_run(id, status="RUNNING")
        return run

    @classmethod
    def attach(cls, uri: str, id: str) -> Self:
        """Attach to a run without changing its status.

        Raises:
            UserError: the store does not answer, or has no such run.
        """
        with explained(uri):
            check_reachable(uri)
            return cls(uri, id)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a point to each named curve; points are sent together every ``FLUSH_SECONDS``."""
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            if step > self._logged.get(name, -1):
                self._logged[name] = step
                self._waiting.append(Metric(name, float(value), now, step))
        if time.monotonic() - self._flushed > FLUSH_SECONDS or len(self._waiting) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Send what waits; call it before a checkpoint is written, so that a restart from there misses no point.

        A store that is away does not stop the training: after MLflow's own retries the points wait for the next flush.
        """
        self._flushed = time.monotonic()
        try:
            self._send()
        except MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise
            _log.warning("MLflow does not answer, %d points wait: %s", len(self._waiting), reason_of(error))

    def log_artifact(self, path: Place, folder: str | None = None) -> None:
        """Add a file, or a folder with all it holds, below the named folder of the run's artifacts."""
        with on_disk(path) as local:
            if local.is_dir():
                self._client.log_artifacts(self.id, str(local), "/".join(filter(None, (folder, local.name))))
            else:
                self._client.log_artifact(self.id, str(local), folder)

    def describe(self, markdown: str) -> None:
        """Set the description on the page of the run, in place of an earlier one; cut to what MLflow takes."""
        lines, room = [], _NOTE_LENGTH
        for line in markdown.splitlines(keepends=True):
            room -= len(line)
            if room < 0:
                break
            lines.append(line)
        self._client.set_tag(self.id, "mlflow.note.content", "".join(lines))

    def artifact_link(self, path: str) -> str:
        """The address of a file among the run's artifacts."""
        return f"get-artifact?{urlencode({'path': path, 'run_uuid': self.id})}"

    def picture(self, path: str, text: str | None = None) -> str:
        """A picture among the run's artifacts as Markdown for a description; ``text`` is for who does not see it."""
        return f"![{path if text is None else text}]({self.artifact_link(path)})"

    def newest_metrics(self) -> dict[str, float]:
        """The newest value of each curve that has been sent."""
        self.flush()
        return dict(self._client.get_run(self.id).data.metrics)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        for name, value in tags.items():
            self._client.set_tag(self.id, name, value)

    def log_dict(self, document: Mapping[str, Any], file: str) -> None:
        """Add a document as a .json or .yaml file."""
        self._client.log_dict(self.id, dict(document), file)

    def log_table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Add a table as a .json file, which the page of the run shows as one; an earlier one is replaced."""
        if any(found.path == file for found in self._client.list_artifacts(self.id)):
            # MLflow would add its rows to those that are there.
            rows = list(zip(*columns.values(), strict=True))
            self._client.log_dict(self.id, {"columns": list(columns), "data": rows}, file)
        else:
            self._client.log_table(self.id, {name: list(values) for name, values in columns.items()}, file)

    def log_dataset(self, name: str, digest: str, source: str, *, profile: Mapping[str, Any], context: str) -> None:
        """Note which data the run used.

        Args:
            name: of the data set.
            digest: a hash of what it holds.
            source: where it lies.
            profile: its counts and whatever else describes it.
            context: what for, such as "training".
        """
        dataset = Dataset(
            name, digest[:DIGEST_LENGTH], "local", json.dumps({"uri": source}), profile=json.dumps(profile)
        )
        self._client.log_inputs(self.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def log_checkpoint(self, folder: Place, step: int, metrics: Mapping[str, float]) -> str:
        """Add a checkpoint as a logged model that belongs to the run; once a step, however often it is called.

        Args:
            folder: the checkpoint, copied as it is.
            step: at which it was taken.
            metrics: what was measured of it; they are points of the run's curves too, not to be logged again.

        Returns:
            The id of the model in MLflow.
        """
        for output in logged_models(self._client, self.id):
            if output.step == step:
                return output.model_id
        model = self._client.create_logged_model(
            self._experiment,
            name=re.sub(r"[/:.%\"']", "-", f"{self._name}-{step}"),
            source_run_id=self.id,
            model_type="intermoe checkpoint",
            params={"step": str(step)},
        )
        with on_disk(folder) as local:
            self._client.log_model_artifacts(model.model_id, str(local))
        self._client.finalize_logged_model(model.model_id, "READY")
        now = int(time.time() * 1000)
        points = [Metric(name, float(value), now, step, model_id=model.model_id) for name, value in metrics.items()]
        self._client.log_batch(self.id, metrics=points)
        self._client.log_outputs(self.id, [LoggedModelOutput(model.model_id, step)])
        return model.model_id

    def log_evaluated(self, model_run: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record metrics of this run on the newest checkpoint of another run.

        The numbers then stand on the page of the checkpoint too. Nothing is said where the store does not know the
        other run, or no checkpoint of it.
        """
        try:
            newest = newest_checkpoint(self._client, model_run)
        except MlflowException:
            return
        if newest is None:
            return
        self._client.log_inputs(self.id, models=[LoggedModelInput(newest.model_id)])
        now = int(time.time() * 1000)
        points = [
            Metric(f"{EVALUATED}{name}", float(value), now, step, model_id=newest.model_id)
            for name, value in metrics.items()
            if step > self._logged.get(f"{EVALUATED}{name}", -1)
        ]
        self._client.log_batch(self.id, metrics=points)

    def measure_system(self) -> None:
        """Log the load of this machine (processors, memory, disk, network, GPUs) every 10 seconds until the end."""
        self._system = SystemMetricsMonitor(self.id, resume_logging=True, tracking_uri=self.uri)
        self._system.start()

    def close(self) -> None:
        """Flush and stop writing; the run continues elsewhere.

        Raises:
            UserError: the store does not take the last points.
        """
        if self._system is not None:
            self._system.finish()
            self._system = None
        with explained(self.uri):
            self._send()

    def finish(self, status: Status = "FINISHED") -> None:
        """Close the run and say how it ended."""
        self.close()
        with explained(self.uri):
            self._client.set_terminated(self.id, status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        status: Status = "FINISHED"
        if kind is not None:
            status = "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        self.finish(status)

    def _send(self) -> None:
        while self._waiting:
            self._client.log_batch(self.id, metrics=self._waiting[:_BATCH])
            del self._waiting[:_BATCH]
