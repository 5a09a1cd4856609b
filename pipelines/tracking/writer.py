"""Writing to MLflow: what each kind of line of a spool (spool.py) does there.

Every method may be repeated: it is called again after a request that has failed, of which nobody knows whether the
server did it before it failed.
"""

import inspect
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModel, LoggedModelInput, LoggedModelOutput, Metric
from mlflow.exceptions import MlflowException

from pipelines.tracking.client import DIGEST_LENGTH, EVALUATED, logged_models, newest_checkpoint
from pipelines.tracking.lines import DAMAGED, Entry
from pipelines.tracking.spool import Spool

MEASURED = "<!-- measured -->"
"""In a description: here stands a table of the newest measures of the validation split."""
# What MLflow takes at once.
BATCH = 1000
# Characters of a tag.
_NOTE_LENGTH = 8000


class CannotBeWritten(Exception):
    """A line that no store will ever take."""


class StoreWriter:
    """One run in MLflow, written to by one thread."""

    def __init__(self, uri: str, spool: Spool) -> None:
        """Take the run of a spool; nothing is asked of the store yet.

        Args:
            uri: of the store.
            spool: of the run.
        """
        self._uri, self._spool, self._run_id = uri, spool, spool.run_id
        self._connected: MlflowClient | None = None
        # The newest step of each curve in the store; None where that has to be asked.
        self._newest: dict[str, int] | None = None

    def write(self, entry: Entry) -> None:
        """Do what a line says that is not about points.

        Raises:
            CannotBeWritten: a later version has written the line, it is damaged, or its file is damaged or gone.
        """
        if entry.kind == DAMAGED:
            raise CannotBeWritten("not as it was written")
        write = getattr(self, f"_write_{entry.kind}", None)
        if write is None:
            raise CannotBeWritten(f"a line of an unknown kind, {entry.kind}")
        if (held := entry.arguments.get("held")) and not self._is_there(held):
            raise CannotBeWritten(f"{held.rpartition('/')[2]} is gone")
        arguments = dict(entry.arguments)
        checksum = arguments.pop("checksum", None)
        if held and not self._spool.keeps(held, checksum):
            raise CannotBeWritten(f"{held} does not match its checksum")
        try:
            inspect.signature(write).bind(entry.time, **arguments)
        except TypeError as error:
            raise CannotBeWritten(f"a damaged line: {error}") from None
        write(entry.time, **arguments)

    def write_points(self, entries: Sequence[Entry]) -> None:
        """Add the points that the store does not have: a step at or before the newest of its curve is there already.

        So points that a resumed process has computed again are not added again, nor those of a request that the server
        did before it failed.
        """
        newest = self._newest_steps()
        points = []
        for entry in entries:
            step = int(entry.arguments["step"])
            for name, value in entry.arguments["values"].items():
                if step > newest.get(name, -1):
                    newest[name] = step
                    points.append(Metric(name, float(value), entry.time, step))
        for begin in range(0, len(points), BATCH):
            self._client.log_batch(self._run_id, metrics=points[begin : begin + BATCH])

    def forget(self) -> None:
        """A request has failed: what the store holds has to be asked again."""
        self._newest = None

    @property
    def _client(self) -> MlflowClient:
        if self._connected is None:
            self._connected = MlflowClient(self._uri)
        return self._connected

    def _is_there(self, held: str) -> bool:
        if not (self._spool.folder / held).exists():
            # The spool may be moving at this moment.
            time.sleep(1)
        return (self._spool.folder / held).exists()

    def _newest_steps(self) -> dict[str, int]:
        if self._newest is None:
            run = self._client.get_run(self._run_id)
            self._newest = {metric.key: metric.step for metric in run.data._metric_objs}
        return self._newest

    def _write_tags(self, _at: int, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self._client.set_tag(self._run_id, name, value)

    def _write_describe(self, _at: int, markdown: str) -> None:
        if MEASURED in markdown:
            markdown = markdown.replace(MEASURED, _table(self._client.get_run(self._run_id).data.metrics))
        lines, room = [], _NOTE_LENGTH
        for line in markdown.splitlines(keepends=True):
            room -= len(line)
            if room < 0:
                break
            lines.append(line)
        self._client.set_tag(self._run_id, "mlflow.note.content", "".join(lines))

    def _write_status(self, at: int, status: str) -> None:
        if status == "RUNNING":
            self._client.update_run(self._run_id, status=status)
        else:
            self._client.set_terminated(self._run_id, status, end_time=at)

    def _write_artifact(self, _at: int, held: str, folder: str | None) -> None:
        local = self._spool.folder / held
        if local.is_dir():
            self._client.log_artifacts(self._run_id, str(local), "/".join(filter(None, (folder, local.name))))
        else:
            self._client.log_artifact(self._run_id, str(local), folder)

    def _write_document(self, _at: int, document: Mapping[str, Any], file: str) -> None:
        self._client.log_dict(self._run_id, dict(document), file)

    def _write_table(self, _at: int, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        if any(there.path == file for there in self._client.list_artifacts(self._run_id)):
            # MLflow would add its rows to those that are there.
            rows = list(zip(*columns.values(), strict=True))
            self._client.log_dict(self._run_id, {"columns": list(columns), "data": rows}, file)
        else:
            self._client.log_table(self._run_id, {name: list(values) for name, values in columns.items()}, file)

    def _write_dataset(
        self, _at: int, *, name: str, digest: str, source: str, profile: Mapping[str, Any], context: str
    ) -> None:
        dataset = Dataset(
            name, digest[:DIGEST_LENGTH], "local", json.dumps({"uri": source}), profile=json.dumps(profile)
        )
        self._client.log_inputs(self._run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def _write_checkpoint(self, at: int, held: str, step: int, metrics: Mapping[str, float]) -> None:
        if any(output.step == step for output in logged_models(self._client, self._run_id)):
            return
        info = self._client.get_run(self._run_id).info
        name = re.sub(r"[/:.%\"']", "-", f"{info.run_name}-{step}")
        model = self._begun_model(info.experiment_id, name) or self._client.create_logged_model(
            info.experiment_id,
            name=name,
            source_run_id=self._run_id,
            model_type="intermoe checkpoint",
            params={"step": str(step)},
        )
        self._client.log_model_artifacts(model.model_id, str(self._spool.folder / held))
        self._client.finalize_logged_model(model.model_id, "READY")
        points = [
            Metric(measure, float(value), at, step, model_id=model.model_id) for measure, value in metrics.items()
        ]
        self._client.log_batch(self._run_id, metrics=points)
        self._client.log_outputs(self._run_id, [LoggedModelOutput(model.model_id, step)])

    def _begun_model(self, experiment_id: str, name: str) -> LoggedModel | None:
        """The model of this run of that name, where an earlier request has made it but not all that belongs to it."""
        begun = self._client.search_logged_models(
            [experiment_id], filter_string=f"source_run_id = '{self._run_id}' AND name = '{name}'"
        )
        return begun[0] if begun else None

    def _write_evaluated(self, at: int, model_run: str, metrics: Mapping[str, float], step: int) -> None:
        try:
            newest = newest_checkpoint(self._client, model_run)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return
        if newest is None:
            return
        self._client.log_inputs(self._run_id, models=[LoggedModelInput(newest.model_id)])
        steps = self._newest_steps()
        points = [
            Metric(f"{EVALUATED}{name}", float(value), at, step, model_id=newest.model_id)
            for name, value in metrics.items()
            if step > steps.get(f"{EVALUATED}{name}", -1)
        ]
        self._client.log_batch(self._run_id, metrics=points)
        steps.update({metric.key: step for metric in points})


def _table(metrics: Mapping[str, float]) -> str:
    """The measures of the validation split as a Markdown table."""
    rows = [f"| {name} | {value:.4g} |" for name, value in sorted(metrics.items()) if "validation" in name]
    return "\n".join(["| measure | at the end |", "|---|---|", *rows]) if rows else ""
