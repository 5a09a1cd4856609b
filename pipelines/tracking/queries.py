"""Questions to MLflow: curves, checkpoints and data of runs."""

import json
import re
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from intermoe.errors import UserError
from intermoe.places import Place, as_place
from pipelines.tracking.address import check_reachable, shown
from pipelines.tracking.client import (
    RUN_ID,
    explained,
    logged_models,
)


def curves(uri: str, run_id: str, pattern: re.Pattern[str]) -> dict[str, list[tuple[int, float]]]:
    """The curves of a run whose names match as a whole: name -> points of step and value.

    Raises:
        UserError: the store does not answer, or has no such run.
    """
    with explained(uri):
        check_reachable(uri)
        client = MlflowClient(uri)
        names = sorted(name for name in client.get_run(run_id).data.metrics if pattern.fullmatch(name))
        return {name: [(m.step, m.value) for m in client.get_metric_history(run_id, name)] for name in names}


def model_folder(model: str | Place, uri: str) -> Place:
    """The folder of a model that is named by its folder, or by the id of the MLflow run that made it.

    Of a run it is the newest checkpoint that was logged, fetched from the store where that is on another machine.

    Args:
        model: a folder, or the id of a run.
        uri: of the MLflow store.

    Raises:
        UserError: the store does not answer, or the run holds no checkpoint.
    """
    if not names_run(model):
        return as_place(model)
    with explained(uri):
        check_reachable(uri)
        client = MlflowClient(uri)
        logged = logged_models(client, str(model))
        if not logged:
            raise UserError(f"run {model} holds no checkpoint", where=shown(uri))
        newest = client.get_logged_model(max(logged, key=lambda output: output.step).model_id)
        return Path(download_artifacts(artifact_uri=newest.artifact_location, tracking_uri=uri))


def names_run(model: str | Place) -> bool:
    """Whether a model is named by the id of an MLflow run, and not by its folder."""
    return bool(RUN_ID.fullmatch(str(model))) and not as_place(model).exists()


def trained_on(run_id: str, uri: str) -> Place | None:
    """The data set that a run of the store was trained on; None where it notes none."""
    with explained(uri):
        check_reachable(uri)
        inputs = MlflowClient(uri).get_run(run_id).inputs
    for used in inputs.dataset_inputs if inputs else []:
        if {tag.key: tag.value for tag in used.tags}.get("mlflow.data.context") == "training":
            return as_place(json.loads(used.dataset.source)["uri"])
    return None
