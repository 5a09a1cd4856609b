"""From a sweep file to trained and evaluated trials: what they share is made once, then Ray Tune runs them.

Every trial has a folder named after a hash of all that decides its result, and is done when ``trial.json`` lies in it.
So a sweep that is resumed, or whose file has changed, does what is missing and nothing else.
"""

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.schedulers import ASHAScheduler
from rich.console import Console
from rich.live import Live
from rich.table import Table

from intermoe.disk import is_taken, write_json
from intermoe.errors import UserError
from intermoe.shards import CARD, sha256
from pipelines.describe import describe
from pipelines.preprocess import preprocess
from pipelines.progress import LINE_SECONDS, POLL_SECONDS, Post, ProgressBoard, Stages
from pipelines.readers import reader_for
from pipelines.settings import Settings
from pipelines.sweep_file import Sweep, Trial
from pipelines.tracking import Run, tracking_uri
from pipelines.train import run_file, train
from pipelines.trial import OUTCOME, Order, done, mark_done, run_trial

SWEEP_FILE = "sweep.json"
_STOPPED = "stopped.json"
# Ray Tune starts a trial again so often before it counts as failed.
_RETRIES = 1
# Of a CPU: what a trial's own process asks for; its workers ask for themselves.
_DRIVER_CPUS = 0.1


def check_out(out: Path, resume: bool) -> None:
    """Raise where the folder of the sweep is taken, or holds none to resume."""
    if resume and not (out / SWEEP_FILE).is_file():
        raise UserError("holds no sweep to resume", where=out)
    if not resume and is_taken(out):
        raise UserError("exists and is not empty", where=out, allowed="another --out, or --resume to go on with it")


def sweep(found: Sweep, *, file: Path, out: Path, resume: bool) -> list[str]:
    """Run what is missing of a sweep and record it in MLflow; Ray must be running.

    Args:
        found: the sweep.
        file: that it was read from, kept with it.
        out: the folder of the sweep.
        resume: whether to go on with what ``out`` holds.

    Returns:
        The names of the trials that failed.

    Raises:
        UserError: ``out`` is taken, or what the trials share cannot be made.
    """
    check_out(out, resume)
    parent = _parent(found, file, out, resume)
    with parent:
        shards, vae, evaluator = _shared(found, out, parent)
        orders = [_order(trial, out, shards, vae, evaluator, parent, found) for trial in found.trials]
        missing = [order for order in orders if not _finished(Path(order.folder))]
        failed = _run(found, missing, out) if missing else []
        plan = [
            {"key": t.key, "points": list(t.points), "seed": t.seed, "rows": [list(row) for row in t.rows]}
            for t in found.trials
        ]
        tables = {name: table.model_dump(mode="json") for name, table in found.config.tables.items()}
        note = json.loads((out / SWEEP_FILE).read_text("utf-8"))
        write_json(out / SWEEP_FILE, note | {"trials": plan, "tables": tables, "failed": failed})
    return failed


