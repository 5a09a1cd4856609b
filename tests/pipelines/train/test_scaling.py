"""What is decided about the workers of a training when nodes are lost, without Ray."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import ResizeDecision

from intermoe.errors import UserError
from pipelines import settings
from pipelines.cluster.resources import NodeResources
from pipelines.train import scaling
from pipelines.train.scaling import ElasticPolicy, FixedPolicy, Trainer, even_counts, scaling_config


class Cluster:
    """A cluster as it is set."""

    def __init__(self) -> None:
        self.staying, self.silent, self.has_autoscaler = 0, False, False

    def staying_nodes(self):
        return [
            NodeResources(f"10.0.0.{number}", {"CPU": 2}, {"CPU": 2}) for number in range(self.staying)
        ], self.silent

    def grows(self):
        return self.has_autoscaler


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(scaling.time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def policy(monkeypatch, clock):
    """A function from overrides to a policy and its cluster; its board tells ``policy.saved``."""

    def policy(*words: str) -> tuple[Any, Cluster]:
        values = settings.load("duet", settings.parse_overrides(["workers.cpus=2", *words]))
        request: Any = SimpleNamespace(settings=values, target="vae", out="run")
        config, cluster = scaling_config(request), Cluster()
        kind = ElasticPolicy if config.elasticity_enabled else FixedPolicy
        made: Any = kind(config, request, None)
        made._cluster, made.saved = cluster, None
        monkeypatch.setattr(made, "_maybe_send_resource_request", lambda: None)
        if kind is ElasticPolicy:
            monkeypatch.setattr(made, "_get_reserved_resources", lambda: {f"node{n}": {"CPU": 2} for n in range(4)})
            made.notes = []
            board = SimpleNamespace(
                checkpoint=SimpleNamespace(remote=lambda key: made.saved),
                note=SimpleNamespace(remote=lambda line, key: made.notes.append(line)),
            )
            made._board = board
            monkeypatch.setattr(ray, "get", lambda answer, timeout: answer)
        return made, cluster

    return policy


def started(decision) -> int:
    """With how many workers; 0 for none yet."""
    return decision.num_workers if isinstance(decision, ResizeDecision) else 0


def test_workers_start_once_there_is_room_on_nodes_that_answer(policy):
    decided, cluster = policy("workers.count=2")
    cluster.staying = 1
    assert started(decided.make_decision_for_non_running_worker_group()) == 0
    cluster.staying, cluster.silent = 2, True
    assert started(decided.make_decision_for_non_running_worker_group()) == 0
    cluster.silent = False
    assert started(decided.make_decision_for_non_running_worker_group()) == 2


def test_a_training_waits_a_minute_for_a_node_and_ends_with_what_is_missing(policy, clock):
    decided, cluster = policy("workers.count=2")
    cluster.staying = 1
    for _ in range(60):
        assert started(decided.make_decision_for_non_running_worker_group()) == 0
        clock.now += 1
    with pytest.raises(UserError) as error:
        decided.make_decision_for_non_running_worker_group()
    assert str(error.value) == (
        "no node has come for a lost one in 60 s: workers.count = 2 of 2 CPUs each: the cluster has 1 node of 2 CPUs "
        "(allowed: up to 1 worker, or workers.cpus=1)"
    )


def test_a_node_that_an_autoscaler_brings_is_left_to_ray_to_wait_for(policy):
    decided, cluster = policy("workers.count=2")
    cluster.staying, cluster.has_autoscaler = 1, True
    assert started(decided.make_decision_for_non_running_worker_group()) == 2


@pytest.mark.parametrize(("nodes", "count"), [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4)])
def test_an_elastic_training_has_workers_with_equal_shares(policy, nodes, count):
    decided, cluster = policy("workers.count=4", "workers.min_count=2", "train.vae.batch_size=32")
    cluster.staying = nodes
    assert even_counts(decided._request) == [2, 4]
    assert started(decided.make_decision_for_non_running_worker_group()) == count


def test_an_elastic_training_waits_for_others_as_long_as_it_was_asked_to(policy, clock, monkeypatch):
    decided, cluster = policy("workers.count=2", "workers.min_count=1", "workers.wait_minutes=2")
    cluster.staying = 2
    monkeypatch.setattr(decided, "_get_reserved_resources", dict)
    for _ in range(120):
        assert started(decided.make_decision_for_non_running_worker_group()) == 0
        clock.now += 1
    assert decided.notes == ["waits up to 2 minutes until others leave room for workers"]
    with pytest.raises(UserError) as error:
        decided.make_decision_for_non_running_worker_group()
    assert str(error.value) == (
        "others have left no room for workers in 2 minutes (allowed: --resume later, or a larger workers.wait_minutes)"
    )


@pytest.mark.parametrize("waits", [True, False])
def test_the_controller_lets_others_in_while_it_waits(monkeypatch, waits):
    """Such as the call that aborts it on Ctrl-C."""
    controller = object.__new__(scaling._Controller)
    states = iter(["waiting", "waiting" if waits else "running"])
    monkeypatch.setattr(controller, "get_state", lambda: next(states), raising=False)

    async def turn(_self):
        pass

    monkeypatch.setattr(scaling.TrainController, "_run_control_loop_iteration", turn)
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(scaling.asyncio, "sleep", sleep)
    asyncio.run(controller._run_control_loop_iteration())
    assert pauses == [1.0 if waits else 0]


def test_an_elastic_training_grows_right_after_a_checkpoint_and_never_shrinks(policy):
    decided, cluster = policy("workers.count=4", "workers.min_count=1", "train.vae.batch_size=32")

    def decide(workers: int) -> int:
        state: Any = SimpleNamespace(num_workers=workers, start_time=0.0)
        decided._latest_monitor_time = float("-inf")
        return started(decided.make_decision_for_running_worker_group(state, None))

    cluster.staying, decided.saved = 2, 40
    assert [decide(2), decide(4)] == [0, 0]
    decided.saved = 80
    assert decide(4) == 0
    assert [decide(1), decide(1)] == [0, 0]
    decided.saved = 120
    assert decide(1) == 2
    # The room is gone again before there is a checkpoint.
    assert decide(1) == 0
    cluster.staying, decided.saved = 1, 160
    assert decide(1) == 0


def test_workers_that_are_started_again_do_not_grow_by_what_was_seen_before(policy):
    decided, cluster = policy("workers.count=2", "workers.min_count=1")
    cluster.staying = 2
    state: Any = SimpleNamespace(num_workers=1, start_time=0.0)
    assert started(decided.make_decision_for_running_worker_group(state, None)) == 0
    assert started(decided.make_decision_for_non_running_worker_group()) == 2
    decided.saved = 40
    assert started(decided.make_decision_for_running_worker_group(state, None)) == 0


@pytest.mark.parametrize("error", [None, ray.exceptions.RayActorError(), ray.exceptions.GetTimeoutError("late")])
def test_a_signal_that_ray_train_does_not_handle_ends_its_workers_too(monkeypatch, error):
    """Else they would go on training, and logging, while the driver closes the run."""
    aborted: list[str] = []

    def get(answer: str, timeout: float) -> None:
        aborted.append(answer)
        if error:
            raise error

    def run(trainer: Any, **options: Any) -> None:
        trainer._register_sigint_handler(SimpleNamespace(abort=SimpleNamespace(remote=lambda: "abort")))
        raise KeyboardInterrupt

    monkeypatch.setattr(scaling.ray, "get", get)
    monkeypatch.setattr(scaling.TorchTrainer, "_initialize_and_run_controller", run)
    monkeypatch.setattr(scaling.TorchTrainer, "_register_sigint_handler", lambda *_: None)
    trainer = Trainer.__new__(Trainer)
    trainer._policy, trainer._controller = None, None  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        trainer._initialize_and_run_controller()
    assert aborted == ["abort"]


def test_no_process_is_started_to_hand_out_data_sets_and_one_frees_the_places_of_workers():
    values = settings.load("duet")
    request: Any = SimpleNamespace(settings=values, target="vae", out="run")
    trainer = Trainer(print, request=request, board=None)
    kinds = [type(callback) for callback in trainer._create_default_callbacks()]
    assert not [kind for kind in kinds if issubclass(kind, DatasetsCallback)]
    assert [kind for kind in kinds if issubclass(kind, PlacementGroupCleanerCallback)] == [scaling._Cleaner]


def test_what_frees_the_places_of_workers_is_ended_at_once(monkeypatch):
    """Asked to stop, it would do so when it looks for the controller again."""
    ended: list[Any] = []
    monkeypatch.setattr(ray, "kill", ended.append)
    cleaner: Any = scaling._Cleaner()
    cleaner.before_controller_abort()
    assert not ended
    cleaner._cleaner = "its process"
    cleaner.before_controller_abort()
    cleaner.before_controller_abort()
    assert ended == ["its process"]
