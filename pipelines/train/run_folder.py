"""The folder of a training run: what is noted in it, and whether it can be resumed."""

import json
from pathlib import Path
from typing import Any

from intermoe import checkpoint
from intermoe.data.shards import CARD
from intermoe.errors import UserError
from intermoe.files import sha256
from pipelines.settings import Settings, flatten

_RUN_FILE = "run.json"


def as_begun(settings: Settings, out: Path) -> Settings:
    """The settings that the run in ``out`` began with, if one did, with the name and the workers of ``settings``.

    For a caller who knows that nothing else that has changed since has to do with this training.
    """
    now = settings.model_dump(mode="json")
    return Settings.parse(now | run_file(out).get("settings", {}) | {"workers": now["workers"]})


def resumable_step(out: Path) -> int:
    """The step that ``resume`` goes on from."""
    folder = checkpoint.latest(out / "checkpoints")
    return int(checkpoint.load(folder).documents["state"]["step"]) if folder else 0


def _identity(target: str, settings: Settings, dataset: Path, vae: Path | None) -> dict[str, Any]:
    """What must stay the same for a run to go on: all but its name and the workers, of which there may be others."""
    return {
        "target": target,
        "settings": settings.model_dump(mode="json", exclude={"workers", "name"}),
        "dataset": sha256(dataset / CARD),
        "vae_sha256": sha256(vae / checkpoint.MANIFEST) if vae else None,
    }


def _check_same(wanted: dict[str, Any], before: dict[str, Any], out: Path) -> None:
    """Raise where a run that is resumed would become another one."""
    if not before:
        raise UserError("holds no run to resume", where=out)
    found = flatten({key: before.get(key) for key in wanted})
    for key, value in flatten(wanted).items():
        if found.get(key) == value:
            continue
        if key in ("dataset", "vae_sha256"):
            raise UserError(f"the {key.removesuffix('_sha256')} is not the one that the run began with", where=out)
        raise UserError(
            f"{key.removeprefix('settings.')} = {json.dumps(value)}",
            where=out,
            allowed=f"{json.dumps(found.get(key))}, as in the run that is resumed",
        )


def run_file(folder: Path) -> dict[str, Any]:
    """What is noted of the run in that folder: its id and address in MLflow, its data; empty where none began."""
    file = folder / _RUN_FILE
    if not file.is_file():
        return {}
    found: dict[str, Any] = json.loads(file.read_text())
    return found
