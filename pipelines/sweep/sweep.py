"""From a sweep file to trained and evaluated trials: what they share is made once, then Ray Tune runs them.

Every trial has a folder named after a hash of all that decides what it learns, with a folder in it for each way in
which it was evaluated, and is done when ``trial.json`` lies in it. So a sweep that is resumed, or whose file has
changed, does what is missing and nothing else.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from rich.console import Console
from rich.table import Table

from intermoe.errors import UserError
from intermoe.files import digest, locked, write_json
from intermoe.training.denoiser import DenoiserObjective
from pipelines.cluster.progress import ProgressBoard
from pipelines.describe import describe
from pipelines.sweep.display import Watch
from pipelines.sweep.file import Sweep, Trial
from pipelines.sweep.prerequisites import check_recordings, make_shared, training_recordings
from pipelines.sweep.trial import FAILED, OUTCOME, STOPPED, Order, run_trial, seconds
from pipelines.tracking.address import tracking_uri
from pipelines.tracking.runs import Run
from pipelines.train.run_folder import run_file

SWEEP_FILE = "sweep.json"
# Ray Tune starts a trial again so often before it counts as failed.
_RETRIES = 1
# Of a CPU: what a trial's own process asks for; its workers ask for themselves.
_DRIVER_CPUS = 0.01


def check_request(found: Sweep, out: Path, resume: bool) -> None:
    """Look whether such a sweep can begin, without Ray and without writing anything.

    Raises:
        UserError: the folder of the sweep is taken, or holds none to resume; the recordings are not there.
    """
    before = read_note(out)
    if resume and not before:
        raise UserError("holds no sweep to resume", where=out)
    # What a process left that was killed before the sweep had begun is hidden.
    visible = [file for file in out.glob("*") if not file.name.startswith(".")]
    if not resume and (visible or out.is_file()):
        allowed = "another --out" + (", or --resume to go on with it" if before else "")
        raise UserError("exists and is not empty", where=out, allowed=allowed)
    for key, value in (("name", found.config.name), ("profile", found.config.profile)) if resume else ():
        if before[key] != value:
            raise UserError(f"{key} {value!r}", where=out, allowed=f"{before[key]!r}, as in the sweep that is resumed")
    check_recordings(found, out)


def noted_overrides(out: Path) -> list[str]:
    """The overrides that the sweep in a folder was last run with; none where there is no sweep."""
    return list(read_note(out).get("overrides", []))


def read_note(out: Path) -> dict[str, Any]:
    """What a sweep has noted in its folder; empty where there is none."""
    file = out / SWEEP_FILE
    found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return found


def sweep(found: Sweep, *, file: Path, out: Path, resume: bool, overrides: Sequence[str] = ()) -> dict[str, str]:
    """Run what is missing of a sweep and record it in MLflow; Ray must be running.

    Args:
        found: the sweep.
        file: that it was read from, kept with it.
        out: the folder of the sweep.
        resume: whether to go on with what ``out`` holds.
        overrides: that it was read with, kept for a resumed sweep.

    Returns:
        The trials that failed, by name, each with the reason.

    Raises:
        UserError: ``out`` is taken, or what the trials share cannot be made.
    """
    check_request(found, out, resume)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be made: {error.strerror}", where=out) from None
    with locked(out), _parent(found, file, out, resume, overrides) as parent:
        shards, vae, evaluator = make_shared(found, out, parent)
        _note_plan(found, out, vae, evaluator, {})
        orders = [_order(trial, out, shards, vae, evaluator, parent, found) for trial in found.trials]
        missing = [order for order in orders if not _finished(order, found)]
        for order in orders:
            if order not in missing:
                # It may stand for other rows now.
                _tag(order, order.tags)
        failed = _run(found, missing, out) if missing else {}
        _note_plan(found, out, vae, evaluator, failed)
    return failed


def plan_table(found: Sweep) -> Table:
    """What a sweep would do: trials, rows, steps, parameters."""
    table = Table(title=f"{found.config.name}: {len(found.trials)} trials with profile {found.config.profile}")
    for name, side in (("trial", "left"), ("stands for", "left"), ("steps", "right"), ("trainable", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    table.add_column("active", justify="right")
    recordings = training_recordings(found)
    for trial in found.trials:
        parameters = describe(trial.settings)["parameters"]
        rows = ", ".join(f"{number}: {row}" for number, row in trial.rows) or ", ".join(trial.points)
        training = trial.settings.train.denoiser
        steps = math.ceil(training.epochs * recordings / training.batch_size) if recordings else None
        sizes = (f"{parameters[name]:,}" for name in ("trainable", "active"))
        table.add_row(trial.name, rows, f"{steps:,}" if steps else "?", *sizes)
    return table


def _parent(found: Sweep, file: Path, out: Path, resume: bool, overrides: Sequence[str]) -> Run:
    """The sweep's run in MLflow, and its note in the folder."""
    note = read_note(out)
    if resume:
        run = Run.reopen(note["tracking_uri"], note["run_id"])
    else:
        tags = {"intermoe.target": "sweep", "intermoe.out": str(out.resolve())}
        params = {"profile": found.config.profile, "trials": len(found.trials), **found.base.model_dump(mode="json")}
        run = Run.start(tracking_uri(), found.base.name, found.config.name, params, tags)
        note = {"name": found.config.name, "profile": found.config.profile}
        note |= {"run_id": run.id, "tracking_uri": run.uri}
    write_json(out / SWEEP_FILE, note | {"overrides": list(overrides)})
    run.log_artifact(file)
    return run


