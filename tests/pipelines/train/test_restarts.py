"""What is said when Ray Train starts the workers again."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, NodeDiedError, RayTaskError
from ray.train import ControllerError, PreemptionError, PreemptionInfo, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.controller.state import (
    ErroredState,
    ReschedulingState,
    ResizingState,
    RestartingState,
    RunningState,
)
from ray.train.v2._internal.execution.scaling_policy import ResizeDecision

from intermoe.errors import UserError
from pipelines.train import restarts
from pipelines.train.restarts import ReportRestarts, failure, is_lost, is_out_of_room

GLOO = "[/build/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4242"
UNPLACED = (
    "The task is not schedulable: The node specified via NodeAffinitySchedulingStrategy doesn't exist any more or is "
    "infeasible, and soft=False was specified. lease_id=1000, name=_map_task"
)
LOST = WorkerGroupError("", {0: RuntimeError("Connection closed by peer"), 1: ActorDiedError()})


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (LOST, "worker 1: its process ended"),
        (WorkerGroupError("", {0: RuntimeError(GLOO)}), "worker 0: it has lost another worker"),
        (WorkerGroupError("", {0: RuntimeError("x"), 3: NodeDiedError("gone")}), "worker 3: its node is lost"),
        (WorkerGroupError("", {0: RuntimeError("first\nCUDA out of memory")}), "worker 0: CUDA out of memory"),
        (
            WorkerGroupError("", {0: RayTaskError("f", "Traceback ...", UserError("the disk is full"))}),
            "worker 0: the disk is full",
        ),
        (WorkerGroupError("", {0: RuntimeError(UNPLACED)}), "worker 0: a node is taken away"),
        (PreemptionError(PreemptionInfo(None, {"node": [1]})), "a node is taken away"),
        (ControllerError(RuntimeError("no room for the workers in 60 s")), "no room for the workers in 60 s"),
    ],
)
def test_a_failure_is_one_line_that_names_its_cause(error, line):
    assert failure(error) == line


@pytest.mark.parametrize(
    ("errors", "lost"),
    [
        ({0: RuntimeError(GLOO), 1: ActorDiedError()}, True),
        ({0: NodeDiedError("gone")}, True),
        ({0: RuntimeError(GLOO)}, True),
        ({0: RuntimeError(UNPLACED)}, True),
        ({0: RuntimeError("CUDA out of memory")}, False),
        ({0: RuntimeError(GLOO), 1: RuntimeError("CUDA out of memory")}, False),
    ],
)
def test_a_worker_is_lost_that_raised_nothing_of_its_own(errors, lost):
    assert is_lost(WorkerGroupError("", errors)) == lost


@pytest.mark.parametrize(
    ("cause", "answer"),
    [(UserError("no node"), True), (WorkerGroupStartupTimeoutError(2), True), (AttributeError("a mistake"), False)],
)
def test_workers_without_a_place_are_no_mistake_of_ours(cause, answer):
    assert is_out_of_room(ControllerError(cause)) is answer


def test_each_restart_is_reported_with_its_number_and_its_step(monkeypatch, tmp_path):
    lines = []
    post = SimpleNamespace(remote=lambda line, key: lines.append((line, key)))
    board = SimpleNamespace(restarted=post, note=post)
    monkeypatch.setattr(ray, "get", lambda answer, timeout: answer)
    monkeypatch.setattr(restarts, "resumable_step", lambda out: 8)
    request: Any = SimpleNamespace(out=tmp_path)
    report = ReportRestarts(request, board)
    running = RunningState()
    late = ControllerError(RuntimeError("no room"))
    waiting = RestartingState(training_failed_error=LOST)
    announced = RestartingState(training_failed_error=PreemptionError(PreemptionInfo(None, {})))
    for before, state in (
        (running, running),
        (running, waiting),
        (waiting, waiting),
        (running, ReschedulingState(training_failed_error=late)),
        (running, announced),
        (running, ResizingState(ResizeDecision(2, {}))),
        (running, ErroredState(training_failed_error=late)),
    ):
        report.after_controller_state_update(before, state)
    assert lines == [
        ("started again (1 of 2) from step 8: worker 1: its process ended", str(tmp_path)),
        ("started again (1 of 2) from step 8: no room", str(tmp_path)),
        ("started again (1) from step 8: a node is taken away", str(tmp_path)),
        ("goes on with 2 workers from step 8", str(tmp_path)),
    ]


def test_a_report_that_fails_does_not_end_the_training(monkeypatch, tmp_path):
    told = []

    def lost(answer, timeout):
        raise ActorDiedError

    monkeypatch.setattr(ray, "get", lost)
    board = SimpleNamespace(restarted=SimpleNamespace(remote=lambda line, key: told.append(line)))
    request: Any = SimpleNamespace(out=tmp_path)
    state = RestartingState(training_failed_error=LOST)
    ReportRestarts(request, board).after_controller_state_update(RunningState(), state)
    assert told == ["started again (1 of 2) from step 0: worker 1: its process ended"]
