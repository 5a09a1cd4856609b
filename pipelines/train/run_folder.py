"""The folder of a training run: the note in it, and whether it can be resumed."""

import json
from collections.abc import Mapping
from typing import Any

from intermoe import checkpoint
from intermoe.data.card import CARD
from intermoe.errors import UserError
from intermoe.files import read_note, sha256, write_note
from intermoe.places import Place
from pipelines.settings import Settings, flatten
from pipelines.tracking.address import shown

RUN_NOTE, CHECKPOINTS = "run.json", "checkpoints"
"""Names of the note and of the folder of checkpoints in the folder of a run."""


def run_note(folder: Place) -> dict[str, Any]:
    """The note in a run's folder: its id and address in MLflow, its data, VAE and settings; empty where there is none.

    The keys are those of :func:`note_run` and :func:`run_identity`.
    """
    return read_note(folder / RUN_NOTE)


def note_run(folder: Place, *, run_id: str, tracking_uri: str, data: Place, identity: dict[str, Any]) -> None:
    """Write the note of a run that begins."""
    begun = {"run_id": run_id, "tracking_uri": shown(tracking_uri), "data": str(data)}
    write_note(folder / RUN_NOTE, {**begun, **identity})


def run_identity(target: str, settings: Settings, dataset: Place, vae: Place | None) -> dict[str, Any]:
    """The part of a run's request that must stay the same for it to be resumed: all but its name and its workers."""
    return {
        "target": target,
        "settings": settings.model_dump(mode="json", exclude={"workers", "name"}),
        "dataset": sha256(dataset / CARD),
        "vae": str(vae) if vae else None,
        "vae_sha256": sha256(vae / checkpoint.MANIFEST) if vae else None,
    }


def check_same(identity: dict[str, Any], note: dict[str, Any], folder: Place) -> None:
    """Raise ``UserError`` where a run that is resumed would become another one."""
    if not note:
        raise UserError("holds no run to resume", where=folder)
    now, before = flatten(identity), flatten({key: note.get(key) for key in identity})
    # What there was no setting for yet is what it is by default.
    known = flatten({"settings": _with_defaults(note.get("settings") or {})})
    before = {key: known[key] for key in now if key in known} | before
    for key, value in now.items():
        # A VAE may have moved; what it is says its checksum.
        if key == "vae" or before.get(key) == value:
            continue
        if key in ("dataset", "vae_sha256"):
            raise UserError(f"the {key.removesuffix('_sha256')} is not the one that the run began with", where=folder)
        raise UserError(
            f"{key.removeprefix('settings.')} = {json.dumps(value)}",
            where=folder,
            allowed=f"{json.dumps(before.get(key))}, as in the run that is resumed",
        )


def _with_defaults(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a run has noted them, with those that it did not know; nothing where they are none any more."""
    try:
        return Settings.parse({"name": "x", **stored}).model_dump(mode="json", exclude={"workers", "name"})
    except UserError:
        return {}


def as_begun(settings: Settings, folder: Place) -> Settings:
    """The settings that the run in a folder began with, if one did, with the name and the workers of ``settings``.

    For a caller who knows that nothing else that has changed since has to do with this training.
    """
    now = settings.model_dump(mode="json")
    return Settings.parse(now | run_note(folder).get("settings", {}) | {"workers": now["workers"]})


def resumable_step(folder: Place) -> int:
    """The step that a resumed run goes on from."""
    newest = checkpoint.latest(folder / CHECKPOINTS)
    return int(checkpoint.documents(newest)["state"]["step"]) if newest else 0
