"""The interface between a training step and a network with its losses; vae.py, denoiser.py, evaluator.py implement it.

An objective gives each loss as a sum over what it counts (latent frames; for the evaluator pairs), and the count apart:
divided by that of all workers and micro-batches, the sum becomes the mean over the global batch, whoever held which
sample.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from intermoe import checkpoint
from intermoe.data.shards import DatasetFolder
from intermoe.layers.precision import products_in
from intermoe.moe.selection import Demand, LayerRouting
from intermoe.training.config import TrainingConfig
from intermoe.training.samples import Batch, SampleStream

Sums = dict[str, Tensor]

HOST_FRAMES = "host_frames"
"""In a batch on a GPU, its ``frames`` as they were on the host: who reads these does not wait for the device."""


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
    """A model whose modules an objective trains, and a checkpoint holds."""

    def parts(self) -> dict[str, nn.Module]:
        """All its modules, by the name of their part of a checkpoint."""
        ...

    def restore(self, saved: checkpoint.Checkpoint, parts: tuple[str, ...]) -> None:
        """Take over parts of a checkpoint."""
        ...


@dataclass(frozen=True)
class Diagnostics:
    """Numbers about a network in training beside its losses.

    Attributes:
        values: those that are worth a curve each, by name.
        routing: of each layer that has experts.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    routing: Sequence[LayerRouting] = ()


class Objective(nn.Module, ABC):
    """A model, and the losses of a batch that its training minimises.

    Attributes:
        model: the model that it trains, or part of it.
        config: how it is trained.
        weights: of each loss in the total.
        saved: the parts of the model that a checkpoint holds.
        watched: the measure on held-out samples by which the best checkpoint is chosen; lower is better.
    """

    saved: tuple[str, ...]
    watched: ClassVar[str]
    model: Trained
    config: TrainingConfig
    weights: Mapping[str, float]

    @abstractmethod
    def stream(self, dataset: DatasetFolder, seed: int = 0) -> SampleStream:
        """The samples of a data set's training split that it is trained on.

        Args:
            dataset: whose samples.
            seed: of their order and of what each draws.
        """

    @abstractmethod
    def count(self, batch: Batch) -> Tensor:
        """The number of terms that the losses of a batch are sums over."""

    @abstractmethod
    def forward(self, batch: Batch) -> Sums:
        """Each loss, summed over what ``count`` counts."""

    @abstractmethod
    def validate(self, batches: Iterable[Batch], gather: Callable[[Any], list[Any]]) -> dict[str, float]:
        """The measures of held-out samples.

        Args:
            batches: this worker's share of them.
            gather: gives the value of every worker, in the order of their ranks.
        """

    def products(self) -> AbstractContextManager[object]:
        """A block for the networks, in the precision of the config; the losses are computed outside of it."""
        return products_in(self.config.precision, next(self.parameters()).device)

    def after_step(self, all_reduce: Callable[[Tensor], Tensor], skipped: Tensor | None = None) -> None:
        """Do what follows an optimizer step; nothing by default.

        Args:
            all_reduce: sums a tensor over the workers.
            skipped: bool scalar; where it is true the optimizer has changed nothing, and nothing may change here.
        """

    def demands(self) -> list[Demand]:
        """What each layer asked for in the last forward pass, where it may have got less; see ``Demand``."""
        return []

    def make_room(self, peaks: Sequence[float]) -> None:
        """Take the highest load of each of these layers since the last time as the measure of its room."""

    def pop_diagnostics(self) -> Diagnostics:
        """Diagnostics since the last call; resets the counters, so every worker must call it."""
        return Diagnostics()


def means_over(
    measure: Callable[[Batch], Sums],
    count: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    gather: Callable[[Any], list[Any]],
) -> dict[str, float]:
    """The means over the batches of all workers of what is measured as sums."""
    share, whole = Means(), Means()
    for batch in batches:
        share.add({name: float(value) for name, value in measure(batch).items()}, float(count(batch)))
    for part in gather(share):
        whole.add(part.sums, part.count)
    return whole.means()
