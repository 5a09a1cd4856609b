"""From published files to our checkpoint folders, with which ``generate`` and ``evaluate`` work."""

from pathlib import Path
from typing import Any

from intermoe import checkpoint
from intermoe.errors import UserError
from intermoe.evaluation.evaluator import PART
from intermoe.files import check_free, sha256
from intermoe.released_weights.evaluators import evaluator_parts, published_conventions, t2m_parts
from intermoe.released_weights.generator import generator_parts
from intermoe.released_weights.published_file import State
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


def import_evaluator(
    settings: Settings, *, file: Path, out: Path, stats: Path | None = None, word_vectors: Path | None = None
) -> None:
    """Write the evaluator's checkpoint from InterCLIP's file, or from those of T2M's evaluator.

    Args:
        settings: what the files hold; ``evaluator.kind`` says which of the two it is.
        file: Lightning checkpoint of InterCLIP, or T2M's ``finest.tar``.
        out: the folder that is made.
        stats: T2M's: folder of mean and standard deviation of the features.
        word_vectors: T2M's: folder of the word vectors.

    Raises:
        UserError: ``out`` is taken, a file is missing, is not what the settings describe, or belongs to the other kind.
    """
    check_free(out, "another --out")
    if settings.evaluator.kind == "t2m":
        if stats is None or word_vectors is None:
            missing = "--stats" if stats is None else "--word-vectors"
            raise UserError(f"{missing} is not given", allowed="--evaluator, --stats and --word-vectors for T2M's")
        parts = t2m_parts(settings.evaluator, settings.data, file=file, stats=stats, words=word_vectors)
    else:
        for name, folder in (("--stats", stats), ("--word-vectors", word_vectors)):
            if folder is not None:
                raise UserError(f"{name} beside --evaluator", allowed="--evaluator alone, or evaluator.kind=t2m")
        parts = evaluator_parts(settings.evaluator, settings.data, file=file)
    conventions = published_conventions(settings.evaluator)
    evaluator = settings.evaluator.model_copy(update={"conventions": conventions})
    stored = settings.model_copy(update={PART: evaluator})
    _save(out, stored, PART, parts=parts, files={PART: sha256(file)})


def _save(out: Path, settings: Settings, target: str, *, parts: dict[str, State], files: dict[str, str]) -> None:
    state: dict[str, Any] = {"step": 0, "target": target, "dataset": settings.name, "imported": files}
    checkpoint.save(out, tensors=parts, documents={"config": settings.model_dump(mode="json"), "state": state})
