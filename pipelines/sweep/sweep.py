"""From a sweep file to trained and evaluated trials: what they share is made once, then Ray Tune runs them.

Every trial has a folder named after a hash of all that decides what it learns, with a folder in it for each way in
which it was evaluated, and is done when ``trial.json`` lies in it. So a sweep that is resumed, or whose file has
changed, does what is missing and nothing else.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from rich.console import Console
from rich.table import Table

from intermoe.files import make_folder, read_note, write_note
from intermoe.locks import locked
from intermoe.places import is_file
from intermoe.training.denoiser import DenoiserObjective
from pipelines.cluster.progress import progress_board
from pipelines.describe import describe
from pipelines.sweep.display import TrialDisplay
from pipelines.sweep.file import SweepPlan, Trial
from pipelines.sweep.prerequisites import make_shared, training_recordings
from pipelines.sweep.request import SWEEP_NOTE, SweepRequest, sweep_note
from pipelines.sweep.trial import FAILED, OUTCOME, STOPPED, TrialRequest, run_trial
from pipelines.tracking.address import shown
from pipelines.tracking.label import RunLabel
from pipelines.tracking.runs import Run
from pipelines.tracking.sync import deliver_left
from pipelines.train.run_folder import run_note

# Ray Tune starts a trial again so often before it counts as failed.
_RETRIES = 1
# After Ctrl-C, an MLflow that is away is waited for so long; `--resume` or `intermoe sync` delivers the rest.
_END_SECONDS = 3.0
# What a trial's own process asks for, since Tune wants something: a byte. Its workers ask for themselves, and may take
# all CPUs of the cluster.
_DRIVER_RESOURCES = {"CPU": 0.0, "memory": 1.0}


def sweep(request: SweepRequest) -> dict[str, str]:
    """Run what is missing of a sweep and record it in MLflow; Ray must be running.

    Args:
        request: from :meth:`SweepRequest.checked`.

    Returns:
        The trials that failed, by name, each with the reason.

    Raises:
        UserError: another process works in the folder, or what the trials share cannot be made.
    """
    plan, out = request.plan, request.out
    with locked(out), _parent(request) as parent:
        made = make_shared(plan, out, request.site, parent)
        shared = {"seconds_shared": made.seconds}
        _note_plan(request, shared | {"failed": {}})
        trials = [
            TrialRequest(
                key=trial.key,
                settings=trial.settings,
                folder=out / "trials" / trial.key,
                dataset=made.shards,
                vae=made.vaes.get(trial.key),
                evaluator=made.evaluator,
                site=request.site,
                label=_label(trial, parent),
            )
            for trial in plan.trials
        ]
        missing = [trial for trial in trials if not _finished(trial, plan)]
        for trial in trials:
            if trial not in missing:
                # It may stand for other rows now.
                _tag(trial, trial.label.tags)
        deliver_left(out / "trials", request.site.tracking_uri)
        failed = _run(request, missing) if missing else {}
        # Of trials whose process was ended in the middle.
        deliver_left(out / "trials", request.site.tracking_uri)
        _note_plan(request, shared | {"failed": failed})
    return failed


def plan_table(plan: SweepPlan) -> Table:
    """The plan of a sweep: trials, rows, steps, parameters."""
    table = Table(title=f"{plan.config.name}: {len(plan.trials)} trials with profile {plan.config.profile}")
    table.add_column("trial")
    table.add_column("stands for")
    for name in ("steps", "trainable", "active"):
        table.add_column(name, justify="right")
    recordings = training_recordings(plan)
    for trial in plan.trials:
        parameters = describe(trial.settings)["parameters"]
        rows = ", ".join(f"{number}: {row}" for number, row in trial.rows) or ", ".join(trial.points)
        training = trial.settings.train.denoiser
        steps = math.ceil(training.epochs * recordings / training.batch_size) if recordings else None
        sizes = (f"{parameters[name]:,}" for name in ("trainable", "active"))
        table.add_row(trial.name, rows, f"{steps:,}" if steps else "?", *sizes)
    return table


def _parent(request: SweepRequest) -> Run:
    """The sweep's run in MLflow, and its note in the folder."""
    plan, out = request.plan, request.out
    make_folder(out)
    note = sweep_note(out)
    if request.resume:
        run = Run.reopen(request.site.tracking_uri, note["run_id"], out)
    else:
        config = plan.config
        run = Run.start(
            request.site.tracking_uri,
            plan.base.name,
            config.name,
            params={"profile": config.profile, "trials": len(plan.trials), **plan.base.model_dump(mode="json")},
            tags={"intermoe.target": "sweep", "intermoe.out": str(out)},
            folder=out,
        )
        note = {"name": config.name, "profile": config.profile, "run_id": run.id, "tracking_uri": shown(run.uri)}
    write_note(out / SWEEP_NOTE, note | {"overrides": dict(plan.overrides)})
    run.log_artifact(plan.file)
    run.describe(
        f"Sweep `{plan.config.name}` with the profile `{plan.config.profile}`: {len(plan.trials)} trials, each a child "
        f"of this run. Folder: `{out}`. `intermoe report {out}` writes its tables here, also while it runs."
    )
    return run


