"""The settings of a run: a preset or a file, then ``key=value`` on top.

Every component brings its own config class; this file composes them and adds how to train.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, model_validator

from intermoe.config import Config
from intermoe.errors import UserError
from intermoe.evaluation.evaluator import EvaluatorConfig
from intermoe.evaluation.protocol import EvaluationConfig
from intermoe.model import ModelConfig
from intermoe.vae import VaeLossConfig

PRESETS = Path(__file__).parent / "presets"

Decay = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(Config):
    """How one network is trained.

    Attributes:
        epochs: passes over the training split.
        batch_size: samples of one optimizer step, over all workers and micro-batches.
        accumulate: micro-batches a worker splits its share into.
        learning_rate: the highest; reached after the warm-up, then down to 0 by a cosine.
        text_rate: learning rate of the text head, as a share of ``learning_rate``.
        warmup_epochs: epochs of linear warm-up.
        weight_decay: of AdamW.
        betas: of AdamW.
        clip: gradients are clipped to this absolute value.
        log_every: optimizer steps between two logged points.
        validate_every: optimizer steps between two looks at the validation split.
        checkpoint_every: optimizer steps between two checkpoints, at most.
        checkpoint_minutes: minutes between two checkpoints, at most.
        keep: newest checkpoints kept, besides the best.
    """

    epochs: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    accumulate: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0, lt=1)
    text_rate: float = Field(default=1.0, gt=0, le=1)
    warmup_epochs: float = Field(default=10, ge=0)
    weight_decay: float = Field(default=2e-5, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    clip: float = Field(default=1.0, gt=0)
    log_every: int = Field(default=20, ge=1)
    validate_every: int = Field(default=1000, ge=1)
    checkpoint_every: int = Field(default=10_000, ge=1)
    checkpoint_minutes: float = Field(default=10.0, gt=0)
    keep: int = Field(default=2, ge=1)


class VaeTrainingConfig(TrainingConfig):
    """How the VAE is trained: on windows of each person alone.

    Attributes:
        window: frames of a window.
        stride: frames between the starts of two windows.
        loss: weights of the five losses.
    """

    window: int = Field(default=64, ge=8)
    stride: int = Field(default=10, ge=1)
    loss: VaeLossConfig = VaeLossConfig()

    @model_validator(mode="after")
    def _whole_latents(self) -> Self:
        if self.window % 4:
            raise ValueError(f"window = {self.window} is not a multiple of 4, the frames of a latent")
        return self


class TrainConfig(Config):
    """How each network is trained."""

    vae: VaeTrainingConfig
    denoiser: TrainingConfig
    evaluator: TrainingConfig = TrainingConfig(epochs=200, batch_size=64)


class WorkersConfig(Config):
    """The Ray Train workers.

    Attributes:
        count: number of workers; each takes an equal share of the batch.
        cpus: CPUs, and threads, of a worker.
        gpu: whether each worker has a GPU.
    """

    count: int = Field(default=1, ge=1)
    cpus: int = Field(default=1, ge=1)
    gpu: bool = False


class Settings(ModelConfig):
    """Everything that defines a run; stored whole with every checkpoint and run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    seed: int = Field(default=0, ge=0)
    evaluator: EvaluatorConfig = EvaluatorConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    train: TrainConfig
    workers: WorkersConfig = WorkersConfig()

    @model_validator(mode="after")
    def _even_shares(self) -> Self:
        for name in TrainConfig.model_fields:
            training: TrainingConfig = getattr(self.train, name)
            shares = self.workers.count * training.accumulate
            if training.batch_size % shares:
                raise ValueError(
                    f"train.{name}.batch_size = {training.batch_size} is not divided by workers.count x "
                    f"train.{name}.accumulate = {self.workers.count} x {training.accumulate} "
                    f"(allowed: a multiple of {shares})"
                )
        return self


def presets() -> list[str]:
    """Names of the shipped presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load(config: str, overrides: Sequence[str] = ()) -> Settings:
    """The settings that a preset or a file gives, with ``key=value`` overrides on top.

    Args:
        config: name of a preset, or path of a YAML file (one that ends in .yaml or .yml).
        overrides: such as ``moe.experts=4``; the value is read as YAML.

    Raises:
        UserError: unknown preset, missing file, unknown key, value out of range.

    Example:
        >>> load("interhuman", ["moe.experts=16"]).moe.experts
        16
    """
    if config.endswith((".yaml", ".yml")):
        path = Path(config)
    elif config in presets():
        path = PRESETS / f"{config}.yaml"
    else:
        raise UserError(f"unknown preset {config!r}", allowed=f"{', '.join(presets())}, or a .yaml file")
    return overridden(read_yaml(path)[1], overrides, where=config)


def read_yaml(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a YAML file and the mapping that it holds; ``UserError`` where there is none."""
    if not path.is_file():
        raise UserError("no such file", where=path)
    try:
        text = path.read_text("utf-8")
        values = yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=path) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: what looks like a date and is none
        raise UserError(f"not valid YAML: {error}", where=path) from None
    if not isinstance(values, dict):
        raise UserError("holds no keys", where=path)
    return text, values


def overridden(values: dict[str, Any], overrides: Sequence[str], *, where: object) -> Settings:
    """Settings from plain values, such as a checkpoint holds, with ``key=value`` overrides on top.

    Raises:
        UserError: an unknown key, a value out of range, an override that is none.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"{override!r} is no override", allowed="key=value, such as moe.experts=4")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            raise UserError(f"{override!r} is no override", allowed="a value that is YAML") from None
        _assign(values, key.split("."), _number(value), key)
    return Settings.parse(values, where=where)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names.

    Example:
        >>> flatten({"seed": 1, "moe": {"experts": 8}})
        {'seed': 1, 'moe.experts': 8}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _number(value: Any) -> Any:
    """YAML 1.1 reads ``1e-3`` as text; a user means the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _assign(values: dict[str, Any], path: list[str], value: Any, key: str) -> None:
    for part in path[:-1]:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UserError(f"unknown key {key!r}", allowed=f"{part} is a single value", key=tuple(key.split(".")))
        values = inner
    values[path[-1]] = value
