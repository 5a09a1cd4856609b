"""The one training loop, run by every Ray Train worker, for whatever objective (objectives.py).

What makes runs equal: the samples of a step are a function of the seed (feed.py), losses are sums divided by the
counts of the global batch, every step seeds what is random in it, and a checkpoint holds all the rest.
"""

import math
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from intermoe import checkpoint
from intermoe.sampling import step_seed
from intermoe.shards import DatasetFolder
from pipelines import feed
from pipelines.feed import Batch
from pipelines.objective import Means, Sums
from pipelines.objectives import build
from pipelines.settings import Settings, TrainingConfig
from pipelines.tracking import Run


@dataclass(frozen=True)
class Job:
    """What a worker is told.

    Attributes:
        target: which objective.
        settings: all settings, as plain values.
        dataset: the folder of shards.
        out: the folder of this run, on storage that all workers share.
        vae: the checkpoint whose VAE is used, for objectives that need one.
        text_folder: where CLIP's weights lie, for objectives that need them, if not in the hub's cache.
        tracking_uri: of MLflow.
        run_id: of the MLflow run that the driver has opened.
        reports: whether Ray Train hears of every validation.
    """

    target: str
    settings: dict[str, Any]
    dataset: str
    out: str
    vae: str | None
    text_folder: str | None
    tracking_uri: str
    run_id: str
    reports: bool = False


def learning_rate(config: TrainingConfig, step: int, steps_an_epoch: float, total: int) -> float:
    """Linear warm-up to ``learning_rate``, then a cosine to 0; never above ``learning_rate``.

    Example:
        >>> config = TrainingConfig(epochs=10, batch_size=1, learning_rate=0.5, warmup_epochs=2)
        >>> [round(learning_rate(config, step, 10, 100), 3) for step in (0, 9, 19, 60, 99)]
        [0.025, 0.25, 0.5, 0.25, 0.0]
    """
    warmup = min(config.warmup_epochs * steps_an_epoch, total)
    if step + 1 <= warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def work(config: dict[str, Any]) -> None:
    """What every Ray Train worker runs; ``config`` holds a ``Job`` and the board that progress is posted to."""
    job: Job = config["job"]
    settings = Settings.parse(job.settings)
    context = ray.train.get_context()
    torch.set_num_threads(settings.workers.cpus)
    device = ray.train.torch.get_device()
    Worker(job, settings, config["board"], context.get_world_rank(), context.get_world_size(), device).run()


