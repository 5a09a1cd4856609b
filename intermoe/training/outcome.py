"""The outcome of a training step, whose numbers stay on the device until somebody asks for them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from intermoe.moe.selection import Demand
from intermoe.training.samples import Batch


@dataclass(frozen=True)
class Reading:
    """The numbers of a step on the host, as in :class:`StepOutcome`."""

    sums: Mapping[str, float]
    count: float
    gradient_norm: float

    @property
    def is_finite(self) -> bool:
        """Whether losses and gradient are."""
        return all(map(math.isfinite, (self.gradient_norm, *self.sums.values())))


@dataclass(eq=False)
class StepOutcome:
    """The outcome of one step; the same on every worker.

    Its numbers are on the device until one of them is asked for, which waits for the device.

    Attributes:
        step: number of the step.
        batch: this worker's samples.
        weights: of each loss in the total.
        settle: what gives it its ``reading``.
        reading: its numbers, once they have been read.
    """

    step: int
    batch: Batch
    weights: Mapping[str, float]
    settle: Callable[[], None]
    reading: Reading | None = None

    @property
    def is_read(self) -> bool:
        """Whether its numbers are on the host already."""
        return self.reading is not None

    @property
    def sums(self) -> Mapping[str, float]:
        """Each loss, summed over the global batch."""
        return self._read().sums

    @property
    def count(self) -> float:
        """The number of terms that they are sums over."""
        return self._read().count

    @property
    def gradient_norm(self) -> float:
        """Before clipping."""
        return self._read().gradient_norm

    @property
    def loss(self) -> float:
        """The weighted mean over the global batch, which the step lowers."""
        return sum(self.weights[name] * total for name, total in self.sums.items()) / self.count

    @property
    def is_finite(self) -> bool:
        """Whether losses and gradient are finite; where they are not, the weights were left as they were."""
        return self._read().is_finite

    def _read(self) -> Reading:
        if self.reading is None:
            self.settle()
        assert self.reading is not None
        return self.reading


@dataclass(frozen=True)
class PendingStep:
    """A step whose numbers are still on the device.

    Attributes:
        outcome: what they belong to.
        names: of the losses.
        demands: of all layers, for one micro-batch after the other.
        numbers: float64, on the device: each loss, the number of workers that were short of rows, the count of terms,
            the norm of the gradient, and what each demand asked for.
    """

    outcome: StepOutcome
    names: Sequence[str]
    demands: Sequence[Demand]
    numbers: Tensor

    @property
    def is_bad(self) -> Tensor:
        """Bool scalar, on the device: whether a loss or the gradient is not finite, or a worker was short of rows."""
        num_losses = len(self.names)
        return ~self.numbers[: num_losses + 3].isfinite().all() | (self.numbers[num_losses] > 0)

    def read(self, numbers: Sequence[float]) -> tuple[Reading, bool, list[float]]:
        """From ``numbers`` on the host: the reading, whether a worker was short of rows, each demand as a load."""
        sums = dict(zip(self.names, numbers, strict=False))
        num_short, count, norm, *asked = numbers[len(sums) :]
        loads = [rows / max(demand.num_tokens, 1) for rows, demand in zip(asked, self.demands, strict=True)]
        return Reading(sums, count, norm), num_short > 0, loads
