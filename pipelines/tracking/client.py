"""The common part of reading and writing MLflow."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    LoggedModelOutput,
    Param,
)
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException

from intermoe.errors import UserError, reason_of
from pipelines.tracking.address import MlflowSilent, shown, sqlite_file

# What MLflow stores of a value.
_PARAM_LENGTH, DIGEST_LENGTH = 6000, 36
_FAILURE_LENGTH = 200
EVALUATED = "evaluated/"
"""How the names of the metrics begin that an evaluation notes on a checkpoint."""
REGISTERED = "models:/"
"""How the URI of a registered model begins."""
CHECKPOINT = "checkpoint"
"""By this name a registered model finds the folder of its weights among its artifacts."""
FORMATS = ("joints", "bvh")
"""In which a registered model answers, the first where it is not asked for one."""


def logged_models(client: MlflowClient, run_id: str) -> list[LoggedModelOutput]:
    """The checkpoints that a run has logged."""
    outputs = client.get_run(run_id).outputs
    return outputs.model_outputs if outputs else []


def newest_checkpoint(client: MlflowClient, run_id: str) -> LoggedModelOutput | None:
    """The checkpoint of the latest step that a run has logged; None where it has logged none."""
    return max(logged_models(client, run_id), key=lambda output: output.step, default=None)


def child_run(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> MlflowRun | None:
    """The run of the same parent that was to write into the same folder, if there is one."""
    names = ("mlflow.parentRunId", "intermoe.out")
    if not all(name in tags for name in names):
        return None
    found = client.search_runs([experiment_id], f"tags.`{names[0]}` = '{tags[names[0]]}'")
    return next((run for run in found if run.data.tags.get(names[1]) == tags[names[1]]), None)


# What the experiment is for; MLflow asks where none says. In which view its pages open is decided in pages.py.
_KIND = {"mlflow.experimentKind": "custom_model_development"}


def experiment_named(client: MlflowClient, uri: str, name: str) -> str:
    """The experiment of this name, made where it does not exist."""
    database = sqlite_file(uri)
    # Beside the database, not below whatever folder the first process happened to run in; a server decides itself.
    artifacts = str(database.parent / "mlruns") if database else None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts, tags=_KIND)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # Another process was quicker.
            found = client.get_experiment_by_name(name)
    assert found is not None
    return found.experiment_id


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into one line."""
    try:
        yield
    except MlflowException as error:
        kind = MlflowSilent if error.get_http_status_code() >= HTTPStatus.INTERNAL_SERVER_ERROR else UserError
        raise kind(f"MLflow: {shown(reason_of(error))}", where=shown(uri)) from error


def failure_of(error: Exception) -> str:
    """Why a request to a store has failed, in a few words, without credentials."""
    text = shown(reason_of(error))
    # What the system says, in the middle of whole stories of those between.
    system = re.search(r"\[Errno -?\d+\] ([\w ]+)", str(error))
    return system[1] if system else text[:_FAILURE_LENGTH]


def param_text(value: Any) -> str:
    """As YAML would show it, so that what is read in MLflow can be typed as an override."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text[:_PARAM_LENGTH]


def batches_of(items: Sequence[Param], size: int) -> Iterator[Sequence[Param]]:
    """The items in runs of at most so many, which is what MLflow takes at once."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]
