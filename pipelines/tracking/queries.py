"""Questions to MLflow: curves, checkpoints and data of runs."""

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from intermoe.errors import UserError
from intermoe.files import contents, whole_folder
from intermoe.places import Place, as_place, cache
from pipelines.tracking.address import RUN_ID, check_reachable, shown
from pipelines.tracking.client import (
    REGISTERED,
    explained,
    newest_checkpoint,
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
    """The folder of a model that is named by its folder, by the id of the MLflow run that made it, or in the registry.

    Of a run it is the newest checkpoint that was logged, fetched from the store where that is on another machine.

    Args:
        model: a folder, the id of a run, or ``models:/NAME@ALIAS``.
        uri: of the MLflow store.

    Raises:
        UserError: the store does not answer, or the run holds no checkpoint.
    """
    if str(model).startswith(REGISTERED):
        return _registered_folder(str(model), uri)
    if not names_run(model):
        return as_place(model)
    with explained(uri):
        check_reachable(uri)
        client = MlflowClient(uri)
        newest = newest_checkpoint(client, str(model))
        if newest is None:
            raise UserError(f"run {model} holds no checkpoint", where=shown(uri))
        return fetched(client, newest.model_id, uri)


def fetched(client: MlflowClient, model_id: str, uri: str, part: str = "") -> Path:
    """The folder of a logged model on this machine: where it was logged, or a copy that is fetched once.

    Args:
        client: of the store.
        model_id: of the logged model.
        uri: of the store.
        part: folder of the model that is wanted alone; a server hands out a file at a time, which takes its time.
    """
    location = client.get_logged_model(model_id).artifact_location
    if urlsplit(location).scheme in ("", "file"):
        return Path(download_artifacts(artifact_uri=location, tracking_uri=uri)) / part
    location = f"{location.rstrip('/')}/{part}".rstrip("/")
    copy = cache() / "mlflow" / f"{model_id}{part and '-'}{part}"
    if not copy.is_dir():
        with whole_folder(copy, seal="", replace=True) as partial:
            download_artifacts(artifact_uri=location, tracking_uri=uri, dst_path=str(partial))
    # Under the last name of where it was.
    return copy / location.rpartition("/")[2]


def _registered_folder(model: str, uri: str) -> Path:
    """The checkpoint of ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``."""
    name, at, alias = model.removeprefix(REGISTERED).partition("@")
    if not at:
        name, _, number = name.partition("/")
        if not number.isdigit():
            raise UserError("names no version", where=model, allowed="models:/NAME@ALIAS, models:/NAME/VERSION")
    with explained(uri):
        check_reachable(uri)
        client = MlflowClient(uri)
        version = client.get_model_version_by_alias(name, alias) if at else client.get_model_version(name, number)
        model_id = version.model_id or str(version.source).removeprefix(REGISTERED)
        # MLflow keeps an artifact under the name of its folder; of these models it is the only one.
        weights = contents(fetched(client, model_id, uri, "artifacts"))
        if len(weights) != 1:
            raise UserError("is no model of `intermoe register`", where=model)
        return Path(str(weights[0]))


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
