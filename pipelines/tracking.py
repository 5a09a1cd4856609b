"""MLflow: runs with their parameters, curves, files, data sets and checkpoints. Nothing else here knows MLflow.

A run is addressed by the address of its store and its id, two plain strings, so that a driver can open it and a Ray
worker on another machine can write to it. Nothing relies on MLflow's notion of an active run.
"""

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

# MLflow reads these when it is imported: no calls home, no running commentary.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
)
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.context.registry import resolve_tags

from intermoe.errors import UserError
from pipelines.settings import flatten
from pipelines.store import check_reachable, shown, sqlite_file, tracking_uri

Status = Literal["FINISHED", "FAILED", "KILLED"]
FLUSH_SECONDS = 10.0
# What MLflow takes at once, or stores of a value.
_BATCH = 1000
_PARAMS = 100
_PARAM_LENGTH = 6000
_DIGEST_LENGTH = 36
_RUN_ID = re.compile("[0-9a-f]{32}")

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
            tags: what the run shall be found by, such as the run whose VAE it uses.
            parent: id of the run that this one belongs to.

        Raises:
            UserError: the store does not answer or refuses.
        """
        all_tags = resolve_tags(dict(tags or {}))
        if parent is not None:
            all_tags["mlflow.parentRunId"] = parent
        with _explained(uri):
            check_reachable(uri)
            client = MlflowClient(uri)
            experiment_id = _experiment_id(client, uri, experiment)
            # A process that was killed before it had noted its run anywhere left one.
            run = _child(client, experiment_id, all_tags)
            if run is None:
                run = client.create_run(experiment_id, tags=all_tags, run_name=name)
            flat = [Param(key, _param(value)) for key, value in flatten(params).items()]
            for part in _parts(flat, _PARAMS):
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
        with _explained(uri):
            run._client.update_run(id, status="RUNNING")
        return run

    @classmethod
    def attach(cls, uri: str, id: str) -> Self:
        """Add to a run without a word on whether it is at its end.

        Raises:
            UserError: the store does not answer, or has no such run.
        """
        with _explained(uri):
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
            _log.warning("MLflow does not answer, %d points wait: %s", len(self._waiting), _first_line(error))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Add a file, or a folder with all it holds, below the named folder of the run's artifacts."""
        if path.is_dir():
            self._client.log_artifacts(self.id, str(path), "/".join(filter(None, (folder, path.name))))
        else:
            self._client.log_artifact(self.id, str(path), folder)

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

    def log_dataset(self, name: str, digest: str, source: str, profile: Mapping[str, Any], context: str) -> None:
        """Note which data the run used.

        Args:
            name: of the data set.
            digest: a hash of what it holds.
            source: where it lies.
            profile: its counts and whatever else describes it.
            context: what for, such as "training".
        """
        dataset = Dataset(
            name, digest[:_DIGEST_LENGTH], "local", json.dumps({"uri": source}), profile=json.dumps(profile)
        )
        self._client.log_inputs(self.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def log_checkpoint(self, folder: Path, step: int, metrics: Mapping[str, float]) -> str:
        """Add a checkpoint as a logged model that belongs to the run; once a step, however often it is called.

        Args:
            folder: the checkpoint, copied as it is.
            step: at which it was taken.
            metrics: what was measured of it; they are points of the run's curves too, not to be logged again.

        Returns:
            The id of the model in MLflow.
        """
        for output in _logged_models(self._client, self.id):
            if output.step == step:
                return output.model_id
        model = self._client.create_logged_model(
            self._experiment,
            name=re.sub(r"[/:.%\"']", "-", f"{self._name}-{step}"),
            source_run_id=self.id,
            model_type="intermoe checkpoint",
            params={"step": str(step)},
        )
        self._client.log_model_artifacts(model.model_id, str(folder))
        self._client.finalize_logged_model(model.model_id, "READY")
        now = int(time.time() * 1000)
        points = [Metric(name, float(value), now, step, model_id=model.model_id) for name, value in metrics.items()]
        self._client.log_batch(self.id, metrics=points)
        self._client.log_outputs(self.id, [LoggedModelOutput(model.model_id, step)])
        return model.model_id

    def log_evaluated(self, model_run: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Say that this run looked at the newest checkpoint of another run, and what it found.

        The numbers then stand on the page of the checkpoint too. Nothing is said where the store does not know the
        other run, or no checkpoint of it.
        """
        try:
            logged = _logged_models(self._client, model_run)
        except MlflowException:
            return
        if not logged:
            return
        newest = max(logged, key=lambda output: output.step)
        self._client.log_inputs(self.id, models=[LoggedModelInput(newest.model_id)])
        now = int(time.time() * 1000)
        points = [
            Metric(f"evaluated/{name}", float(value), now, step, model_id=newest.model_id)
            for name, value in metrics.items()
            if step > self._logged.get(f"evaluated/{name}", -1)
        ]
        self._client.log_batch(self.id, metrics=points)

    def measure_system(self) -> None:
        """Log the load of this machine (processors, memory, disk, network, GPUs) every 10 seconds until the end."""
        self._system = SystemMetricsMonitor(self.id, resume_logging=True, tracking_uri=self.uri)
        self._system.start()

    def close(self) -> None:
        """Send what waits and stop writing; the run goes on elsewhere.

        Raises:
            UserError: the store does not take the last points.
        """
        if self._system is not None:
            self._system.finish()
            self._system = None
        with _explained(self.uri):
            self._send()

    def finish(self, status: Status = "FINISHED") -> None:
        """Close the run and say how it ended."""
        self.close()
        with _explained(self.uri):
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


def curves(uri: str, run_id: str, wanted: re.Pattern[str]) -> dict[str, list[tuple[int, float]]]:
    """The curves of a run whose names match as a whole: name -> points of step and value.

    Raises:
        UserError: the store does not answer, or has no such run.
    """
    with _explained(uri):
        check_reachable(uri)
        client = MlflowClient(uri)
        names = sorted(name for name in client.get_run(run_id).data.metrics if wanted.fullmatch(name))
        return {name: [(m.step, m.value) for m in client.get_metric_history(run_id, name)] for name in names}


def model_folder(model: str | Path) -> Path:
    """The folder of a model that is named by its folder, or by the id of the MLflow run that made it.

    Of a run it is the newest checkpoint that was logged, fetched from the store where that is on another machine.

    Raises:
        UserError: it is neither, or the run holds no checkpoint.
    """
    if not names_run(model):
        return Path(model)
    uri = tracking_uri()
    with _explained(uri):
        check_reachable(uri)
        client = MlflowClient(uri)
        logged = _logged_models(client, str(model))
        if not logged:
            raise UserError(f"run {model} holds no checkpoint", where=shown(uri))
        newest = client.get_logged_model(max(logged, key=lambda output: output.step).model_id)
        return Path(download_artifacts(artifact_uri=newest.artifact_location, tracking_uri=uri))


def names_run(model: str | Path) -> bool:
    """Whether a model is named by the id of an MLflow run, and not by its folder."""
    return bool(_RUN_ID.fullmatch(str(model))) and not Path(model).exists()


def trained_on(run_id: str) -> Path | None:
    """The data set that a run was trained on; None where it notes none."""
    uri = tracking_uri()
    with _explained(uri):
        check_reachable(uri)
        inputs = MlflowClient(uri).get_run(run_id).inputs
    for used in inputs.dataset_inputs if inputs else []:
        if {tag.key: tag.value for tag in used.tags}.get("mlflow.data.context") == "training":
            return Path(json.loads(used.dataset.source)["uri"])
    return None


def _logged_models(client: MlflowClient, run_id: str) -> list[LoggedModelOutput]:
    """The checkpoints that a run has logged."""
    outputs = client.get_run(run_id).outputs
    return outputs.model_outputs if outputs else []


def _child(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> MlflowRun | None:
    """The run of the same parent that was to write into the same folder, if there is one."""
    names = ("mlflow.parentRunId", "intermoe.out")
    if not all(name in tags for name in names):
        return None
    found = client.search_runs([experiment_id], f"tags.`{names[0]}` = '{tags[names[0]]}'")
    return next((run for run in found if run.data.tags.get(names[1]) == tags[names[1]]), None)


def _experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The experiment of this name, made where it does not exist."""
    database = sqlite_file(uri)
    # Beside the database, not below whatever folder the first process happened to run in; a server decides itself.
    artifacts = str(database.parent / "mlruns") if database else None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # Another process was quicker.
            found = client.get_experiment_by_name(name)
    assert found is not None
    return found.experiment_id


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into one line."""
    try:
        yield
    except MlflowException as error:
        raise UserError(f"MLflow: {_first_line(error)}", where=shown(uri)) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _param(value: Any) -> str:
    """As YAML would show it, so that what is read in MLflow can be typed as an override."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text[:_PARAM_LENGTH]


def _parts(items: Sequence[Param], size: int) -> Iterator[Sequence[Param]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]
