"""Training objectives, one file each, the samples of a step, and the step itself."""

from intermoe.training.config import DenoiserTrainingConfig, TrainingConfig, VaeTrainingConfig
from intermoe.training.denoiser import DenoiserObjective, denoiser_objective
from intermoe.training.evaluator import EvaluatorObjective, evaluator_objective
from intermoe.training.objective import Objective
from intermoe.training.outcome import StepOutcome
from intermoe.training.samples import Batch, SampleStream
from intermoe.training.step import TrainingStep
from intermoe.training.vae import VaeObjective, vae_objective

__all__ = [
    "Batch",
    "DenoiserObjective",
    "DenoiserTrainingConfig",
    "EvaluatorObjective",
    "Objective",
    "SampleStream",
    "StepOutcome",
    "TrainingConfig",
    "TrainingStep",
    "VaeObjective",
    "VaeTrainingConfig",
    "denoiser_objective",
    "evaluator_objective",
    "vae_objective",
]
