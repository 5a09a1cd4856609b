"""What belongs to an evaluator's numbers beside its networks: the scales of its metrics, and its known row.

Its other conventions stand where they are used, and are stored with it too: what it reads of a motion and of a text in
``EvaluatorConfig``, skeleton, encoder, crop and which person is the first in ``DataConfig``, and the pools, pairs and
replications of its protocol in ``EvaluationConfig``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from intermoe.config import Config
from intermoe.evaluation.measures import MEASURES
from intermoe.evaluation.metrics import MetricScales
from intermoe.evaluation.protocol import EvaluationConfig

Origin = Literal["published", "run here"]
"""Where a number is from: copied from what others have written, or measured by this project. Tables say it of each."""
PUBLISHED: Origin = "published"
RUN_HERE: Origin = "run here"
Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Verdict:
    """A measure of recorded motion beside what is known of it.

    Attributes:
        measure: its name.
        value: the mean over the replications; None where it was not measured.
        low: the least that is known.
        high: the most.
    """

    measure: str
    value: float | None
    low: float
    high: float

    @property
    def is_outside(self) -> bool:
        """Whether it was measured and is not in the range, whose ends belong to it."""
        return self.value is not None and not self.low <= self.value <= self.high


class KnownRow(Config):
    """What an evaluator is known to give for recorded motion.

    An evaluator that gives something else is another one, or its input is not prepared as it was: no number that it
    gives for a model means anything before that is explained.

    Attributes:
        dataset: name of the data set (letters are compared without their case).
        skeleton: of its joints.
        split: whose recordings.
        origin: whether the ranges were published or measured here.
        source: where they are from, for people.
        ranges: of each measure the least and the most of its mean over the replications.

    Example:
        >>> values = {"dataset": "toy", "skeleton": "smpl22", "origin": "run here", "source": "a test"}
        >>> row = KnownRow.parse({**values, "ranges": {"fid": [0.2, 0.3], "mm_dist": [3, 4]}})
        >>> [verdict.is_outside for verdict in row.verdicts({"fid": 0.4, "mm_dist": 3.5})]
        [True, False]
    """

    dataset: str
    skeleton: str
    split: Split = "test"
    origin: Origin
    source: Annotated[str, Field(min_length=1)]
    ranges: dict[str, tuple[float, float]] = Field(min_length=1)

    @model_validator(mode="after")
    def _ranges_of_measures(self) -> Self:
        for name, (low, high) in self.ranges.items():
            if name not in MEASURES:
                raise ValueError(f"ranges has {name!r} (allowed: {', '.join(MEASURES)})")
            if low > high:
                raise ValueError(f"ranges.{name} = [{low}, {high}] (allowed: the lower number first)")
        return self

    def is_of(self, dataset: str, skeleton: str, split: str) -> bool:
        """Whether it is the row of that split of that data set."""
        return (self.dataset.casefold(), self.skeleton, self.split) == (dataset.casefold(), skeleton, split)

    def verdicts(self, means: Mapping[str, float]) -> list[Verdict]:
        """Each known measure beside the mean that was measured, in the order of ``MEASURES``."""
        return [Verdict(name, means.get(name), *self.ranges[name]) for name in MEASURES if name in self.ranges]


class EvaluatorConventions(Config):
    """What belongs to an evaluator's numbers and is stored nowhere else.

    Attributes:
        scales: what its embeddings are multiplied by for each metric.
        known_row: of recorded motion; None where none is known.
    """

    scales: MetricScales = MetricScales()
    known_row: KnownRow | None = None


def protocol_differences(
    used: EvaluationConfig, own: EvaluationConfig, *, max_frames: int, own_max_frames: int
) -> list[str]:
    """How an evaluation differs from the protocol that an evaluator was stored with, as far as it moves its numbers.

    Args:
        used: how it is evaluated.
        own: the evaluator's own protocol.
        max_frames: longer recordings are cropped to that.
        own_max_frames: the same, as the evaluator knows it.

    Returns:
        A phrase for each difference.

    Example:
        >>> few = EvaluationConfig(pool=32)
        >>> protocol_differences(few, EvaluationConfig(), max_frames=300, own_max_frames=300)
        ["evaluation.pool is 32, the evaluator's own is 96"]
    """
    pairs = {
        "evaluation.pool": (used.pool, own.pool),
        "evaluation.diversity_pairs": (used.diversity_pairs, own.diversity_pairs),
        "data.max_frames": (max_frames, own_max_frames),
    }
    return [f"{key} is {now}, the evaluator's own is {its}" for key, (now, its) in pairs.items() if now != its]
