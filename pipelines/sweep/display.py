"""The display of a running sweep: its trials, their states, steps and losses, and the time left."""

import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Self

import ray
from ray.exceptions import RayError
from rich.console import Console
from rich.live import Live
from rich.table import Table

from intermoe.files import read_note
from intermoe.places import is_file, is_remote
from pipelines.cluster.progress import LINE_SECONDS, POLL_SECONDS, ProgressUpdate
from pipelines.sweep.trial import FAILED, OUTCOME, STOPPED, TrialRequest

_REMOTE_POLL_SECONDS = 5.0


class TrialDisplay:
    """Shows the trials for as long as the ``with`` block runs: a table where somebody watches, lines where not."""

    def __init__(self, trials: Sequence[TrialRequest], board: Any, console: Console | None = None) -> None:
        self._trials, self._board = trials, board
        self._console = console or Console(stderr=True)
        # Whether a trial is at its end is read from its folder.
        self._poll = _REMOTE_POLL_SECONDS if any(is_remote(trial.folder) for trial in trials) else POLL_SECONDS
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="sweep", daemon=True)
        self._began = time.monotonic()
        # How much of a trial was done when it was first heard of: what a resumed one had done before.
        self._first: dict[str, float] = {}
        # What has come to its end is read once, not at every look.
        self._ended: dict[str, tuple[str, str, str, str]] = {}
        self._printed = {trial.key: 0 for trial in trials}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _follow(self) -> None:
        if self._console.is_terminal:
            with Live(console=self._console, refresh_per_second=2) as live:
                while not self._end.wait(self._poll):
                    live.update(self._table(self._updates()))
                live.update(self._table(self._updates()))
            return
        shown, states = 0.0, dict.fromkeys((trial.key for trial in self._trials), "")
        ended = False
        while not ended:
            ended = self._end.wait(self._poll)
            updates = self._updates()
            for trial in self._trials:
                state = self._state(trial, updates[trial.key])[0]
                if state != states[trial.key]:
                    states[trial.key] = state
                    self._console.print(f"{trial.name}: {state}", highlight=False, markup=False, soft_wrap=True)
            if time.monotonic() - shown >= LINE_SECONDS:
                shown = time.monotonic()
                at_work = [self._line(trial, updates[trial.key]) for trial in self._trials]
                line = "; ".join(filter(None, at_work))
                if line:
                    self._console.print(f"{line}{self._left(updates)}", highlight=False, markup=False, soft_wrap=True)

    def _updates(self) -> dict[str, ProgressUpdate | None]:
        """What each trial posted last, by its key; prints the lines that are new."""
        try:
            updates, notes = ray.get([self._board.all_latest.remote(), self._board.all_notes.remote()], timeout=10)
        except (RayError, TimeoutError):
            updates, notes = {}, {}
        for trial in self._trials:
            lines = notes.get(str(trial.training.out), [])
            for line in lines[self._printed[trial.key] :]:
                self._console.print(f"{trial.name}: {line}", highlight=False, markup=False, soft_wrap=True)
            self._printed[trial.key] = len(lines)
        # Trainings post under their folders.
        return {trial.key: updates.get(str(trial.training.out)) for trial in self._trials}

    def _state(self, trial: TrialRequest, update: ProgressUpdate | None) -> tuple[str, str, str, str]:
        """State, step, loss and FID (of what the network makes, as in the report) of a trial."""
        folder = trial.folder
        if trial.key not in self._ended and is_file(folder / OUTCOME):
            results = read_note(folder / trial.evaluation / "results.json")
            self._ended[trial.key] = ("done", "", "", f"{results['rows']['raw']['fid']['mean']:.2f}")
        for note, state in ((STOPPED, "stopped"), (FAILED, "failed")):
            if trial.key not in self._ended and is_file(folder / note):
                self._ended[trial.key] = (state, "", "", "")
        if trial.key in self._ended:
            return self._ended[trial.key]
        if update is None:
            return "waiting", "", "", ""
        loss = f"{update.metrics['loss']:.4g}" if "loss" in update.metrics else ""
        return update.stage, f"{update.step}/{update.total}", loss, ""

    def _line(self, trial: TrialRequest, update: ProgressUpdate | None) -> str:
        state, step, loss, _ = self._state(trial, update)
        return f"{trial.name} {state} {step}{f' loss {loss}' if loss else ''}" if step else ""

    def _share(self, trial: TrialRequest, update: ProgressUpdate | None) -> float:
        """How much of a trial is done, if evaluation takes a third of it."""
        state = self._state(trial, update)[0]
        if state in ("done", "stopped", "failed"):
            return 1.0
        if update is None or not update.total:
            return 0.0
        return (update.step / update.total * 2 if update.stage == "train" else 2 + update.step / update.total) / 3

    def _left(self, updates: dict[str, ProgressUpdate | None]) -> str:
        shares = {trial.key: self._share(trial, updates[trial.key]) for trial in self._trials}
        for key, update in updates.items():
            if update is not None:
                self._first.setdefault(key, shares[key])
        share = sum(shares.values()) / len(shares)
        since = share - sum(self._first.values()) / len(shares)
        if since < 0.01:
            return ""
        seconds = (time.monotonic() - self._began) * (1 - share) / since
        return f" ({share:.0%}, {timedelta(seconds=round(seconds))} left)"

    def _table(self, updates: dict[str, ProgressUpdate | None]) -> Table:
        table = Table("trial", "state", title=f"Trials{self._left(updates)}", title_justify="left")
        for name in ("step", "loss", "FID"):
            table.add_column(name, justify="right")
        for trial in self._trials:
            table.add_row(trial.name, *self._state(trial, updates[trial.key]))
        return table
