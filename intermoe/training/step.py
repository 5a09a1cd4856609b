"""One optimizer step on the global batch, alone or as one of several workers of a ``torch.distributed`` group.

What makes runs equal: losses are sums divided by the counts of the global batch, and each step seeds what is random in
it.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from intermoe.data.draws import step_seed
from intermoe.moe.selection import Demand
from intermoe.training.config import TrainingConfig
from intermoe.training.objective import Objective, Sums
from intermoe.training.outcome import PendingStep, StepOutcome
from intermoe.training.samples import Batch


class Course(Protocol):
    """What a training step asks of the samples of a training; a ``SampleStream`` is one."""

    @property
    def seed(self) -> int:
        """The seed of the training."""
        ...

    @property
    def steps_per_epoch(self) -> float:
        """Steps of one epoch."""
        ...


class TrainingStep:
    """Takes the steps of a training.

    On a GPU the host runs ahead of the device and reads the numbers of ``read_every`` steps at once. Until then the
    device alone must do right by a step that may not count, because it is not finite, or because a layer had rows for
    fewer assignments than there were (``Selection.room``): from that step on nothing is changed any more. When the
    host reads of it, it widens the room and takes these steps again from their batches, which are kept so long; where
    the cause is a number that is not finite, it is for the caller to stop.

    Attributes:
        objective: what is trained.
        stream: what it is trained on.
        num_steps: of the whole training.
        optimizer: AdamW; the text head's parameters are a group of their own.
        named_parameters: those that are trained.
        read_every: steps after which their numbers are read at the latest.

    Example:
        ``stream = objective.stream(dataset)`` and ``take_step = TrainingStep(objective, stream)``, then
        ``take_step(step, stream.batch(step)).loss`` for each step in ``range(take_step.num_steps)``.
    """

    def __init__(self, objective: Objective, stream: Course, *, read_every: int | None = None) -> None:
        """Set up the optimizer; where this process is one of several, they share each step.

        Args:
            objective: what is trained.
            stream: what it is trained on.
            read_every: by default 1 on a CPU, where there is nobody to wait for, else as often as steps are logged.
        """
        self.objective, self.stream, self.config = objective, stream, objective.config
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self._parallel = None
        if self.world > 1:
            # Without the buffers: the counts of the experts differ between the workers until they are summed. Looking
            # for unused parameters, though there are none, keeps the gradients grouped as they are at first: regrouped
            # after the first step of a process, as is the default, a resumed run would sum them in another order. The
            # gradients lie in the groups: copied into them and back, they would be there twice.
            self._parallel = DistributedDataParallel(
                objective, broadcast_buffers=False, find_unused_parameters=True, gradient_as_bucket_view=True
            )
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

        on_host = self.named_parameters[0][1].device.type == "cpu"
        self.read_every = read_every or (1 if on_host else self.config.log_every)
        self._pending: list[PendingStep] = []
        self._has_read = False
        self._is_stopped: Tensor | None = None

    def __call__(self, step: int, batch: Batch) -> StepOutcome:
        """Take step number ``step`` on this worker's share of its batch; all workers call it together.

        Where a loss or the gradient is not finite, nothing is changed.
        """
        outcome = StepOutcome(step, batch, self.objective.weights, self.settle)
        self._take(outcome)
        # The first is read at once, as no room is known before.
        if len(self._pending) >= (self.read_every if self._has_read else 1) or step + 1 == self.num_steps:
            self.settle()
        return outcome

    def settle(self) -> None:
        """Read what has been left unread, and take again the steps that were short of rows; all workers call it."""
        while self._pending:
            pending, self._pending, self._is_stopped = self._pending, [], None
            numbers = torch.cat([step.numbers for step in pending]).tolist()
            again: list[StepOutcome] = []
            steps_loads: list[list[float]] = []
            is_stopped = False
            for step in pending:
                own, numbers = numbers[: len(step.numbers)], numbers[len(step.numbers) :]
                reading, is_short, loads = step.read(own)
                steps_loads.append(loads)
                if again or (is_short and not is_stopped):
                    again.append(step.outcome)
                else:
                    step.outcome.reading = reading
                is_stopped = is_stopped or not reading.is_finite
            num_layers = len(pending[0].demands) // self.config.accumulate
            peaks = [max(max(loads[layer::num_layers]) for loads in steps_loads) for layer in range(num_layers)]
            if peaks:
                self.objective.make_room(peaks)
            self._has_read = True
            for outcome in again:
                self._take(outcome)

    def _take(self, outcome: StepOutcome) -> None:
        """Lower the losses of one batch; its numbers are left on the device, or read at once."""
        step, batch = outcome.step, outcome.batch
        seed_draws(step_seed(self.stream.seed, step, self.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = group["share"] * learning_rate(self.config, step, self.stream.steps_per_epoch, self.num_steps)
        self.objective.train()
        count = all_reduce(self.objective.count(batch).double())
        sums: Sums = {}
        demands: list[Demand] = []
        for number in range(self.config.accumulate):
            micro = {name: tensor.chunk(self.config.accumulate)[number] for name, tensor in batch.items()}
            # The gradients of the micro-batches are added up here and averaged over the workers with the last.
            last = number == self.config.accumulate - 1
            with self._parallel.no_sync() if self._parallel and not last else nullcontext():
                losses: Sums = (self._parallel or self.objective)(micro)
                loss = torch.stack([self.objective.weights[name] * total for name, total in losses.items()]).sum()
                # DistributedDataParallel divides by the number of workers; the count is of all workers already.
                (loss * self.world / count.to(loss.dtype)).backward()
            sums = {name: total.detach() + sums[name] if sums else total.detach() for name, total in losses.items()}
            demands += self.objective.demands()
        parameters = [parameter for _, parameter in self.named_parameters]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        numbers = self._numbers(sums, demands, torch.cat([count[None], norm[None]]))
        if self._is_taken(PendingStep(outcome, sorted(sums), demands, numbers)):
            if self.config.clip_norm is not None:
                nn.utils.clip_grads_with_norm_(parameters, self.config.clip_norm, norm, foreach=self.read_every > 1)
            # A few launches for all gradients, in two passes, or one pass each.
            nn.utils.clip_grad_value_(parameters, self.config.clip, foreach=self.read_every > 1)
            self.optimizer.step()
            self.objective.after_step(all_reduce, self._is_stopped)
        self.optimizer.zero_grad(set_to_none=True)

    def _numbers(self, sums: Sums, demands: Sequence[Demand], own: Tensor) -> Tensor:
        """The numbers of ``PendingStep``, in one collective; ``own`` are those that all workers have already."""
        losses = torch.stack([sums[name].detach().double() for name in sorted(sums)])
        if not demands:
            return torch.cat([all_reduce(losses), own.new_zeros(1), own])
        asked = torch.stack([demand.asked for demand in demands])
        is_short = (asked > torch.stack([demand.given for demand in demands])).any()
        return torch.cat([all_reduce(torch.cat([losses, is_short[None]])), own, asked])

    def _is_taken(self, pending: PendingStep) -> bool:
        """Whether the step is to be taken; where the host does not know, yes, and the device decides meanwhile."""
        if self.read_every == 1 and not pending.demands:
            pending.outcome.reading, _, _ = pending.read(pending.numbers.tolist())
            # The outcome is the same on all workers, and so is what follows from it.
            return pending.outcome.is_finite
        self._pending.append(pending)
        self._is_stopped = pending.is_bad if self._is_stopped is None else self._is_stopped | pending.is_bad
        # As a gradient scaler tells the fused optimizer: where it is 1, nothing is changed.
        self.optimizer.found_inf = self._is_stopped.float()  # type: ignore[attr-defined]
        return True


def seed_draws(seed: int) -> None:
    """What ``torch.manual_seed`` does to the generators of the CPU and of GPUs that are in use.

    Where no GPU has been used yet, that function writes down the stack at each call, for one that may come to be: it
    takes up to a fiftieth of a small step.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


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
