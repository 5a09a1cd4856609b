"""Progress of a job: a bar in a terminal, a line now and then elsewhere.

A training runs in Ray workers while the driver waits. The first worker posts its step to a small actor, the
``ProgressBoard``, and ``Progress`` shows in the driver what was posted last.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

ProgressCallback = Callable[[str, int, int], None]
"""Called with a stage, how many of its items are done, and of how many; ``Stages`` is one."""

LINE_SECONDS = 10.0
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class ProgressUpdate:
    """The step that is done, of how many, what was measured then, and of what stage of a job it is."""

    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    stage: str = "train"


@ray.remote(num_cpus=0)
class ProgressBoard:
    """Keeps what the workers posted last; any process that holds the actor's handle may ask.

    Several jobs may share a board, each under a key of its own.
    """

    def __init__(self) -> None:
        self._latest: dict[str, ProgressUpdate] = {}
        self._failure: dict[str, str] = {}
        self._notes: dict[str, list[str]] = {}
        self._restarts: dict[str, list[str]] = {}
        self._checkpoint: dict[str, int] = {}

    def begin(self, key: str = "") -> None:
        """Forget an earlier attempt at a job."""
        for kept in (self._latest, self._failure, self._notes, self._restarts, self._checkpoint):
            kept.pop(key, None)

    def post(self, step: int, total: int, metrics: Mapping[str, float], stage: str = "train", key: str = "") -> None:
        """Take note of a step."""
        self._latest[key] = ProgressUpdate(step, total, dict(metrics), stage)

    def fail(self, reason: str, key: str = "") -> None:
        """Take note of why a worker has given up; the first reason stays."""
        self._failure.setdefault(key, reason)

    def note(self, line: str, key: str = "") -> None:
        """Take a line that the driver prints."""
        self._notes.setdefault(key, []).append(line)

    def restarted(self, line: str, key: str = "") -> None:
        """Take a line that says why the workers are started again; the driver prints it."""
        self._restarts.setdefault(key, []).append(line)
        self.note(line, key)

    def notes(self, key: str = "") -> list[str]:
        """The lines to print, from the first on."""
        return self._notes.get(key, [])

    def all_notes(self) -> dict[str, list[str]]:
        """The lines to print, by key."""
        return self._notes

    def restarts(self, key: str = "") -> list[str]:
        """Of each time that the workers were started again, why."""
        return self._restarts.get(key, [])

    def latest(self, key: str = "") -> ProgressUpdate | None:
        """The latest update."""
        return self._latest.get(key)

    def all_latest(self) -> dict[str, ProgressUpdate]:
        """The latest updates, by key."""
        return self._latest

    def saved(self, step: int, key: str = "") -> None:
        """Take note of a checkpoint."""
        self._checkpoint[key] = step

    def checkpoint(self, key: str = "") -> int | None:
        """The step of the newest checkpoint since the job was begun, if there is one."""
        return self._checkpoint.get(key)

    def failure(self, key: str = "") -> str | None:
        """Why a worker has given up, if one has."""
        return self._failure.get(key)


@contextmanager
def progress_board() -> Iterator[Any]:
    """A ``ProgressBoard`` that lasts as long as the block: an actor that nobody ends lives as long as Ray.

    It is on this process's node: no other node that is lost takes it away.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ProgressBoard.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    try:
        yield board
    finally:
        ray.kill(board)


class Stages:
    """Shows how far each stage of a job is, on standard error; called with the stage, what is done, and of how much.

    Example:
        >>> import sys
        >>> with Stages(Console(file=sys.stdout, width=80)) as stages:
        ...     for done in range(3):
        ...         stages("write", done, 2)
        write: 0/2
        write: 2/2, took 0:00:00
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._stage, self._done = "", 0
        self._first, self._began, self._shown = 0, 0.0, 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[metrics]}"), console=self._console)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, stage: str, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        """Show that ``done`` of ``total`` is done; another name begins another stage."""
        now = time.monotonic()
        text = ", ".join(f"{name} {value:.4g}" for name, value in (metrics or {}).items())
        begins = stage != self._stage
        if not begins and done == self._done:
            return
        self._done = done
        if begins:
            # Time is reckoned from here: a resumed training begins in the middle.
            self._stage, self._first, self._began = stage, done, now
            if self._bar is not None:
                self._task = self._bar.add_task(stage, total=total, completed=done, metrics=text)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=total, completed=done, metrics=text)
        elif begins or done >= total or now - self._shown >= LINE_SECONDS:
            self._shown = now
            line = ", ".join(part for part in (f"{stage}: {done}/{total}", self._time(done, total, now), text) if part)
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def note(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _time(self, done: int, total: int, now: float) -> str:
        if done <= self._first:
            return ""
        passed = now - self._began
        if done >= total:
            return f"took {timedelta(seconds=round(passed))}"
        return f"{timedelta(seconds=round(passed * (total - done) / (done - self._first)))} left"


class Progress:
    """Shows what is posted to a board for as long as the ``with`` block runs."""

    def __init__(self, board: Any, what: str, console: Console | None = None, key: str = "") -> None:
        self._board, self._what, self._key = board, what, key
        self._stages = Stages(console)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._stages.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self._stages.__exit__(kind, error, traceback)

    def _follow(self) -> None:
        ended, printed = False, 0
        while not ended:
            # Once more after the end, so that the last post is seen.
            ended = self._end.wait(POLL_SECONDS)
            try:
                asked = [self._board.latest.remote(self._key), self._board.notes.remote(self._key)]
                post, notes = ray.get(asked, timeout=10)
            except (RayError, TimeoutError):
                # A board that is lost or slow shows nothing; whether the job goes on is not for it to say.
                continue
            for line in notes[printed:]:
                self._stages.note(f"{self._what}: {line}")
            printed = len(notes)
            if post is not None:
                self._stages(self._what, post.step, post.total, post.metrics)
