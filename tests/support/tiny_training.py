"""Settings of trainings of a few seconds."""

from dataclasses import replace
from pathlib import Path

from intermoe.training.samples import SampleStream, interaction_stream
from pipelines import settings
from pipelines.settings import Settings

TINY = """
data.max_frames=60 vae.width=8 vae.latent=4 vae.blocks=1 denoiser.width=16 denoiser.layers=2 denoiser.heads=2
denoiser.text_layers=1 denoiser.text_hidden=16 denoiser.text_heads=2 moe.experts=4 moe.hidden=16 moe.sigma=0.01
moe.bias_init=-0.5 moe.load_momentum=0
train.vae.window=16 train.vae.batch_size=8 train.vae.learning_rate=0.006 train.vae.warmup_epochs=0.1
train.denoiser.batch_size=8 train.denoiser.learning_rate=0.001 train.denoiser.warmup_epochs=1
evaluator.motion_width=16 evaluator.motion_layers=1 evaluator.motion_heads=2 evaluator.motion_hidden=16
evaluator.text_hidden=16 evaluator.text_heads=2 evaluator.embedding=8 evaluator.dropout=0
train.evaluator.batch_size=8 train.evaluator.learning_rate=0.001 train.evaluator.warmup_epochs=1
evaluation.pool=2 evaluation.replications=3 evaluation.batch_size=2
evaluation.multimodality.captions=1 evaluation.multimodality.samples=3 evaluation.multimodality.pairs=2
diffusion.sampler_steps=4
"""


def tiny_overrides(target: str, steps: int, dataset: Path, *overrides: str) -> list[str]:
    """Overrides of the preset ``duet`` for a tiny training of so many steps that logs each, and the given ones.

    Args:
        target: vae, denoiser or evaluator.
        steps: of the training.
        dataset: what it is trained on.
        overrides: more of them.
    """
    often = f"train.{target}.log_every=1 train.{target}.validate_every=1000 train.{target}.checkpoint_every=1000"
    words = [*TINY.split(), *often.split(), *overrides]
    values = settings.load("duet", settings.parse_overrides(words))
    epochs = (steps - 0.5) * getattr(values.train, target).batch_size / samples_per_epoch(target, values, dataset)
    return [*words, f"train.{target}.epochs={epochs!r}"]


def samples_per_epoch(target: str, values: Settings, dataset: Path) -> int:
    """Samples of the training split, counted without the networks."""
    training = getattr(values.train, target)
    if target != "vae":
        return interaction_stream(str(dataset), training, values.data, 0).num_samples
    stream = SampleStream(str(dataset), "train", "windows", 0, training.batch_size, values.data.max_frames)
    return replace(stream, window=training.window, stride=training.stride).num_samples
