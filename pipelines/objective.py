"""What the training loop (training.py) needs to know of a network and its losses; objectives.py has the three.

An objective gives each loss as a sum over what it counts (latent frames; for the evaluator pairs), and the count apart:
divided by that of all workers and micro-batches, the sum becomes the mean over the global batch, whoever held which
sample.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from intermoe import checkpoint
from pipelines.feed import Batch, FeedConfig
from pipelines.settings import TrainingConfig

Sums = dict[str, Tensor]


@dataclass
class Means:
    """Values summed over batches, and the count that they are sums over."""

    sums: dict[str, float] = field(default_factory=dict)
    count: float = 0.0

    def add(self, sums: Mapping[str, float], count: float) -> None:
        """Add one batch."""
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += count

    def means(self) -> dict[str, float]:
        """The mean of each value."""
        return {name: total / self.count for name, total in self.sums.items()}


class Trained(Protocol):
    """A model whose parts an objective trains, and a checkpoint holds."""

    def parts(self) -> dict[str, nn.Module]:
        """All its parts, by name."""
        ...

    def restore(self, saved: checkpoint.Checkpoint, parts: tuple[str, ...]) -> None:
        """Take over parts of a checkpoint."""
        ...


class Objective(Protocol):
    """What the training loop needs to know of a network and its losses.

    Attributes:
        training_config: how it is trained.
        weights: of each loss in the total.
        saved: the parts of the model that a checkpoint holds.
        watched: the measure on held-out samples by which the best checkpoint is chosen; lower is better.
    """

    training_config: TrainingConfig
    weights: Mapping[str, float]
    saved: tuple[str, ...]
    watched: str

    @property
    def model(self) -> Trained:
        """The model whose parts it trains or uses."""
        ...

    def feed(self, dataset: str) -> FeedConfig:
        """Which samples are trained on."""
        ...

    def count(self, batch: Batch) -> Tensor:
        """How much of what the losses are sums over the batch holds."""
        ...

    def __call__(self, batch: Batch) -> Sums:
        """Each loss, summed over what ``count`` counts."""
        ...

    def after_step(self, all_reduce: Callable[[Tensor], Tensor]) -> None:
        """What follows an optimizer step."""
        ...

    def inside(self) -> dict[str, float]:
        """What else is worth a curve, since it was asked last; every worker asks, since all begin to count anew."""
        ...

    def validate(self, batches: Iterable[Batch], gather: Callable[[Any], list[Any]]) -> dict[str, float]:
        """What is watched on held-out samples.

        Args:
            batches: this worker's share of them.
            gather: gives the value of every worker, in the order of their ranks.
        """
        ...


def means_over(
    measure: Callable[[Batch], Sums],
    count: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    gather: Callable[[Any], list[Any]],
) -> dict[str, float]:
    """The means over the batches of all workers of what is measured as sums."""
    own, whole = Means(), Means()
    for batch in batches:
        own.add({name: float(value) for name, value in measure(batch).items()}, float(count(batch)))
    for part in gather(own):
        whole.add(part.sums, part.count)
    return whole.means()