class Worker:
    """One worker's side of a run."""

    def __init__(self, job: Job, settings: Settings, board: Any, rank: int, world: int, device: torch.device) -> None:
        self.job, self.settings, self.board, self.rank, self.world = job, settings, board, rank, world
        self.device = device
        folder = DatasetFolder.open(job.dataset)
        self.card = folder.card
        vae, text_folder = (Path(path) if path else None for path in (job.vae, job.text_folder))
        self.objective = build(job.target, settings, folder, vae=vae, text_folder=text_folder).to(self.device)
        self.config = self.objective.training_config
        self.feed = self.objective.feed(job.dataset)
        self.parallel = None
        if world > 1:
            # Without the buffers: the counts of the experts differ between the workers until they are summed. Looking
            # for unused parameters, though there are none, keeps the gradients grouped as they are at first: regrouped
            # after the first step of a process, as is the default, a resumed run would sum them in another order.
            self.parallel = DistributedDataParallel(
                self.objective, broadcast_buffers=False, find_unused_parameters=True
            )
        self.named_parameters = [(n, p) for n, p in self.objective.named_parameters() if p.requires_grad]
        text = [p for n, p in self.named_parameters if n.startswith("model.text_head.")]
        rest = [p for n, p in self.named_parameters if not n.startswith("model.text_head.")]
        groups = [{"params": rest, "share": 1.0}, {"params": text, "share": self.config.text_rate}]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            betas=self.config.betas,
            weight_decay=self.config.weight_decay,
        )
        self.steps_an_epoch = feed.count(self.feed) / self.config.batch_size
        self.total = max(1, math.ceil(self.config.epochs * self.steps_an_epoch))
        self.window = Means()
        self.best = math.inf
        self.run_folder = Path(job.out)
        self.tracking = Run.reopen(job.tracking_uri, job.run_id) if rank == 0 else None
        self.validation = self.feed.held_out("val") if feed.count(self.feed.held_out("val")) else None

    def run(self) -> None:
        """Train from the newest checkpoint, or from the start, to the end."""
        first = self._restore()
        stream = feed.batches(self.feed, first, self.total, self.rank, self.world)
        # One batch ahead of the training, and already under way during the first validation.
        with ThreadPoolExecutor(1) as ahead:
            self._train(first, partial(ahead.submit, next, stream, None))
        if self.tracking:
            self.tracking.close()

    def _train(self, first: int, fetch: Callable[[], Future[Batch | None]]) -> None:
        following = fetch()
        if first == 0:
            self._validate(0)
        saved_at, logged_step, waited, busy = time.monotonic(), first, 0.0, 0.0
        for step in range(first, self.total):
            began = time.monotonic()
            batch = following.result()
            assert batch is not None
            following = fetch()
            batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
            waited += time.monotonic() - began
            sums, count, norm = self._step(step, batch)
            done = step + 1
            if sums is None:
                self._give_up(done, batch)
                return
            self.window.add(sums, count)
            busy += time.monotonic() - began
            last = done == self.total
            if last or done % self.config.log_every == 0:
                self._log(done, norm, busy / (done - logged_step), waited / busy)
                logged_step, waited, busy = done, 0.0, 0.0
            if last or done % self.config.validate_every == 0:
                self._validate(done)
            minutes = (time.monotonic() - saved_at) / 60
            if last or done % self.config.checkpoint_every == 0 or minutes >= self.config.checkpoint_minutes:
                self._save(done)
                saved_at = time.monotonic()

    def _step(self, step: int, batch: Batch) -> tuple[dict[str, float] | None, float, float]:
        """One optimizer step on the global batch; none is taken where a loss or the gradient is not finite.

        Returns:
            The losses summed over the samples of all workers (None where one is not finite), the count of all
            workers, the norm of the gradient.
        """
        torch.manual_seed(step_seed(self.settings.seed, step, self.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = group["share"] * learning_rate(self.config, step, self.steps_an_epoch, self.total)
        self.objective.train()
        count = float(self._all_reduce_tensor(self.objective.count(batch).double()))
        sums: Sums = {}
        parts = self.config.accumulate
        for part in range(parts):
            micro = {name: tensor.chunk(parts)[part] for name, tensor in batch.items()}
            # The gradients of the micro-batches are added up here and averaged over the workers with the last.
            wait = self.parallel.no_sync() if self.parallel and part < parts - 1 else nullcontext()
            with wait:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                    found = (self.parallel or self.objective)(micro)
                loss = torch.stack([self.objective.weights[name] * total for name, total in found.items()]).sum()
                # DistributedDataParallel divides by the number of workers; the count is of all workers already.
                (loss * self.world / count).backward()
            sums = {name: total.detach() + sums.get(name, 0.0) for name, total in found.items()}
        parameters = [parameter for _, parameter in self.named_parameters]
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
        # Both are the same on all workers, and so is what follows from them.
        totals = {name: float(total) for name, total in self._all_reduce(sums).items()}
        if not all(map(math.isfinite, (norm, *totals.values()))):
            return None, count, norm
        nn.utils.clip_grad_value_(parameters, self.config.clip)
        self.optimizer.step()
        self.objective.after_step(self._all_reduce_tensor)
        self.optimizer.zero_grad(set_to_none=True)
        return totals, count, norm

    def _log(self, step: int, norm: float, seconds_a_step: float, waiting: float) -> None:
        means = self.window.means()
        self.window = Means()
        loss = sum(self.objective.weights[name] * value for name, value in means.items())
        metrics = {"loss": loss, **{f"loss_{name}": value for name, value in means.items()}}
        metrics |= {
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": norm,
            "seconds_a_step": seconds_a_step,
            "samples_a_second": self.config.batch_size / seconds_a_step,
            "share_waiting_for_data": waiting,
            "epoch": step / self.steps_an_epoch,
        }
        inside = self.objective.inside()
        if self.tracking:
            self.tracking.log_metrics({f"train/{name}": value for name, value in metrics.items()}, step)
            group = "moe" if self.job.target == "denoiser" else self.job.target
            self.tracking.log_metrics({f"{group}/{name}": value for name, value in inside.items()}, step)
            self.board.post.remote(step, self.total, {"loss": loss}, key=self.job.out)

    def _validate(self, step: int) -> None:
        """Measure the validation split and keep the model if it is the best so far."""
        if self.validation is None:
            return
        self.objective.eval()
        batches = (
            {name: tensor.to(self.device) for name, tensor in batch.items()}
            for batch in feed.held_out_batches(self.validation, self.rank, self.world)
        )
        found = self.objective.validate(batches, self._gather)
        if self.tracking:
            self.tracking.log_metrics({f"validation/{name}": value for name, value in found.items()}, step)
        if self.rank == 0 and step and found[self.objective.watched] < self.best:
            self.best = found[self.objective.watched]
            self._write(self.run_folder / "best", step)
        # After the last step there is nothing left to stop.
        if self.job.reports and 0 < step < self.total:
            ray.train.report({"step": step, **{f"validation/{name}": value for name, value in found.items()}})

    def _save(self, step: int) -> None:
        """Write a checkpoint from which the run can go on; without a validation split, the newest is the best."""
        if self.rank:
            return
        if self.tracking:
            # A run that goes on from here will not log what came before.
            self.tracking.flush()
        folder = checkpoint.step_folder(self.run_folder / "checkpoints", step)
        state = checkpoint.optimizer_tensors(self.optimizer, self.named_parameters)
        progress = {"best": self.best if math.isfinite(self.best) else None, "window": asdict(self.window)}
        self._write(folder, step, tensors={"optimizer": state}, documents={"progress": progress})
        checkpoint.prune(folder.parent, self.config.keep)
        if self.validation is None:
            self._write(self.run_folder / "best", step)

    def _write(
        self,
        folder: Path,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({}),
        documents: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        parts = self.objective.model.parts()
        state = {"step": step, "target": self.job.target, "dataset": self.card.name}
        checkpoint.save(
            folder,
            tensors={name: parts[name].state_dict() for name in self.objective.saved} | dict(tensors),
            documents={"config": self.job.settings, "state": state} | dict(documents),
            replace=True,
        )

    def _restore(self) -> int:
        """Go back to the newest checkpoint of this run, if there is one; the step to go on with."""
        if self.rank == 0:
            for leftover in self.run_folder.glob(".best.*"):
                shutil.rmtree(leftover)
        folder = checkpoint.latest(self.run_folder / "checkpoints")
        if folder is None:
            return 0
        saved = checkpoint.load(folder, device=str(self.device))
        self.objective.model.restore(saved, self.objective.saved)
        checkpoint.load_optimizer(self.optimizer, self.named_parameters, saved.tensors["optimizer"])
        progress = saved.documents["progress"]
        self.best = math.inf if progress["best"] is None else progress["best"]
        self.window = Means(**progress["window"])
        return int(saved.documents["state"]["step"])

    @torch.no_grad()
    def _give_up(self, step: int, batch: Batch) -> None:
        """Say on the board which samples end the run; all workers come here together."""
        self.objective.eval()
        found = []
        for row, item in enumerate(batch["item"].tolist()):
            alone = self.objective({name: tensor[row : row + 1] for name, tensor in batch.items()})
            finite = all(math.isfinite(float(total)) for total in alone.values())
            found.append((feed.sample_id(self.feed, item), finite))
        everyone = [sample for part in self._gather(found) for sample in part]
        # Where none alone explains it, it is the batch as a whole.
        ids = sorted({name for name, finite in everyone if not finite} or {name for name, _ in everyone})
        if self.rank == 0:
            reason = f"step {step}: the loss or its gradient is not finite; samples {', '.join(ids)}"
            ray.get(self.board.fail.remote(reason, key=self.job.out))

    def _all_reduce_tensor(self, tensor: Tensor) -> Tensor:
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def _all_reduce(self, values: Sums) -> Sums:
        """Each value summed over the workers, in one collective."""
        names = sorted(values)
        stacked = torch.stack([values[name].detach().double() for name in names])
        return dict(zip(names, self._all_reduce_tensor(stacked).unbind(), strict=True))

    def _gather(self, value: Any) -> list[Any]:
        """The value of every worker."""
        if self.world == 1:
            return [value]
        found = [None] * self.world
        dist.all_gather_object(found, value)
        return found