def _note_plan(found: Sweep, out: Path, vae: Path, evaluator: Path, failed: Mapping[str, str]) -> None:
    """What a report needs to know; it may be asked for while trials are running."""
    trials = [
        {"key": trial.key, "points": trial.points, "seed": trial.seed, "rows": trial.rows} for trial in found.trials
    ]
    tables = {name: table.model_dump(mode="json") for name, table in found.config.tables.items()}
    shared = {"vae": seconds(vae), "evaluator": seconds(evaluator)}
    plan = {"trials": trials, "tables": tables, "seconds_shared": shared, "failed": dict(failed)}
    write_json(out / SWEEP_FILE, read_note(out) | plan)


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
        evaluation=f"evaluation-{digest([trial.settings.evaluation.model_dump(mode='json'), evaluator.name])}",
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


def _run(found: Sweep, orders: Sequence[Order], out: Path) -> dict[str, str]:
    """Let Tune run the trials; those that failed, each with the reason."""
    board = ProgressBoard.remote()  # type: ignore[attr-defined]
    for order in orders:
        Path(order.folder).mkdir(parents=True, exist_ok=True)
        # Of an earlier attempt, or of an evaluation that is not the one asked for now.
        for note in (OUTCOME, STOPPED, FAILED):
            Path(order.folder, note).unlink(missing_ok=True)
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
            callbacks=[_Ends(by_key)],
            verbose=0,
        ),
    )
    try:
        with Watch(orders, board):
            tuner.fit()
    except KeyboardInterrupt:
        for order in orders:
            if not _finished(order, found):
                _tag(order, {}, end=True)
        raise KeyboardInterrupt("`--resume` does what is missing") from None
    shutil.rmtree(notes, ignore_errors=True)
    failed = {}
    for order in orders:
        if not _finished(order, found):
            file = Path(order.folder) / FAILED
            failed[order.name] = json.loads(file.read_text("utf-8"))["reason"] if file.is_file() else "no result"
    for name, reason in failed.items():
        Console(stderr=True).print(f"{name} failed: {reason}", highlight=False, markup=False, soft_wrap=True)
    return failed


class _Ends(tune.Callback):
    """Notes in a trial's folder that it was stopped or has failed, at once: the driver may be killed before all end."""

    def __init__(self, orders: Mapping[str, Order]) -> None:
        self._orders = orders

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """It has come to its end, or it was behind the others: its run ends, and it is not asked for again."""
        order = self._orders[_trial_name(trial)]
        if not (Path(order.folder) / OUTCOME).is_file():
            step = trial.last_result.get("step")
            write_json(Path(order.folder) / STOPPED, {"step": step})
            _tag(order, {"intermoe.stopped": f"behind the others at step {step}"}, end=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """It has failed for the last time."""
        error = str(trial.get_error() or "its process ended").strip().splitlines()[-1]
        write_json(Path(self._orders[_trial_name(trial)].folder) / FAILED, {"reason": error})


def _trial_name(trial: Any) -> str:
    return str(trial.config["trial"])


def _scheduler(found: Sweep) -> ASHAScheduler | None:
    asha = found.profile.asha
    if asha is None:
        return None
    return ASHAScheduler(
        time_attr="step",
        metric=f"validation/{DenoiserObjective.watched}",
        mode="min",
        max_t=10**9,
        grace_period=asha.grace_steps,
        reduction_factor=asha.reduction,
    )


def _tag(order: Order, tags: Mapping[str, str], end: bool = False) -> None:
    """Set tags of a trial's run, if it has one; with ``end``, say that it was ended, as its own process did not."""
    run_id = run_file(Path(order.folder) / "denoiser").get("run_id")
    if run_id:
        run = Run.attach(order.tracking_uri, run_id)
        run.set_tags(tags)
        if end:
            run.finish("KILLED")


def _finished(order: Order, found: Sweep) -> bool:
    """Whether a trial need not run: it is done, evaluated as asked for, or was stopped by what would stop it again."""
    outcome = Path(order.folder) / OUTCOME
    if found.profile.asha is not None and (Path(order.folder) / STOPPED).is_file():
        return True
    return outcome.is_file() and json.loads(outcome.read_text("utf-8"))["evaluation"] == order.evaluation
