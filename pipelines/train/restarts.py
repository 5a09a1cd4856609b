"""Reports that Ray Train has started the workers again, and why: it does so without a word."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import NodeDiedError, RayActorError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import ResizingState
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, TrainingFailedError, WorkerGroupError

from intermoe.errors import UserError
from pipelines.train.request import TrainRequest
from pipelines.train.run_folder import resumable_step

# Ray restarts the workers from the newest checkpoint so often before it gives up.
MAX_RESTARTS = 2
_LOST = (NodeDiedError, RayActorError)
_SECONDS = 10.0
_NODE_LOST, _NODE_TAKEN = "its node is lost", "a node is taken away"
_PROCESS_ENDED, _OTHER_LOST = "its process ended", "it has lost another worker"


class ReportRestarts(ControllerCallback):
    """Notes on the ``ProgressBoard`` every restart of a training with its reason, and every growth.

    It lives in Ray Train's controller.
    """

    def __init__(self, request: TrainRequest, board: Any) -> None:
        self._request, self._board = request, board
        self._counts: Counter[str] = Counter()

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Ray Train has decided what to do next."""
        if isinstance(current_state, ResizingState):
            count = getattr(current_state.scaling_decision, "num_workers", 0)
            self._say(self._board.note, lambda step: f"goes on with {count} workers from step {step}")
            return
        error = getattr(current_state, "training_failed_error", None)
        # While the workers wait for a place, it is the same state again and again.
        if error is None or current_state is previous_state or current_state.is_terminal():
            return
        # Ray counts failures of the workers and of their start apart, and those by a node's announced end not at all.
        kind = type(error).__name__
        self._counts[kind] += 1
        counted = self._counts[kind] <= MAX_RESTARTS and not isinstance(error, PreemptionError)
        limit = f" of {MAX_RESTARTS}" if counted else ""
        number = f"{self._counts[kind]}{limit}"
        self._say(self._board.restarted, lambda step: f"started again ({number}) from step {step}: {failure(error)}")

    def _say(self, post: Any, line_of: Callable[[int], str]) -> None:
        # What is raised here would end the training that is to go on.
        with suppress(Exception):
            line = line_of(resumable_step(self._request.out))
            ray.get(post.remote(line, key=str(self._request.out)), timeout=_SECONDS)


def failure(error: TrainingFailedError) -> str:
    """Why a training has failed, in one line."""
    if isinstance(error, WorkerGroupError):
        # When one worker ends, the others fail because it is gone: the one that ended is the reason.
        failures = sorted(error.worker_failures.items(), key=lambda item: not isinstance(item[1], _LOST))
        for rank, cause in failures[:1]:
            return f"worker {rank}: {_reason(cause)}"
    if isinstance(error, PreemptionError):
        return _NODE_TAKEN
    if isinstance(error, ControllerError):
        return _reason(error.controller_failure)
    return _reason(error)


def is_lost(error: WorkerGroupError) -> bool:
    """Whether workers have gone, and none has raised something that its traceback would explain."""
    reasons = {_reason(cause) for cause in error.worker_failures.values()}
    return reasons <= {_NODE_LOST, _NODE_TAKEN, _PROCESS_ENDED, _OTHER_LOST}


def is_out_of_room(error: ControllerError) -> bool:
    """Whether a training has ended because its workers found no place."""
    cause = error.controller_failure
    return user_error(cause) is not None or isinstance(cause, WorkerGroupStartupTimeoutError)


def user_error(error: BaseException | None) -> UserError | None:
    """The ``UserError`` at the bottom of what Ray has wrapped it into."""
    while error is not None and not isinstance(error, UserError):
        error = getattr(error, "cause", None) or error.__cause__
    return error


def _reason(error: BaseException) -> str:
    # By their words: Ray hands on some of them as other errors that hold these.
    text = str(error)
    if isinstance(error, NodeDiedError) or "node has died" in text:
        return _NODE_LOST
    if isinstance(error, _LOST) or "worker process has died" in text:
        return _PROCESS_ENDED
    if "NodeAffinitySchedulingStrategy doesn't exist any more" in text:
        # The tasks of the feed belong on the worker's node, and one that is about to end takes none.
        return _NODE_TAKEN
    if "/gloo/transport/" in text or "ncclRemoteError" in text:
        # Of a worker that has seen another one's end before Ray has.
        return _OTHER_LOST
    if "is unavailable" in text:
        return "it does not answer"
    inner = user_error(error)
    lines = str(inner or error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