def _note_plan(request: SweepRequest, progress: Mapping[str, Any]) -> None:
    """What a report needs to know; it may be asked for while trials are running."""
    plan = request.plan
    trials = [
        {"key": trial.key, "name": trial.name, "points": trial.points, "seed": trial.seed, "rows": trial.rows}
        for trial in plan.trials
    ]
    tables = {name: table.model_dump(mode="json") for name, table in plan.config.tables_used.items()}
    note = sweep_note(request.out) | {"trials": trials, "tables": tables, **progress}
    write_note(request.out / SWEEP_NOTE, note)


def _label(trial: Trial, parent: Run) -> RunLabel:
    tags = {
        "intermoe.point": ", ".join(trial.points),
        "intermoe.seed": str(trial.seed),
        "intermoe.tables": ", ".join(sorted({table for table, _ in trial.rows})),
        "intermoe.rows": "; ".join(f"{table}: {row}" for table, row in trial.rows),
    }
    return RunLabel(trial.name, parent.id, tags)


def _run(request: SweepRequest, trials: Sequence[TrialRequest]) -> dict[str, str]:
    """Let Tune run the trials; those that failed, each with the reason."""
    for trial in trials:
        make_folder(trial.folder)
        # Of an earlier attempt, or of an evaluation that is not the one asked for now.
        for note in (OUTCOME, STOPPED, FAILED):
            (trial.folder / note).unlink(missing_ok=True)
    try:
        with (
            progress_board() as board,
            tempfile.TemporaryDirectory(prefix="intermoe-ray-tune-") as notes,
            TrialDisplay(trials, board),
        ):
            # Tune's notes, on this process's node. All that is needed to go on is in the folders of the trials.
            _tuner(request, trials, board, notes).fit()
    except KeyboardInterrupt:
        for trial in trials:
            if not _finished(trial, request.plan):
                _tag(trial, {}, end=True)
        deliver_left(request.out / "trials", request.site.tracking_uri, _END_SECONDS)
        raise KeyboardInterrupt("`--resume` does what is missing") from None
    failed = {}
    for trial in trials:
        if is_file(trial.folder / STOPPED):
            # Its own process, which was ended in the middle, may have called its run failed since.
            _tag(trial, {}, end=True)
        if not _finished(trial, request.plan):
            failed[trial.name] = read_note(trial.folder / FAILED).get("reason", "no result")
    for name, reason in failed.items():
        Console(stderr=True).print(f"{name} failed: {reason}", highlight=False, markup=False, soft_wrap=True)
    return failed


def _tuner(request: SweepRequest, trials: Sequence[TrialRequest], board: Any, notes: str) -> tune.Tuner:
    by_key = {trial.key: trial for trial in trials}
    profile = request.plan.profile
    return tune.Tuner(
        tune.with_resources(partial(_trainable, trials=by_key, board=board), _DRIVER_RESOURCES),
        param_space={"trial": tune.grid_search(list(by_key))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=profile.concurrent,
            scheduler=_scheduler(request.plan),
            trial_name_creator=_trial_key,
        ),
        run_config=tune.RunConfig(
            name=request.plan.config.name,
            storage_path=notes,
            failure_config=tune.FailureConfig(max_failures=_RETRIES),
            callbacks=[_NoteEnds(by_key)],
            verbose=0,
        ),
    )


def _trainable(config: dict[str, Any], trials: Mapping[str, TrialRequest], board: Any) -> None:
    """The function that Tune runs for each trial."""
    run_trial(trials[config["trial"]], board)


class _NoteEnds(tune.Callback):
    """Notes in a trial's folder that it was stopped or has failed, at once: the driver may be killed before all end."""

    def __init__(self, trials: Mapping[str, TrialRequest]) -> None:
        self._trials = trials

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """It has come to its end, or it was behind the others: its run ends, and it is not asked for again."""
        request = self._trials[_trial_key(trial)]
        if not is_file(request.folder / OUTCOME):
            step = trial.last_result.get("step")
            write_note(request.folder / STOPPED, {"step": step})
            _tag(request, {"intermoe.stopped": f"behind the others at step {step}"}, end=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """It has failed for the last time."""
        error = str(trial.get_error() or "its process ended").strip().splitlines()[-1]
        write_note(self._trials[_trial_key(trial)].folder / FAILED, {"reason": error})


def _trial_key(trial: Any) -> str:
    return str(trial.config["trial"])


def _scheduler(plan: SweepPlan) -> ASHAScheduler | None:
    asha = plan.profile.asha
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


def _tag(trial: TrialRequest, tags: Mapping[str, str], *, end: bool = False) -> None:
    """Set tags of a trial's run, if it has one; with ``end``, say that it was ended, as its own process did not."""
    run_id = run_note(trial.training.out).get("run_id")
    if run_id:
        run = Run(trial.site.tracking_uri, run_id, trial.training.out, part="sweep")
        run.set_tags(tags)
        run.leave("KILLED" if end else None)


def _finished(trial: TrialRequest, plan: SweepPlan) -> bool:
    """Whether a trial need not run: it is done, evaluated as asked for, or was stopped by what would stop it again."""
    if plan.profile.asha is not None and is_file(trial.folder / STOPPED):
        return True
    return read_note(trial.folder / OUTCOME).get("evaluation") == trial.evaluation
