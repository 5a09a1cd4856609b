"""How many workers a training starts with, and what follows when a node is lost.

Ray Train waits for half an hour, or without end, for a node that never comes, and puts workers on one that is gone but
not yet known to be. Here, nothing starts before the loss is known. Workers that then find no place wait
``LOST_SECONDS`` for another node, unless an autoscaler brings one; after that the training ends with what is missing.
An elastic training, one with ``workers.min_count``, goes on with fewer instead, and with more again when there is room,
right after a checkpoint.
"""

import asyncio
import time
from abc import abstractmethod
from contextlib import suppress
from typing import Any

import ray
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    FixedScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
    ScalingPolicy,
)
from ray.train.v2.api import data_parallel_trainer
from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from intermoe.errors import UserError
from pipelines.cluster.live import LiveCluster
from pipelines.cluster.resources import Demand, refusal
from pipelines.train.request import TrainRequest

# So long a training waits for a node in place of a lost one, where no autoscaler brings nodes.
LOST_SECONDS = 60.0
# So often it is asked whether there is room for more workers.
RESIZE_SECONDS = 30.0
_POLL_SECONDS, _ANSWER_SECONDS = 1.0, 10.0


def scaling_config(request: TrainRequest) -> ScalingConfig:
    """The workers of a training, as Ray Train is asked for them."""
    workers = request.settings.workers
    return ScalingConfig(
        num_workers=(workers.min_count, workers.count) if workers.min_count else workers.count,
        use_gpu=workers.gpu,
        resources_per_worker=Demand(workers).bundle,
        placement_strategy=workers.placement.upper(),
        elastic_resize_monitor_interval_s=RESIZE_SECONDS,
    )


def even_counts(request: TrainRequest) -> list[int]:
    """The allowed numbers of workers among whom a batch is divided evenly, from the fewest."""
    workers, training = request.settings.workers, getattr(request.settings.train, request.target)
    counts = range(workers.fewest.count, workers.count + 1)
    return [count for count in counts if training.batch_size % (count * training.accumulate) == 0]


class Trainer(TorchTrainer):
    """Ray Train's trainer, with the policies of this file.

    Args:
        request: the training.
        board: the ``ProgressBoard``, which hears of every checkpoint.
        options: of ``TorchTrainer``, all but ``scaling_config``.
    """

    def __init__(self, *args: Any, request: TrainRequest, board: Any, **options: Any) -> None:
        config = scaling_config(request)
        super().__init__(*args, scaling_config=config, **options)
        policy = ElasticPolicy if config.elasticity_enabled else FixedPolicy
        self._policy: ScalingPolicy = policy(config, request, board)
        self._controller: Any = None

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        """Without what hands out data sets, a process that imports as much as a worker: the feed makes its own."""
        others = [
            callback
            for callback in super()._create_default_callbacks()
            if not isinstance(callback, DatasetsCallback | PlacementGroupCleanerCallback)
        ]
        return [*others, _Cleaner()]

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        own = data_parallel_trainer.TrainController
        # It makes its controller of what stands under this name.
        data_parallel_trainer.TrainController = _Controller  # type: ignore[misc]
        try:
            return super()._initialize_and_run_controller(**options | {"scaling_policy": self._policy})
        except KeyboardInterrupt:
            # Ray Train handles SIGINT but not SIGTERM: its workers would train on while the run is closed.
            if self._controller is not None:
                with suppress(ray.exceptions.RayError):
                    ray.get(self._controller.abort.remote(), timeout=_ANSWER_SECONDS)
            raise
        finally:
            data_parallel_trainer.TrainController = own  # type: ignore[misc]

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller
        super()._register_sigint_handler(controller)


class _Cleaner(PlacementGroupCleanerCallback):
    """Frees the workers' places when their controller is gone; here it is ended at once where it is not needed."""

    def _stop_cleaner(self) -> None:
        if self._cleaner is not None:
            # Asked to stop, it would do so only when it looks again.
            ray.kill(self._cleaner)  # type: ignore[arg-type]
            self._cleaner = None


