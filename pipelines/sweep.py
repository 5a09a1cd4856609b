"""From a sweep file to trained and evaluated trials: what they share is made once, then Ray Tune runs them.

Every trial has a folder named after a hash of all that decides its result, and is done when ``trial.json`` lies in it.
So a sweep that is resumed, or whose file has changed, does what is missing and nothing else.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from rich.console import Console
from rich.table import Table

from intermoe.datasets.recordings import Reader
from intermoe.disk import is_taken, write_json
from intermoe.errors import UserError
from intermoe.evaluation.protocol import check_split
from intermoe.shards import CARD, DatasetFolder, sha256
from pipelines.describe import describe
from pipelines.objectives import DenoiserObjective
from pipelines.preprocess import preprocess
from pipelines.progress import ProgressBoard, Stages
from pipelines.readers import reader_for
from pipelines.settings import Settings
from pipelines.store import tracking_uri
from pipelines.sweep_file import Sweep, Trial
from pipelines.tracking import Run
from pipelines.train import Label, run_file, train
from pipelines.trial import OUTCOME, STOPPED, Order, done, mark_done, run_trial, seconds, timed
from pipelines.watch import Watch

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
    if resume and not (out / SWEEP_FILE).is_file():
        raise UserError("holds no sweep to resume", where=out)
    if not resume and is_taken(out):
        raise UserError("exists and is not empty", where=out, allowed="another --out, or --resume to go on with it")
    if found.profile.data.root is not None and not _shards(found, out).is_dir():
        with _reader(found, scratch=out) as reader:
            reader.sources()


def sweep(found: Sweep, *, file: Path, out: Path, resume: bool) -> dict[str, str]:
    """Run what is missing of a sweep and record it in MLflow; Ray must be running.

    Args:
        found: the sweep.
        file: that it was read from, kept with it.
        out: the folder of the sweep.
        resume: whether to go on with what ``out`` holds.

    Returns:
        The trials that failed, by name, each with the reason.

    Raises:
        UserError: ``out`` is taken, or what the trials share cannot be made.
    """
    check_request(found, out, resume)
    parent = _parent(found, file, out, resume)
    with parent:
        shards, vae, evaluator = _shared(found, out, parent)
        _note_plan(found, out, vae, evaluator, {})
        orders = [_order(trial, out, shards, vae, evaluator, parent, found) for trial in found.trials]
        missing = [order for order in orders if not _finished(Path(order.folder))]
        failed = _run(found, missing, out) if missing else {}
        _note_plan(found, out, vae, evaluator, failed)
    return failed


def plan_table(found: Sweep) -> Table:
    """What a sweep would do: trials, rows, steps, parameters."""
    table = Table(title=f"{found.config.name}: {len(found.trials)} trials with profile {found.config.profile}")
    for name, side in (("trial", "left"), ("stands for", "left"), ("steps", "right"), ("trainable", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    table.add_column("active", justify="right")
    recordings = _training_recordings(found)
    for trial in found.trials:
        parameters = describe(trial.settings)["parameters"]
        rows = ", ".join(f"{number}: {row}" for number, row in trial.rows) or ", ".join(trial.points)
        training = trial.settings.train.denoiser
        steps = math.ceil(training.epochs * recordings / training.batch_size) if recordings else None
        sizes = (f"{parameters[name]:,}" for name in ("trainable", "active"))
        table.add_row(trial.name, rows, f"{steps:,}" if steps else "?", *sizes)
    return table


def _training_recordings(found: Sweep) -> int | None:
    """Recordings of the training split, as far as that is known before they are read."""
    if found.profile.data.format == "duet" and found.profile.data.root is None:
        return round(found.profile.data.count * 0.8)
    try:
        with _reader(found, scratch=Path()) as reader:
            return sum(source.split == "train" for source in reader.sources())
    except UserError:
        return None


def _reader(found: Sweep, scratch: Path) -> AbstractContextManager[Reader]:
    data = found.profile.data
    return reader_for(
        data.format,
        data.root,
        scratch=scratch,
        mapping=data.mapping,
        scale=data.scale,
        count=data.count,
        seed=data.seed,
    )


def _shards(found: Sweep, out: Path) -> Path:
    return out / "shared" / f"data-{_hash(found.profile.data.model_dump(mode='json'))}"


def _parent(found: Sweep, file: Path, out: Path, resume: bool) -> Run:
    if resume:
        before = json.loads((out / SWEEP_FILE).read_text("utf-8"))
        run = Run.reopen(before["tracking_uri"], before["run_id"])
        run.log_artifact(file)
        return run
    out.mkdir(parents=True, exist_ok=True)
    tags = {"intermoe.target": "sweep", "intermoe.out": str(out.resolve())}
    params = {"profile": found.config.profile, "trials": len(found.trials), **found.base.model_dump(mode="json")}
    run = Run.start(tracking_uri(), found.base.name, found.config.name, params, tags)
    run.log_artifact(file)
    document = {"name": found.config.name, "profile": found.config.profile, "run_id": run.id, "tracking_uri": run.uri}
    write_json(out / SWEEP_FILE, document)
    return run


def _note_plan(found: Sweep, out: Path, vae: Path, evaluator: Path, failed: Mapping[str, str]) -> None:
    """What a report needs to know; it may be asked for while trials are running."""
    trials = [
        {"key": trial.key, "points": trial.points, "seed": trial.seed, "rows": trial.rows} for trial in found.trials
    ]
    tables = {name: table.model_dump(mode="json") for name, table in found.config.tables.items()}
    note = json.loads((out / SWEEP_FILE).read_text("utf-8"))
    shared = {"vae": seconds(vae), "evaluator": seconds(evaluator)}
    note |= {"trials": trials, "tables": tables, "seconds_shared": shared, "failed": dict(failed)}
    write_json(out / SWEEP_FILE, note)


def _shared(found: Sweep, out: Path, parent: Run) -> tuple[Path, Path, Path]:
    """Shards, VAE and evaluator, made where they are missing."""
    base, data = found.base, found.profile.data
    shared, shards = out / "shared", _shards(found, out)
    if not shards.is_dir():
        with _reader(found, scratch=shared) as reader, Stages() as stages:
            preprocess(
                reader,
                name=found.config.name,
                out=shards,
                encoder=data.encoder,
                text_folder=data.text_folder,
                progress=stages,
            )
    check_split(DatasetFolder.open(shards), base.evaluation, "test")
    card = sha256(shards / CARD)
    values = base.model_dump(mode="json")
    networks = []
    for target in ("vae", "evaluator"):
        parts = [card, base.seed, values["data"], values[target], values["train"][target]]
        if target == "evaluator":  # whose best checkpoint is the best at finding the own caption in a pool
            parts.append(values["evaluation"]["pool"])
        folder = shared / f"{target}-{_hash(parts)}"
        if not done(folder):
            before = run_file(folder)
            with timed(folder):
                train(
                    target,
                    # The folder's hash has what decides its result; what else has changed since, it need not know.
                    Settings.parse(before["settings"] | {"workers": values["workers"]}) if before else base,
                    dataset=shards,
                    out=folder,
                    text_folder=data.text_folder,
                    resume=bool(before),
                    label=Label(tags={"intermoe.sweep": parent.id}),
                )
            mark_done(folder)
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


def _run(found: Sweep, orders: Sequence[Order], out: Path) -> dict[str, str]:
    """Let Tune run the trials; those that failed, each with the reason."""
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
        with Watch(orders, board):
            grid = tuner.fit()
    except KeyboardInterrupt:
        for order in orders:
            if not _finished(Path(order.folder)):
                _end_run(order)
        raise KeyboardInterrupt("`--resume` does what is missing") from None
    failed = {}
    for result in (grid[number] for number in range(len(grid))):
        ran = by_key[(result.config or {})["trial"]]
        if _finished(Path(ran.folder)):
            continue
        if result.error is not None or found.profile.asha is None:
            reason = str(result.error or "it ended without a result").strip().splitlines()[-1]
            failed[ran.name] = reason
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
        metric=f"validation/{DenoiserObjective.watched}",
        mode="min",
        max_t=10**9,
        grace_period=asha.grace_steps,
        reduction_factor=asha.reduction,
    )


def _note_stopped(order: Order, step: int | None) -> None:
    """A trial that was behind the others: its run ends, and it is not asked for again."""
    write_json(Path(order.folder) / STOPPED, {"step": step})
    _end_run(order, {"intermoe.stopped": f"behind the others at step {step}"})


def _end_run(order: Order, tags: Mapping[str, str] = MappingProxyType({})) -> None:
    """Note in MLflow that a trial was ended, which its own process did not live to do."""
    run_id = run_file(Path(order.folder) / "denoiser").get("run_id")
    if run_id:
        run = Run(order.tracking_uri, run_id)
        run.set_tags(tags)
        run.finish("KILLED")


def _finished(folder: Path) -> bool:
    return (folder / OUTCOME).is_file() or (folder / STOPPED).is_file()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
