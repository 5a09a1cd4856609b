"""From published files to our checkpoint folders, with which ``generate`` and ``evaluate`` work."""

from pathlib import Path
from typing import Any

from intermoe import checkpoint
from intermoe.evaluation.evaluator import PART
from intermoe.files import check_free, sha256
from intermoe.released_weights import State, evaluator_parts, generator_parts, published_conventions
from pipelines.settings import Settings


def import_generator(settings: Settings, *, denoiser: Path, vae: Path, stats: Path, out: Path) -> None:
    """Write the generator's checkpoint.

    Args:
        settings: what the files hold.
        denoiser: Lightning checkpoint of text head and denoiser.
        vae: Lightning checkpoint of the VAE.
        stats: folder of mean and standard deviation of the features.
        out: the folder that is made.

    Raises:
        UserError: ``out`` is taken, or a file is not what the settings describe.
    """
    check_free(out, "another --out")
    parts = generator_parts(settings, denoiser=denoiser, vae=vae, stats=stats)
    _save(out, settings, "denoiser", parts=parts, files={"denoiser": sha256(denoiser), "vae": sha256(vae)})


def import_evaluator(settings: Settings, *, file: Path, out: Path) -> None:
    """Write the evaluator's checkpoint from InterCLIP's file; arguments and errors as for ``import_generator``."""
    check_free(out, "another --out")
    parts = evaluator_parts(settings.evaluator, settings.data, file=file)
    conventions = published_conventions(settings.evaluator)
    evaluator = settings.evaluator.model_copy(update={"conventions": conventions})
    stored = settings.model_copy(update={PART: evaluator})
    _save(out, stored, PART, parts=parts, files={PART: sha256(file)})


def _save(out: Path, settings: Settings, target: str, *, parts: dict[str, State], files: dict[str, str]) -> None:
    state: dict[str, Any] = {"step": 0, "target": target, "dataset": settings.name, "imported": files}
    checkpoint.save(out, tensors=parts, documents={"config": settings.model_dump(mode="json"), "state": state})