def plan_table(found: Sweep) -> Table:
    """What a sweep would do: trials, rows, steps, parameters."""
    table = Table(title=f"{found.config.name}: {len(found.trials)} trials with profile {found.config.profile}")
    for name, side in (("trial", "left"), ("stands for", "left"), ("steps", "right"), ("trainable", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    table.add_column("active", justify="right")
    for trial in found.trials:
        parameters = describe(trial.settings)["parameters"]
        rows = ", ".join(f"{number}: {row}" for number, row in trial.rows) or ", ".join(trial.points)
        steps = _steps(trial.settings, found)
        sizes = (f"{parameters[name]:,}" for name in ("trainable", "active"))
        table.add_row(trial.name, rows, f"{steps:,}" if steps else "?", *sizes)
    return table


def _steps(resolved: Settings, found: Sweep) -> int | None:
    """Optimizer steps of a trial, where the number of recordings is known before they are read."""
    if found.profile.data.format != "duet":
        return None
    recordings = round(found.profile.data.count * 0.8)
    return round(resolved.train.denoiser.epochs * recordings / resolved.train.denoiser.batch_size)


def _parent(found: Sweep, file: Path, out: Path, resume: bool) -> Run:
    if resume:
        before = json.loads((out / SWEEP_FILE).read_text("utf-8"))
        return Run.reopen(before["tracking_uri"], before["run_id"])
    out.mkdir(parents=True, exist_ok=True)
    tags = {"intermoe.target": "sweep", "intermoe.out": str(out.resolve())}
    params = {"profile": found.config.profile, "trials": len(found.trials), **found.base.model_dump(mode="json")}
    run = Run.start(tracking_uri(), found.base.name, found.config.name, params, tags)
    run.log_artifact(file)
    document = {"name": found.config.name, "profile": found.config.profile, "run_id": run.id, "tracking_uri": run.uri}
    write_json(out / SWEEP_FILE, document)
    return run


def _shared(found: Sweep, out: Path, parent: Run) -> tuple[Path, Path, Path]:
    """Shards, VAE and evaluator, made where they are missing."""
    base, data = found.base, found.profile.data
    shared = out / "shared"
    shards = shared / f"data-{_hash(data.model_dump(mode='json'))}"
    if not shards.is_dir():
        with (
            reader_for(
                data.format,
                data.root,
                scratch=shared,
                mapping=data.mapping,
                scale=data.scale,
                count=data.count,
                seed=data.seed,
            ) as reader,
            Stages() as stages,
        ):
            preprocess(
                reader,
                name=found.config.name,
                out=shards,
                encoder=data.encoder,
                text_folder=data.text_folder,
                progress=stages,
            )
    card = sha256(shards / CARD)
    values = base.model_dump(mode="json")
    networks = []
    for target in ("vae", "evaluator"):
        parts = [card, base.seed, values["data"], values[target], values["train"][target], values["evaluation"]["pool"]]
        folder = shared / f"{target}-{_hash(parts)}"
        if not done(folder):
            train(
                target,
                base,
                dataset=shards,
                out=folder,
                text_folder=data.text_folder,
                resume=bool(run_file(folder)),
                tags={"intermoe.sweep": parent.id},
            )
            mark_done(folder, {"done": True})
        networks.append(folder)
    return shards, networks[0], networks[1]


def _order(trial: Trial, out: Path, shards: Path, vae: Path, evaluator: Path, parent: Run, found: Sweep) -> Order:
    text_folder = found.profile.data.text_folder
    return Order(
        key=trial.key,
        name=trial.name,
        settings=trial.settings.model_dump(mode="json"),
        folder=str((out / "trials" / trial.key).resolve()),
        dataset=str(shards.resolve()),
        vae=str(vae.resolve()),
        evaluator=str(evaluator.resolve()),
        text_folder=str(text_folder.resolve()) if text_folder else None,
        tracking_uri=parent.uri,
        parent=parent.id,
        tags={
            "intermoe.point": ", ".join(trial.points),
            "intermoe.seed": str(trial.seed),
            "intermoe.tables": ", ".join(sorted({table for table, _ in trial.rows})),
            "intermoe.rows": "; ".join(f"{table}: {row}" for table, row in trial.rows),
        },
    )


def _run(found: Sweep, orders: Sequence[Order], out: Path) -> list[str]:
    """Let Tune run the trials; the names of those that failed."""
    board = ProgressBoard.remote()  # type: ignore[attr-defined]
    for order in orders:
        Path(order.folder).mkdir(parents=True, exist_ok=True)
    notes = out / "tune"
    shutil.rmtree(notes, ignore_errors=True)
    by_key = {order.key: order for order in orders}

    def one(config: dict[str, Any]) -> None:
        run_trial({"order": by_key[config["trial"]], "board": board})

    tuner = tune.Tuner(
        tune.with_resources(one, {"CPU": _DRIVER_CPUS}),
        param_space={"trial": tune.grid_search(list(by_key))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=found.profile.concurrent, scheduler=_scheduler(found), trial_name_creator=_trial_name
        ),
        run_config=tune.RunConfig(
            name=found.config.name,
            storage_path=str(notes.resolve()),
            failure_config=tune.FailureConfig(max_failures=_RETRIES),
            verbose=0,
        ),
    )
    try:
        with _Watch(orders, board):
            grid = tuner.fit()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("`--resume` does what is missing") from None
    failed = []
    for result in (grid[number] for number in range(len(grid))):
        ran = by_key[(result.config or {})["trial"]]
        if _finished(Path(ran.folder)):
            continue
        if result.error is not None or found.profile.asha is None:
            failed.append(ran.name)
            reason = str(result.error or "it ended without a result").strip().splitlines()[-1]
            Console(stderr=True).print(f"{ran.name} failed: {reason}", highlight=False, markup=False, soft_wrap=True)
        else:
            _note_stopped(ran, (result.metrics or {}).get("step"))
    shutil.rmtree(notes, ignore_errors=True)
    return failed


def _trial_name(trial: Any) -> str:
    return str(trial.config["trial"])


def _scheduler(found: Sweep) -> ASHAScheduler | None:
    asha = found.profile.asha
    if asha is None:
        return None
    return ASHAScheduler(
        time_attr="step",
        metric=f"validation/{asha.metric}",
        mode="min",
        max_t=10**9,
        grace_period=asha.grace_steps,
        reduction_factor=asha.reduction,
    )


def _note_stopped(order: Order, step: int | None) -> None:
    """A trial that was behind the others: its run ends, and it is not asked for again."""
    write_json(Path(order.folder) / _STOPPED, {"step": step})
    run_id = run_file(Path(order.folder) / "denoiser").get("run_id")
    if run_id:
        run = Run.reopen(order.tracking_uri, run_id)
        run.set_tags({"intermoe.stopped": f"behind the others at step {step}"})
        run.finish("KILLED")


def _finished(folder: Path) -> bool:
    return (folder / OUTCOME).is_file() or (folder / _STOPPED).is_file()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


class _Watch:
    """Shows the trials for as long as the ``with`` block runs: a table where somebody watches, lines where not."""

    def __init__(self, orders: Sequence[Order], board: Any) -> None:
        self._orders, self._board = orders, board
        self._console = Console(stderr=True)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="sweep", daemon=True)
        self._began = time.monotonic()
        # What has come to its end is read once, not at every look.
        self._ended: dict[str, tuple[str, str, str, str]] = {}

    def __enter__(self) -> "_Watch":
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
            results = json.loads((folder / "evaluation" / "results.json").read_text("utf-8"))
            self._ended[order.key] = ("done", "", "", f"{results['rows']['generated']['fid']['mean']:.2f}")
        if order.key not in self._ended and (folder / _STOPPED).is_file():
            self._ended[order.key] = ("stopped", "", "", "")
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
        """How much of a trial is done, if evaluation takes a fifth of it."""
        state = self._state(order, post)[0]
        if state in ("done", "stopped"):
            return 1.0
        if post is None or not post.total:
            return 0.0
        return 0.8 * post.step / post.total if post.stage == "train" else 0.8 + 0.2 * post.step / post.total

    def _left(self, posts: dict[str, Post | None]) -> str:
        share = sum(self._share(order, posts[order.key]) for order in self._orders) / len(self._orders)
        if share < 0.01:
            return ""
        seconds = (time.monotonic() - self._began) * (1 - share) / share
        return f" ({share:.0%}, {timedelta(seconds=round(seconds))} left)"

    def _table(self, posts: dict[str, Post | None]) -> Table:
        table = Table("trial", "state", title=f"Trials{self._left(posts)}", title_justify="left")
        for name in ("step", "loss", "FID"):
            table.add_column(name, justify="right")
        for order in self._orders:
            table.add_row(order.name, *self._state(order, posts[order.key]))
        return table
