"""From a trained denoiser to a version of a registered model, with its card."""

import json
import re
from collections.abc import Mapping
from typing import Any

from intermoe import checkpoint
from intermoe.body.skeletons import SMPL22, skeleton_named
from intermoe.data.shards import DatasetFolder
from intermoe.errors import UserError
from intermoe.evaluation.conventions import RUN_HERE
from intermoe.model_config import ModelConfig, trained_folder
from intermoe.places import Place
from pipelines.tracking import registry
from pipelines.tracking.queries import model_folder, names_run, trained_on
from pipelines.tracking.registry import RegisteredVersion
from pipelines.train.run_folder import run_note

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
# What MLflow keeps for itself.
_RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)
_ALLOWED = {
    "alias": "up to 100 letters, digits, - and _; not latest, v1, v2, ...",
    "name": "up to 100 letters, digits, - and _",
}


def register(model: str | Place, uri: str, *, alias: str, name: str | None = None) -> RegisteredVersion:
    """Add a trained denoiser to MLflow's registry as the newest version of a model.

    Args:
        model: run or checkpoint of a denoiser, or the id of its MLflow run.
        uri: of the MLflow store.
        alias: set to the new version, in place of an older one.
        name: of the registered model; that of the run's settings if None.

    Raises:
        UserError: it is no denoiser, or the store does not answer or refuses.
    """
    # Before anything is written: MLflow checks an alias last.
    for what, given in (("alias", alias), ("name", name)):
        if given is not None and not (_NAME.fullmatch(given) and not (what == "alias" and _RESERVED.fullmatch(given))):
            raise UserError(f"{what} {given!r}", allowed=_ALLOWED[what])
    folder = trained_folder(model_folder(model, uri))
    parts = {file.stem for file in checkpoint.verify(folder) if file.suffix == ".safetensors"}
    documents = checkpoint.documents(folder)
    if "denoiser" not in parts:
        target = documents.get("state", {}).get("target", "something else")
        raise UserError(f"is a trained {target}", where=folder, allowed="a run of `intermoe train denoiser`")
    ModelConfig.load(folder)
    note = run_note(folder.parent)
    if names_run(model):
        note = {"run_id": str(model), "data": trained_on(str(model), uri)}
    config = documents["config"]
    name = name or str(config.get("name", "intermoe"))
    run_id = note.get("run_id")
    if run_id and not registry.knows_run(run_id, uri):
        run_id = None
    measured = registry.measured(run_id, uri) if run_id else {}
    card = model_card(name, alias, documents, data=note.get("data"), measured=measured)
    return registry.register(
        folder, uri, name=name, alias=alias, experiment=str(config.get("name", name)), run_id=run_id, card=card
    )


def model_card(
    name: str, alias: str, documents: Mapping[str, Any], *, data: str | Place | None, measured: Mapping[str, float]
) -> str:
    """The card of a model as Markdown: what it is, data, measures, config, how to call it.

    Args:
        name: of the registered model.
        alias: of its version.
        documents: of the checkpoint.
        data: the shards that it was trained on, where that is known.
        measured: of the newest evaluation, by name.
    """
    rows = [f"| {key} | {value:.4g} |" for key, value in sorted(measured.items())]
    measures = (
        [f"| measure | {RUN_HERE} |", "|---|---|", *rows] if rows else ["Not evaluated yet: `intermoe evaluate`."]
    )
    steps = documents.get("state", {}).get("step")
    config = documents["config"]
    num_persons = skeleton_named(config.get("data", {}).get("skeleton", SMPL22.name)).num_persons
    request = json.dumps(registry.request_example("bvh", num_persons))
    makes = (
        "two people: the InterMoE generator" if num_persons > 1 else f"one person: the generator {config['network']}"
    )
    return "\n".join(
        [
            f"# {name}",
            "",
            f"Turns a sentence into the motion of {makes}" + (f", {steps:,} training steps." if steps else "."),
            "",
            "## Data",
            "",
            _data_line(documents, data),
            "",
            "## Measures",
            "",
            *measures,
            "",
            "## Use",
            "",
            "```bash",
            f'intermoe generate "{registry.PROMPTS[num_persons]}" --model models:/{name}@{alias} --out motions',
            f"mlflow models serve --model-uri models:/{name}@{alias} --env-manager local --port 5001",
            f"curl http://127.0.0.1:5001/invocations --json '{request}'",
            "```",
            "",
            "## Config",
            "",
            "```json",
            json.dumps(config, indent=1),
            "```",
            "",
        ]
    )


def _data_line(documents: Mapping[str, Any], data: str | Place | None) -> str:
    known = documents.get("state", {}).get("dataset")
    if data is not None:
        try:
            card = DatasetFolder.open(data).card
        except UserError:
            pass  # it may have moved since
        else:
            return (
                f"`{card.name}`: {card.recordings.get('train', 0):,} recordings of the training split, "
                f"{card.captions:,} captions with all their forms. Its licence is not stated in the shards: ask where "
                "the recordings come from before you share the model."
            )
    return f"`{known}`; its licence is not stated." if known else "Not noted."
