"""The settings of a run: a preset or a file, then ``key=value`` on top.

A file may name a preset as its ``base``: it then says what is different. Every component brings its own config class;
this file composes them and adds the workers.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from intermoe.config import Config
from intermoe.diffusion.schedule import SAMPLING
from intermoe.errors import UserError
from intermoe.evaluation.evaluator import EvaluatorConfig
from intermoe.evaluation.protocol import EvaluationConfig
from intermoe.model_config import ModelConfig
from intermoe.training.config import DenoiserTrainingConfig, TrainingConfig, VaeTrainingConfig
from intermoe.yaml_files import read_mapping, values_in

PRESETS = Path(__file__).parent / "presets"


class TrainConfig(Config):
    """Settings of the training of each network."""

    vae: VaeTrainingConfig
    denoiser: DenoiserTrainingConfig
    evaluator: TrainingConfig = TrainingConfig(epochs=200, batch_size=64)


class WorkersConfig(Config):
    """The Ray Train workers.

    Attributes:
        count: number of workers; each takes an equal share of the batch.
        min_count: on a cluster, how few will do where there is no room for more, and after a node is lost; none: all.
        cpus: CPUs, and threads, of a worker.
        gpu: whether each worker has a GPU.
        placement: on a cluster, whether the workers are packed on few nodes or spread over many.
        wait_minutes: on a cluster, how long a job waits for what it asks for; 0 to be refused at once.
    """

    count: int = Field(default=1, ge=1)
    min_count: int | None = Field(default=None, ge=1)
    cpus: int = Field(default=1, ge=1)
    gpu: bool = False
    placement: Literal["pack", "spread"] = "pack"
    wait_minutes: float = Field(default=10, ge=0)

    @model_validator(mode="after")
    def _min_below_count(self) -> Self:
        if self.min_count is not None and self.min_count > self.count:
            raise ValueError(f"min_count = {self.min_count} (allowed: up to count = {self.count})")
        return self

    @property
    def fewest(self) -> "WorkersConfig":
        """The fewest workers that will do."""
        return self.model_copy(update={"count": self.min_count or self.count})


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
            for key, count in (("count", self.workers.count), ("min_count", self.workers.fewest.count)):
                shares = count * training.accumulate
                if training.batch_size % shares:
                    raise ValueError(
                        f"train.{name}.batch_size = {training.batch_size} is not divided by workers.{key} x "
                        f"train.{name}.accumulate = {count} x {training.accumulate} "
                        f"(allowed: a multiple of {shares})"
                    )
        return self

    @model_validator(mode="after")
    def _losses_of_two_persons(self) -> Self:
        self.train.denoiser.loss.weights(self.network)
        return self


def presets() -> list[str]:
    """Names of the shipped presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load(config: str, overrides: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    """The settings that a preset or a file gives, with overrides on top.

    Args:
        config: name of a preset, or path of a YAML file (one that ends in .yaml or .yml).
        overrides: values by their dotted keys, such as ``{"moe.experts": 4}``.

    Raises:
        UserError: unknown preset, missing file, unknown key, value out of range.

    Example:
        >>> load("interhuman", {"moe.experts": 16}).moe.experts
        16
    """
    if config.endswith((".yaml", ".yml")):
        path = Path(config)
    elif config in presets():
        path = PRESETS / f"{config}.yaml"
    else:
        raise UserError(f"unknown preset {config!r}", allowed=f"{', '.join(presets())}, or a .yaml file")
    return overridden(_with_base(read_mapping(path)[1], config), overrides, where=config)


def _with_base(values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The values on top of those of the preset that they name as their base, if they do."""
    if "base" not in values:
        return values
    own = dict(values)
    base = own.pop("base")
    if base not in presets() or base == where:
        others = [name for name in presets() if name != where]
        raise UserError(f"base = {base!r}", where=where, allowed=", ".join(others))
    theirs = dict(_with_base(read_mapping(PRESETS / f"{base}.yaml")[1], base))
    # A run that is another one is not to bear its name.
    theirs.pop("name", None)
    return _merged(theirs, own)


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with others in their place or beside them."""
    merged = dict(values)
    for key, value in changes.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = _merged(before, value)
        merged[key] = value
    return merged


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """The overrides of a command line's ``key=value`` words; values are read as YAML, and the last of a key counts.

    Raises:
        UserError: a word that is not an override.

    Example:
        >>> parse_overrides(["moe.experts=4", "moe.sigma=1e-3"])
        {'moe.experts': 4, 'moe.sigma': 0.001}
    """
    overrides: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"{word!r} is not an override", allowed="key=value, such as moe.experts=4")
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UserError(f"{word!r} is not an override", allowed="text in UTF-8") from None
        try:
            value = values_in(text)
        except UserError:
            raise UserError(f"{word[:60]!r} is not an override", allowed="a value that is YAML") from None
        overrides.pop(key, None)
        overrides[key] = _number(value)
    return overrides


def overridden(values: Mapping[str, Any], overrides: Mapping[str, Any], *, where: object) -> Settings:
    """Settings from plain values, such as a checkpoint holds, with values by their dotted keys on top.

    Raises:
        UserError: an unknown key, a value out of range.
    """
    return Settings.parse(assigned(values, overrides), where=where)


def assigned(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Nested plain values with values by their dotted keys on top, not checked yet.

    Raises:
        UserError: a key goes on below a single value.

    Example:
        >>> assigned({"moe": {"experts": 8}}, {"moe.experts": 4, "seed": 1})
        {'moe': {'experts': 4}, 'seed': 1}
    """
    changed = deepcopy(dict(values))
    for key, value in overrides.items():
        _assign(changed, key.split("."), value, key)
    return changed


def check_of_trained(overrides: Mapping[str, Any]) -> None:
    """Raise ``UserError`` where overrides change what a trained model is, and not only how it is used."""
    sampling = [f"diffusion.{key}" for key in SAMPLING]
    for key in overrides:
        if key.partition(".")[0] not in ("evaluation", "workers") and key not in sampling:
            allowed = ", ".join(("evaluation.*", "workers.*", *sampling))
            raise UserError(f"{key} belongs to the model and cannot change", allowed=allowed)


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
