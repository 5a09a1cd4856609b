"""One optimizer step on the global batch, alone or as one of several workers of a ``torch.distributed`` group.

What makes runs equal: losses are sums divided by the counts of the global batch, and each step seeds what is random in
it.
"""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from intermoe.data.draws import step_seed
from intermoe.training.config import TrainingConfig
from intermoe.training.objective import Objective, Sums
from intermoe.training.samples import Batch, SampleStream


@dataclass(frozen=True)
class StepOutcome:
    """The outcome of one step; the same on every worker.

    Attributes:
        sums: each loss, summed over the global batch.
        count: what they are sums over.
        weights: of each loss in the total.
        gradient_norm: before clipping.
    """

    sums: Mapping[str, float]
    count: float
    weights: Mapping[str, float]
    gradient_norm: float

    @property
    def loss(self) -> float:
        """The weighted mean over the global batch, which the step lowers."""
        return sum(self.weights[name] * total for name, total in self.sums.items()) / self.count

    @property
    def is_finite(self) -> bool:
        """Whether losses and gradient are finite; where they are not, the weights were left as they were."""
        return all(map(math.isfinite, (self.gradient_norm, *self.sums.values())))


class TrainingStep:
    """Takes the steps of a training.

    Attributes:
        objective: what is trained.
        stream: what it is trained on.
        num_steps: of the whole training.
        optimizer: AdamW; the text head's parameters are a group of their own.
        named_parameters: those that are trained.

    Example:
        ``stream = objective.stream(dataset)`` and ``take_step = TrainingStep(objective, stream)``, then
        ``take_step(step, stream.batch(step)).loss`` for each step in ``range(take_step.num_steps)``.
    """

    def __init__(self, objective: Objective, stream: SampleStream) -> None:
        """Set up the optimizer; where this process is one of several, they share each step."""
        self.objective, self.stream, self.config = objective, stream, objective.config
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self._parallel = None
        if self.world > 1:
            # Without the buffers: the counts of the experts differ between the workers until they are summed. Looking
            # for unused parameters, though there are none, keeps the gradients grouped as they are at first: regrouped
            # after the first step of a process, as is the default, a resumed run would sum them in another order.
            self._parallel = DistributedDataParallel(objective, broadcast_buffers=False, find_unused_parameters=True)
        self.named_parameters = [(n, p) for n, p in objective.named_parameters() if p.requires_grad]
        text = [p for n, p in self.named_parameters if n.startswith("model.text_head.")]
        rest = [p for n, p in self.named_parameters if not n.startswith("model.text_head.")]
        groups = [{"params": rest, "share": 1.0}, {"params": text, "share": self.config.text_rate}]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            betas=self.config.betas,
            weight_decay=self.config.weight_decay,
            # One pass over the weights instead of a dozen.
            fused=True,
        )
        self.num_steps = max(1, math.ceil(self.config.epochs * stream.steps_per_epoch))

    def __call__(self, step: int, batch: Batch) -> StepOutcome:
        """Take step number ``step`` on this worker's share of its batch; all workers call it together.

        Where a loss or the gradient is not finite, nothing is changed.
        """
        device = batch["frames"].device
        torch.manual_seed(step_seed(self.stream.seed, step, self.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = group["share"] * learning_rate(self.config, step, self.stream.steps_per_epoch, self.num_steps)
        self.objective.train()
        count = float(all_reduce(self.objective.count(batch).double()))
        sums: Sums = {}
        for number in range(self.config.accumulate):
            micro = {name: tensor.chunk(self.config.accumulate)[number] for name, tensor in batch.items()}
            # The gradients of the micro-batches are added up here and averaged over the workers with the last.
            last = number == self.config.accumulate - 1
            with self._parallel.no_sync() if self._parallel and not last else nullcontext():
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    losses: Sums = (self._parallel or self.objective)(micro)
                loss = torch.stack([self.objective.weights[name] * total for name, total in losses.items()]).sum()
                # DistributedDataParallel divides by the number of workers; the count is of all workers already.
                (loss * self.world / count).backward()
            sums = {name: total.detach() + sums.get(name, 0.0) for name, total in losses.items()}
        parameters = [parameter for _, parameter in self.named_parameters]
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
        totals = {name: float(total) for name, total in _all_reduce_each(sums).items()}
        outcome = StepOutcome(totals, count, self.objective.weights, norm)
        # The outcome is the same on all workers, and so is what follows from it.
        if outcome.is_finite:
            nn.utils.clip_grad_value_(parameters, self.config.clip)
            self.optimizer.step()
            self.objective.after_step(all_reduce)
        self.optimizer.zero_grad(set_to_none=True)
        return outcome


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: float, num_steps: int) -> float:
    """Linear warm-up to ``learning_rate``, then a cosine to 0; never above ``learning_rate``.

    Example:
        >>> config = TrainingConfig(epochs=10, batch_size=1, learning_rate=0.5, warmup_epochs=2)
        >>> [round(learning_rate(config, step, 10, 100), 3) for step in (0, 9, 19, 60, 99)]
        [0.025, 0.25, 0.5, 0.25, 0.0]
    """
    warmup = min(config.warmup_epochs * steps_per_epoch, num_steps)
    if step + 1 <= warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def all_reduce(tensor: Tensor) -> Tensor:
    """The sum over all workers, in place; the tensor itself where there is one."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather(value: Any) -> list[Any]:
    """The value of every worker, in the order of their ranks."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _all_reduce_each(values: Sums) -> Sums:
    """Each value summed over the workers, in one collective."""
    names = sorted(values)
    stacked = torch.stack([values[name].detach().double() for name in names])
    return dict(zip(names, all_reduce(stacked).unbind(), strict=True))
