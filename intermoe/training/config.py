"""Settings of a training."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from intermoe.config import Config
from intermoe.layers.precision import Precision
from intermoe.networks.mld_vae import MldVaeLossConfig
from intermoe.networks.vae_losses import VaeLossConfig
from intermoe.training.geometric import GeometricLossConfig

Decay = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(Config):
    """Settings of the training of one network.

    Attributes:
        epochs: passes over the training split.
        batch_size: samples of one optimizer step, over all workers and micro-batches.
        precision: of matrix products and convolutions; weights, sums, losses and routers are float32 in each.
        accumulate: micro-batches a worker splits its share into.
        learning_rate: the highest; reached after the warm-up, then down to 0 by a cosine.
        text_rate: learning rate of the text head, as a share of ``learning_rate``.
        warmup_epochs: epochs of linear warm-up.
        weight_decay: of AdamW.
        betas: of AdamW.
        clip: gradients are clipped to this absolute value.
        clip_norm: they are first scaled down to this norm, all together; None: they are not.
        log_every: optimizer steps between two logged points.
        validate_every: optimizer steps between two looks at the validation split.
        checkpoint_every: optimizer steps between two checkpoints, at most.
        checkpoint_minutes: minutes between two checkpoints, at most.
        keep: newest checkpoints kept, besides the best.
    """

    epochs: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    precision: Precision = "auto"
    accumulate: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0, lt=1)
    text_rate: float = Field(default=1.0, gt=0, le=1)
    warmup_epochs: float = Field(default=10, ge=0)
    weight_decay: float = Field(default=2e-5, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    clip: float = Field(default=1.0, gt=0)
    clip_norm: float | None = Field(default=None, gt=0)
    log_every: int = Field(default=20, ge=1)
    validate_every: int = Field(default=1000, ge=1)
    checkpoint_every: int = Field(default=10_000, ge=1)
    checkpoint_minutes: float = Field(default=10.0, gt=0)
    keep: int = Field(default=2, ge=1)


class DenoiserTrainingConfig(TrainingConfig):
    """Settings of the training of the denoiser.

    Attributes:
        group_by_length: whether the interactions of a step are of nearly one length, so that less is padded: those of
            eight steps in a row are dealt anew. As each step's loss is the mean over its own frames, a frame of a short
            motion then weighs more than one of a long motion.
        loss: weights of the losses of the predicted motion, with a VAE of what the prediction decodes to.
    """

    group_by_length: bool = False
    loss: GeometricLossConfig = GeometricLossConfig()


class VaeTrainingConfig(TrainingConfig):
    """Settings of the training of the VAE, on windows of each person alone.

    Attributes:
        window: frames of a window.
        stride: frames between the starts of two windows.
        loss: weight of each loss.
        mld_loss: the same for MLD's VAE, whose samples are whole motions: there is no window.
    """

    window: int = Field(default=64, ge=8)
    stride: int = Field(default=10, ge=1)
    loss: VaeLossConfig = VaeLossConfig()
    mld_loss: MldVaeLossConfig = MldVaeLossConfig()

    @model_validator(mode="after")
    def _whole_latents(self) -> Self:
        if self.window % 4:
            raise ValueError(f"window = {self.window} is not a multiple of 4, the frames of a latent")
        return self