class _Controller(TrainController):
    """A controller that can be aborted while it waits for room, too: there Ray Train's own asks without a pause."""

    async def _run_control_loop_iteration(self) -> None:
        before = self.get_state()
        await super()._run_control_loop_iteration()
        await asyncio.sleep(_POLL_SECONDS if self.get_state() is before else 0)


class _Patient(ScalingPolicy):
    """Starts workers once there is room for as few as will do, on nodes that answer and stay."""

    def __init__(self, config: ScalingConfig, request: TrainRequest, board: Any) -> None:
        super().__init__(config)
        self._request, self._board, self._cluster = request, board, LiveCluster()
        self._lacking_since: float | None = None

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start the workers, or look again in a second (``_Controller``)."""
        if not self._has_room():
            self._maybe_send_resource_request()
            return NoopDecision()
        decision = self._start()
        if isinstance(decision, ResizeDecision):
            self._lacking_since = None
        else:
            self._wait_for_others()
        return decision

    def _wait_for_others(self) -> None:
        """Others use what there is; raises ``UserError`` when the end of that was waited for long enough."""
        minutes = self._request.settings.workers.wait_minutes
        now = time.monotonic()
        if self._lacking_since is None:
            self._lacking_since = now
            line = f"waits up to {minutes:g} minutes until others leave room for workers"
            self._board.note.remote(line, key=str(self._request.out))
        if now - self._lacking_since >= 60 * minutes:
            raise UserError(
                f"others have left no room for workers in {minutes:g} minutes",
                allowed="--resume later, or a larger workers.wait_minutes",
            )

    @abstractmethod
    def _start(self) -> ScalingDecision:
        """The decision when there is room."""

    def _has_room(self) -> bool:
        """Whether nodes hold the workers or will; raises ``UserError`` when that has been hoped for long enough."""
        staying, silent = self._cluster.staying_nodes()
        demand = Demand(self._request.settings.workers.fewest)
        if not silent and (demand.fits(node.total for node in staying) or self._cluster.grows()):
            return True
        now = time.monotonic()
        self._lacking_since = self._lacking_since or now
        if not silent and now - self._lacking_since >= LOST_SECONDS:
            error = refusal(demand, staying)
            raise UserError(f"no node has come for a lost one in {LOST_SECONDS:.0f} s: {error}")
        return False


class FixedPolicy(_Patient, FixedScalingPolicy):
    """As many workers as were asked for."""

    def _start(self) -> ScalingDecision:
        return FixedScalingPolicy.make_decision_for_non_running_worker_group(self)


class ElasticPolicy(_Patient, ElasticScalingPolicy):
    """As many workers as there is room for, within what was asked for, so that they have equal shares of a batch."""

    def __init__(self, config: ScalingConfig, request: TrainRequest, board: Any) -> None:
        super().__init__(config, request, board)
        self._checkpoint: int | None = None
        self._grows = False

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """More workers once there is room for them; what was trained since the newest checkpoint is not given up."""
        if not self._grows:
            decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
            self._grows = isinstance(decision, ResizeDecision) and decision.num_workers > worker_group_state.num_workers
            self._checkpoint = self._newest_checkpoint() if self._grows else None
            return NoopDecision()
        if self._newest_checkpoint() == self._checkpoint:
            return NoopDecision()
        self._grows = False
        count = self._count_possible_workers(self._get_reserved_resources() or {})
        return self._get_resize_decision(count) if count > worker_group_state.num_workers else NoopDecision()

    def _start(self) -> ScalingDecision:
        self._grows = False
        return ElasticScalingPolicy.make_decision_for_non_running_worker_group(self)

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        workers = self._request.settings.workers
        staying, _ = self._cluster.staying_nodes()
        room = Demand(workers).num_fitting(node.total for node in staying)
        most = min(super()._count_possible_workers(reserved_resources), room)
        return max((count for count in even_counts(self._request) if count <= most), default=0)

    def _newest_checkpoint(self) -> int | None:
        try:
            return ray.get(self._board.checkpoint.remote(key=str(self._request.out)), timeout=_ANSWER_SECONDS)
        except (ray.exceptions.RayError, TimeoutError):
            # A board that does not answer tells of no new checkpoint.
            return self._checkpoint
