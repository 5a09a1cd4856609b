"""What somebody sees of a sweep while it runs: its trials, their states, steps and losses, and the time left."""

import json
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import RayError
from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipelines.cluster.progress import LINE_SECONDS, POLL_SECONDS, Post
from pipelines.sweep.trial import FAILED, OUTCOME, STOPPED, Order


class Watch:
    """Shows the trials for as long as the ``with`` block runs: a table where somebody watches, lines where not."""

    def __init__(self, orders: Sequence[Order], board: Any, console: Console | None = None) -> None:
        self._orders, self._board = orders, board
        self._console = console or Console(stderr=True)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="sweep", daemon=True)
        self._began = time.monotonic()
        # How much of a trial was done when it was first heard of: what a resumed one had done before.
        self._first: dict[str, float] = {}
        # What has come to its end is read once, not at every look.
        self._ended: dict[str, tuple[str, str, str, str]] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _follow(self) -> None:
        if self._console.is_terminal:
            with Live(console=self._console, refresh_per_second=2) as live:
                while not self._end.wait(POLL_SECONDS):
                    live.update(self._table(self._posts()))
                live.update(self._table(self._posts()))
            return
        shown, states = 0.0, dict.fromkeys((order.key for order in self._orders), "")
        ended = False
        while not ended:
            ended = self._end.wait(POLL_SECONDS)
            posts = self._posts()
            for order in self._orders:
                state = self._state(order, posts[order.key])[0]
                if state != states[order.key]:
                    states[order.key] = state
                    self._console.print(f"{order.name}: {state}", highlight=False, markup=False)
            if time.monotonic() - shown >= LINE_SECONDS:
                shown = time.monotonic()
                at_work = [self._line(order, posts[order.key]) for order in self._orders]
                line = "; ".join(filter(None, at_work))
                if line:
                    self._console.print(f"{line}{self._left(posts)}", highlight=False, markup=False, soft_wrap=True)

    def _posts(self) -> dict[str, Post | None]:
        """What each trial posted last, by its key."""
        try:
            posts = ray.get(self._board.all_latest.remote(), timeout=10)
        except (RayError, TimeoutError):
            posts = {}
        # The trainings post under their folders.
        return {order.key: posts.get(str(Path(order.folder) / "denoiser")) for order in self._orders}

    def _state(self, order: Order, post: Post | None) -> tuple[str, str, str, str]:
        """State, step, loss and FID of a trial."""
        folder = Path(order.folder)
        if order.key not in self._ended and (folder / OUTCOME).is_file():
            results = json.loads((folder / order.evaluation / "results.json").read_text("utf-8"))
            self._ended[order.key] = ("done", "", "", f"{results['rows']['generated']['fid']['mean']:.2f}")
        for note, state in ((STOPPED, "stopped"), (FAILED, "failed")):
            if order.key not in self._ended and (folder / note).is_file():
                self._ended[order.key] = (state, "", "", "")
        if order.key in self._ended:
            return self._ended[order.key]
        if post is None:
            return "waiting", "", "", ""
        loss = f"{post.metrics['loss']:.4g}" if "loss" in post.metrics else ""
        return post.stage, f"{post.step}/{post.total}", loss, ""

    def _line(self, order: Order, post: Post | None) -> str:
        state, step, loss, _ = self._state(order, post)
        return f"{order.name} {state} {step}{f' loss {loss}' if loss else ''}" if step else ""

    def _share(self, order: Order, post: Post | None) -> float:
        """How much of a trial is done, if evaluation takes a third of it."""
        state = self._state(order, post)[0]
        if state in ("done", "stopped", "failed"):
            return 1.0
        if post is None or not post.total:
            return 0.0
        return (post.step / post.total * 2 if post.stage == "train" else 2 + post.step / post.total) / 3

    def _left(self, posts: dict[str, Post | None]) -> str:
        shares = {order.key: self._share(order, posts[order.key]) for order in self._orders}
        for key, post in posts.items():
            if post is not None:
                self._first.setdefault(key, shares[key])
        share = sum(shares.values()) / len(shares)
        since = share - sum(self._first.values()) / len(shares)
        if since < 0.01:
            return ""
        seconds = (time.monotonic() - self._began) * (1 - share) / since
        return f" ({share:.0%}, {timedelta(seconds=round(seconds))} left)"

    def _table(self, posts: dict[str, Post | None]) -> Table:
        table = Table("trial", "state", title=f"Trials{self._left(posts)}", title_justify="left")
        for name in ("step", "loss", "FID"):
            table.add_column(name, justify="right")
        for order in self._orders:
            table.add_row(order.name, *self._state(order, posts[order.key]))
        return table
