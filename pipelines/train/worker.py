"""The one training loop, run by every Ray Train worker, for whatever objective.

A step is intermoe/training/step.py; here are its batches (feed.py), the points for MLflow, validation and checkpoints,
from which a run goes on as if it had not been interrupted.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import cache, partial
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any

import ray.train
import ray.train.torch
import ray.util
import torch
from ray.train.v2._internal.execution.context import get_train_context
from torch import Tensor

from intermoe import checkpoint
from intermoe.checkpoint import DamagedCheckpoint
from intermoe.data.shards import DatasetFolder
from intermoe.files import remove_leftovers
from intermoe.layers.precision import precision_name
from intermoe.places import Place
from intermoe.training.objective import HOST_FRAMES, Means
from intermoe.training.outcome import StepOutcome
from intermoe.training.samples import Batch
from intermoe.training.step import TrainingStep, gather
from pipelines.tracking import run_log
from pipelines.tracking.run_log import RunLog
from pipelines.train import feed
from pipelines.train.gauges import Gauges
from pipelines.train.objectives import build
from pipelines.train.request import TrainingJob
from pipelines.train.routing_history import RoutingHistory, log_routing
from pipelines.train.run_folder import CHECKPOINTS

# While a training runs, its heat maps are drawn anew at checkpoints, at most so often.
_MAP_SECONDS = 300.0
# Minutes between two checkpoints while a node is about to be taken away, which may be at any moment.
_LEAVING_MINUTES = 1 / 3


def work(config: dict[str, Any]) -> None:
    """The function that every Ray Train worker runs.

    Args:
        config: ``job``, a ``TrainingJob``; ``run_id`` of the MLflow run that the driver has opened; ``board``, the
            ``ProgressBoard`` that progress is posted to; ``reports``, whether Ray Train hears of every validation.
    """
    job: TrainingJob = config["job"]
    torch.set_num_threads(job.request.settings.workers.cpus)
    device = ray.train.torch.get_device()
    worker = Worker(job, config["run_id"], config["board"], device, reports=config["reports"])
    worker.leaving = node_is_leaving
    worker.run()


def node_is_leaving() -> bool:
    """Whether Ray has announced that a node of this training is to be taken away.

    What every worker has heard of it, as often as one likes: ``ray.train.get_preemption_info`` has all workers meet.
    """
    return get_train_context().preemption_context.preemption_info is not None


class Worker:
    """One worker's side of a run.

    Attributes:
        leaving: says whether a node of the training is to be taken away.
    """

    def __init__(self, job: TrainingJob, run_id: str, board: Any, device: torch.device, *, reports: bool) -> None:
        """Build the networks, the same on every worker of the process group; arguments as for ``work``."""
        request = job.request
        self.request, self.card, self.board, self.device, self.reports = request, job.card, board, device, reports
        self.key = str(request.out)
        dataset = DatasetFolder.open(request.dataset)
        objective = build(request.target, request.settings, dataset, vae=request.vae, site=request.site)
        self.objective = objective.to(self.device)
        self.config = self.objective.config
        self.stream = self.objective.stream(dataset, request.settings.seed)
        self.take_step = TrainingStep(self.objective, self.stream)
        self.rank, self.world, self.num_steps = self.take_step.rank, self.take_step.world, self.take_step.num_steps
        self.leaving: Callable[[], bool] = lambda: False
        self._is_warned = False
        self.window = Means()
        self._unread: list[StepOutcome] = []
        self.best = math.inf
        self.routing, self.mapped_at = RoutingHistory(request.out), time.monotonic()
        self.run_id = run_id
        self.tracking: RunLog | None = None
        self.gauges = Gauges(run=run_id, target=request.target)
        held_out = self.stream.held_out("val")
        self.validation = held_out if held_out.num_samples else None

    def run(self) -> None:
        """Train from the newest checkpoint, or from the start, to the end."""
        try:
            self._run()
        finally:
            if self.tracking:
                self.tracking.close()

    def _run(self) -> None:
        try:
            first = self._restore()
        except DamagedCheckpoint as error:
            self._join([error])
            ray.get(self.board.fail.remote(str(error), key=self.key))
            return
        self._note_attempt()
        pinned = self.device.type == "cuda"
        batches = feed.batches(self.stream, first, self.num_steps, rank=self.rank, world=self.world, pinned=pinned)
        # One batch ahead of the training, and already under way during the first validation.
        with ThreadPoolExecutor(1) as ahead:
            self._train(first, partial(ahead.submit, next, batches, None))

    def _note_attempt(self) -> None:
        """Say on which nodes the workers are, and in MLflow also why they were started again, if they were."""
        nodes = sorted(set(gather(ray.util.get_node_ip_address())), key=ip_address)
        if self.tracking:
            place = f"{self.world} {'worker' if self.world == 1 else 'workers'} on {', '.join(nodes)}"
            tags = {
                "intermoe.workers": place,
                "intermoe.precision": precision_name(self.config.precision, self.device),
            }
            restarts = ray.get(self.board.restarts.remote(key=self.key))
            if restarts:
                tags |= {"intermoe.restarts": str(len(restarts)), "intermoe.restarted": restarts[-1]}
            self.tracking.set_tags(tags)
            if restarts or sum(node["Alive"] for node in ray.nodes()) > 1:
                self.board.note.remote(place, key=self.key)

    def _train(self, first: int, fetch: Callable[[], Future[Batch | None]]) -> None:
        following = fetch()
        if first == 0:
            self._validate(0)
        saved_at, logged_step, waited, busy = time.monotonic(), first, 0.0, 0.0
        for step in range(first, self.num_steps):
            began = time.monotonic()
            batch = following.result()
            assert batch is not None
            following = fetch()
            batch = self._on_device(batch)
            waited += time.monotonic() - began
            outcome = self.take_step(step, batch)
            self._unread.append(outcome)
            done = step + 1
            last = done == self.num_steps
            is_logged = last or done % self.config.log_every == 0
            is_validated = last or done % self.config.validate_every == 0
            is_saved = last or done % self.config.checkpoint_every == 0
            if is_logged or is_validated or is_saved:
                self.take_step.settle()
            # All workers read at the same steps: what they read may have them take steps again, together.
            if outcome.is_read and not self._note_steps():
                return
            busy += time.monotonic() - began
            if is_logged:
                self._log(done, outcome.gradient_norm, busy / (done - logged_step), waited / busy)
                logged_step, waited, busy = done, 0.0, 0.0
            if is_validated:
                self._validate(done)
            if is_saved or (outcome.is_read and self._is_time(done, saved_at)):
                self._save(done)
                saved_at = time.monotonic()

    def _note_steps(self) -> bool:
        """Add what has been read to the window; false where a step was not finite, with which the run ends."""
        unread, self._unread = self._unread, []
        for outcome in unread:
            if not outcome.is_finite:
                self._give_up(outcome.step + 1, outcome.batch)
                return False
            self.window.add(outcome.sums, outcome.count)
        return True

    def _is_time(self, step: int, saved_at: float) -> bool:
        """Whether it is time for a checkpoint after a step; only what the worker says counts that writes it."""
        minutes = (time.monotonic() - saved_at) / 60
        if self.rank or not self.leaving():
            return minutes >= self.config.checkpoint_minutes
        if not self._is_warned:
            self._is_warned = True
            self.board.note.remote(f"a node is to be taken away: checkpoint at step {step}", key=self.key)
            return True
        return minutes >= min(_LEAVING_MINUTES, self.config.checkpoint_minutes)

    def _log(self, step: int, norm: float, seconds_per_step: float, waiting: float) -> None:
        means = self.window.means()
        self.window = Means()
        loss = sum(self.objective.weights[name] * value for name, value in means.items())
        # MLflow shows groups of curves in the order of their names: losses come first.
        losses = {"train": loss, **{f"train_{name}": value for name, value in means.items()}}
        metrics = {
            "learning_rate": self.take_step.optimizer.param_groups[0]["lr"],
            "gradient_norm": norm,
            "seconds_per_step": seconds_per_step,
            "samples_per_second": self.config.batch_size / seconds_per_step,
            "share_waiting_for_data": waiting,
            "epoch": step / self.stream.steps_per_epoch,
        }
        diagnostics = self.objective.pop_diagnostics()
        if self.tracking:
            self.tracking.log_metrics({f"loss/{name}": value for name, value in losses.items()}, step)
            self.tracking.log_metrics({f"train/{name}": value for name, value in metrics.items()}, step)
            group = "moe" if diagnostics.routing else self.request.target
            self.tracking.log_metrics({f"{group}/{name}": value for name, value in diagnostics.values.items()}, step)
            self.gauges.set({"step": step, **metrics, **diagnostics.values})
            self.routing.add(step, diagnostics.routing)
            self.board.post.remote(step, self.num_steps, {"loss": loss}, key=self.key)

    def _validate(self, step: int) -> None:
        """Measure the validation split and keep the model if it is the best so far."""
        if self.validation is None:
            return
        self.objective.eval()
        batches = map(self._on_device, self.validation.held_out_batches(rank=self.rank, world=self.world))
        measured = self.objective.validate(batches, gather)
        if self.tracking:
            losses = self.objective.weights
            names = {name: f"loss/validation_{name}" if name in losses else f"validation/{name}" for name in measured}
            self.tracking.log_metrics({names[name]: value for name, value in measured.items()}, step)
        if self.rank == 0 and step and measured[self.objective.watched] < self.best:
            self.best = measured[self.objective.watched]
            self._write(self.request.out / "best", step)
        # After the last step there is nothing left to stop.
        if self.reports and 0 < step < self.num_steps:
            ray.train.report({"step": step, **{f"validation/{name}": value for name, value in measured.items()}})

    def _save(self, step: int) -> None:
        """Write a checkpoint from which the run can go on; without a validation split, the newest is the best."""
        if self.rank:
            return
        if self.tracking:
            # A run that goes on from here will not log what came before.
            self.tracking.save()
        self.routing.save()
        # First, so that a run that goes on from this checkpoint has it.
        if self.validation is None:
            self._write(self.request.out / "best", step)
        folder = checkpoint.step_folder(self.request.out / CHECKPOINTS, step)
        state = checkpoint.optimizer_tensors(self.take_step.optimizer, self.take_step.named_parameters)
        progress = {"best": self.best if math.isfinite(self.best) else None, "window": asdict(self.window)}
        self._write(folder, step, tensors={"optimizer": state}, documents={"progress": progress})
        checkpoint.prune(folder.parent, self.config.keep)
        self.board.saved.remote(step, key=self.key)
        if self.tracking and time.monotonic() - self.mapped_at > _MAP_SECONDS:
            self.mapped_at = time.monotonic()
            log_routing(self.tracking, self.request.out)

    def _write(
        self,
        folder: Place,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({}),
        documents: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        parts = self.objective.model.parts()
        state = {"step": step, "target": self.request.target, "dataset": self.card.name}
        checkpoint.save(
            folder,
            tensors={name: parts[name].state_dict() for name in self.objective.saved} | dict(tensors),
            documents={"config": self.request.settings.model_dump(mode="json"), "state": state} | dict(documents),
            replace=True,
        )

    def _restore(self) -> int:
        """Go back to the newest checkpoint of this run, if there is one; the step to go on with."""
        if self.rank == 0:
            remove_leftovers(self.request.out, "best")
        documents, parts = ("config", "state", "progress"), (*self.objective.saved, "optimizer")
        damages: list[DamagedCheckpoint] = []

        def note_damage(damage: DamagedCheckpoint) -> None:
            damages.append(damage)
            if self.rank == 0:
                self.board.note.remote(str(damage), key=self.key)

        folder = checkpoint.latest(
            self.request.out / CHECKPOINTS,
            holding=[*(f"{name}.json" for name in documents), *(f"{name}.safetensors" for name in parts)],
            report=note_damage,
        )
        step = 0 if folder is None else self._load(folder)
        if self.rank == 0:
            self.routing.forget_after(step)
        # After the checkpoint was looked for: what the process that wrote it had logged was saved before it was.
        self._join(damages)
        return step

    def _join(self, damages: Sequence[DamagedCheckpoint]) -> None:
        """Log to the run from now on, at first which checkpoints are damaged."""
        if self.rank == 0:
            self.tracking = run_log.join(self.request.site.tracking_uri, self.run_id, self.request.out)
            for damage in damages:
                self.tracking.set_tags({"intermoe.damaged": str(damage)})

    def _load(self, folder: Place) -> int:
        """Take over the state of a checkpoint; its step."""
        saved = checkpoint.load(folder, device=str(self.device))
        self.objective.model.restore(saved, self.objective.saved)
        checkpoint.load_optimizer(self.take_step.optimizer, self.take_step.named_parameters, saved.tensors["optimizer"])
        progress = saved.documents["progress"]
        self.best = math.inf if progress["best"] is None else progress["best"]
        self.window = Means(**progress["window"])
        return int(saved.documents["state"]["step"])

    @torch.no_grad()
    def _give_up(self, step: int, batch: Batch) -> None:
        """Say on the board which samples end the run; all workers come here together."""
        self.objective.eval()
        judged = []
        for row, item in enumerate(batch["item"].tolist()):
            alone = self.objective({name: tensor[row : row + 1] for name, tensor in batch.items()})
            finite = all(math.isfinite(float(total)) for total in alone.values())
            judged.append((self.stream.sample_id(item), finite))
        everyone = [sample for share in gather(judged) for sample in share]
        # Where none alone explains it, it is the batch as a whole.
        ids = sorted({name for name, finite in everyone if not finite} or {name for name, _ in everyone})
        if self.rank == 0:
            reason = f"step {step}: the loss or its gradient is not finite; samples {', '.join(ids)}"
            ray.get(self.board.fail.remote(reason, key=self.key))

    def _on_device(self, batch: Batch) -> Batch:
        if self.device.type != "cuda":
            return {name: tensor.to(self.device) for name, tensor in batch.items()}
        # While the device is still busy with the step before.
        copies, steps = _copy_stream(self.device), torch.cuda.current_stream(self.device)
        with torch.cuda.stream(copies):
            copied = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        steps.wait_stream(copies)
        for tensor in copied.values():
            # Else its memory could be given to the next copy before the step has read it.
            tensor.record_stream(steps)
        return copied | {HOST_FRAMES: batch["frames"]}


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of the copies to a device, beside the one of its steps."""
    return torch.cuda.Stream(device)
