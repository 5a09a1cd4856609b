"""The objective of each target of ``intermoe train``, made from the settings of a run."""

from collections.abc import Mapping

from intermoe.data.shards import DatasetFolder
from intermoe.places import Place
from intermoe.training.denoiser import DenoiserObjective, denoiser_objective
from intermoe.training.evaluator import EvaluatorObjective, evaluator_objective
from intermoe.training.objective import Objective
from intermoe.training.vae import VaeObjective, vae_objective
from pipelines.settings import Settings
from pipelines.site import Site

OBJECTIVES: Mapping[str, type[Objective]] = {
    "vae": VaeObjective,
    "evaluator": EvaluatorObjective,
    "denoiser": DenoiserObjective,
}


def build(target: str, settings: Settings, dataset: DatasetFolder, *, vae: Place | None, site: Site) -> Objective:
    """The objective with its networks as they are before the first step, the same on every worker.

    Args:
        target: one of ``OBJECTIVES``.
        settings: of the run.
        dataset: what is trained on.
        vae: the checkpoint whose VAE is used, for a denoiser that works on latents.
        site: says where an evaluator finds CLIP's weights, or the vectors of words.
    """
    training = settings.train
    if target == "vae":
        return vae_objective(settings, training.vae, dataset, seed=settings.seed)
    if target == "denoiser":
        return denoiser_objective(settings, training.denoiser, dataset, vae=vae, seed=settings.seed)
    return evaluator_objective(
        settings.evaluator,
        settings.data,
        training.evaluator,
        dataset,
        seed=settings.seed,
        pool=settings.evaluation.pool,
        text_folder=site.word_vectors if settings.evaluator.reads == "words" else site.text_folder,
    )
