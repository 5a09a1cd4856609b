"""From shards to a trained network: opens the MLflow run and lets Ray Train do the work."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from intermoe import checkpoint
from intermoe.data.card import CARD
from intermoe.errors import UserError
from intermoe.files import check_free, make_folder, sha256
from intermoe.generation import best_device
from intermoe.locks import locked
from intermoe.places import Place, is_remote
from intermoe.render.page import write_page
from pipelines.cluster.progress import Progress, progress_board
from pipelines.environment import environment_of
from pipelines.generate import save_routing_map
from pipelines.tracking.address import MlflowSilent
from pipelines.tracking.runs import Run
from pipelines.tracking.writer import MEASURED
from pipelines.train.examples import example_motions, example_scenes
from pipelines.train.process_group import ProcessGroupConfig
from pipelines.train.request import TrainingJob
from pipelines.train.restarts import MAX_RESTARTS, ReportRestarts, failure, is_lost, is_out_of_room, user_error
from pipelines.train.routing_history import log_routing
from pipelines.train.run_folder import note_run, resumable_step, run_identity, run_note
from pipelines.train.scaling import Trainer
from pipelines.train.worker import work

_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
# A trial that begins while MLflow is away does not fail for that; who types a command learns it at once.
_START_SECONDS, _PAUSE_SECONDS = 600.0, 5.0


def train(job: TrainingJob, *, board: Any = None, callbacks: Sequence[Any] = ()) -> str:
    """Train one network and record it in MLflow; Ray must be running.

    Args:
        job: from :meth:`TrainRequest.checked`.
        board: a ``ProgressBoard`` that somebody else shows; without it, progress is shown here.
        callbacks: of Ray Train; they hear of every validation.

    Returns:
        The id of the MLflow run.

    Raises:
        UserError: another process works in the folder, the store does not answer, the folder cannot be made, the loss
            is not finite, or workers were lost too often.
    """
    request, card = job.request, job.card
    with locked(request.out), _reopened(job) if request.resume else _started(job, board) as run:
        profile = card.recordings | {"frames": card.frames, "quarantined": card.quarantined}
        digest = sha256(request.dataset / CARD)[:16]
        run.log_dataset(card.name, digest, str(request.dataset), profile=profile, context="training")
        run.describe(_description(job))
        run.log_dict(request.settings.model_dump(mode="json"), "config.json")
        run.measure_system()
        if board is not None:
            _fit(job, run, board, callbacks)
        else:
            with progress_board() as own, Progress(own, f"train {request.target}", key=str(request.out)):
                _fit(job, run, own, callbacks)
        best = request.out / "best"
        run.log_checkpoint(best, checkpoint.documents(best)["state"]["step"], {})
        example = _log_examples(job, run)
        maps = map(run.picture, log_routing(run, request.out))
        run.describe("\n\n".join([_description(job), example, MEASURED, *maps]))
    return run.id


def _description(job: TrainingJob) -> str:
    """What the run is, as Markdown."""
    request, card = job.request, job.card
    settings, training = request.settings, getattr(request.settings.train, request.target)
    recordings = card.recordings["train"]
    vae = f" Its VAE: `{request.vae}`." if request.vae else ""
    return (
        f"Training of the **{request.target}** of `{settings.name}` on `{card.name}`: {recordings:,} recordings, "
        f"{training.epochs:g} epochs, {training.batch_size} samples per step, {settings.workers.count} workers."
        f"{vae}\n\nFolder: `{request.out}`. All settings: `config.json` among the artifacts."
    )


def _log_examples(job: TrainingJob, run: Run) -> str:
    """Add a few motions that show what the network has learned, and a page of them; the last one as Markdown."""
    shown = ""
    with tempfile.TemporaryDirectory() as folder:
        # The driver may have no GPU where its workers have.
        device = best_device() if job.request.settings.workers.gpu else "cpu"
        best = job.request.out / "best"
        examples = example_motions(job.request.target, best, job.request.dataset, device)
        for name, example in examples.items():
            files = [
                *example.motion.save(Path(folder) / f"{name}.gif"),
                *example.motion.save(Path(folder) / f"{name}.png"),
            ]
            if example.routing is not None:
                files.append(save_routing_map(example.motion, example.routing, Path(folder) / f"{name}.routing.png"))
            for file in files:
                run.log_artifact(file, "samples")
            caption = example.motion.caption
            shown = f"{run.picture(f'samples/{files[0].name}', name)}\n\n*{caption}*"
        label = "reconstructed" if job.request.target == "vae" else "generated"
        if scenes := example_scenes(examples.values(), label):
            page = Path(folder) / "page.html"
            write_page(scenes, page, title=f"{job.request.settings.name}: {job.request.target}")
            run.log_artifact(page, "samples")
            shown += f"\n\nIn 3D, beside what was recorded: `samples/{page.name}` among the artifacts."
    return shown


def _fit(job: TrainingJob, run: Run, board: Any, callbacks: Sequence[Any]) -> None:
    request, workers = job.request, job.request.settings.workers
    key = str(request.out)
    ray.get(board.begin.remote(key))
    # Workers that are started again wait for a place as long as the job did at its begin.
    patience = os.environ.get(_START_TIMEOUT) or str(60 * max(1, workers.wait_minutes))
    # Ray Train's notes on a run, which only its controller reads, in this process's node. All that is needed to go on
    # is in the checkpoints, of which it knows nothing.
    with tempfile.TemporaryDirectory(prefix="intermoe-ray-train-") as notes:
        trainer = Trainer(
            work,
            request=request,
            board=board,
            train_loop_config={"job": job, "run_id": run.id, "board": board, "reports": bool(callbacks)},
            torch_config=ProcessGroupConfig(),
            run_config=RunConfig(
                name=f"{request.settings.name}-{request.target}-{run.id}",
                storage_path=notes,
                callbacks=[*callbacks, ReportRestarts(request, board)],  # type: ignore[list-item]
                failure_config=FailureConfig(
                    max_failures=MAX_RESTARTS,
                    controller_failure_limit=MAX_RESTARTS,  # type: ignore[call-arg]
                ),
            ),
        )
        try:
            with environment_of(**{_START_TIMEOUT: patience}), _interruptible(request.out):
                trainer.fit()
        except WorkerGroupError as error:
            for cause in error.worker_failures.values():
                if mistake := user_error(cause):
                    raise UserError(str(mistake)) from None
            if is_lost(error):
                raise UserError(f"{failure(error)}; {_goes_on(request.out)}", where=f"train {request.target}") from None
            raise
        except ControllerError as error:
            if is_out_of_room(error):
                raise UserError(f"{failure(error)}; {_goes_on(request.out)}") from None
            raise
    given_up = ray.get(board.failure.remote(key))
    if given_up:
        raise UserError(given_up, where=f"train {request.target}")


@contextmanager
def _interruptible(out: Place) -> Iterator[None]:
    """Ctrl-C ends the block as ``KeyboardInterrupt`` with what to do next; Ray would leave the process with code 0."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise KeyboardInterrupt(_goes_on(out)) from None
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)


def _goes_on(out: Place) -> str:
    """What a run that has ended early goes on from."""
    try:
        step = f"step {resumable_step(out)}"
    except UserError:
        step = "its newest whole checkpoint"
    return f"`--resume` goes on from {step}"


def _started(job: TrainingJob, board: Any) -> Run:
    """A new run in MLflow and its folder; for a job that somebody else shows on a board, MLflow may be away a while."""
    request, label = job.request, job.request.label
    # Again: the job may have waited for its workers since it was checked.
    check_free(request.out)
    make_folder(request.out)
    tags = {"intermoe.target": request.target, "intermoe.out": str(request.out), **label.tags}
    if request.vae:
        vae_run = str(run_note(request.vae.parent).get("run_id", ""))
        tags |= {"intermoe.vae": str(request.vae), "intermoe.vae_run": vae_run}
    start = partial(
        Run.start,
        request.site.tracking_uri,
        request.settings.name,
        label.name or request.target,
        params=request.settings.model_dump(mode="json"),
        tags=tags,
        parent=label.parent,
        folder=request.out,
    )
    try:
        run = start() if board is None else _patiently(start, board, str(request.out))
    except BaseException:
        if not is_remote(request.out):
            request.out.rmdir()
        raise
    identity = run_identity(request.target, request.settings, request.dataset, request.vae)
    note_run(request.out, run_id=run.id, tracking_uri=run.uri, data=request.dataset, identity=identity)
    return run


def _patiently(start: Callable[[], Run], board: Any, key: str) -> Run:
    """Start a run; where MLflow does not answer, say so once on the board, and try again for some minutes."""
    latest, told = time.monotonic() + _START_SECONDS, False
    while True:
        try:
            return start()
        except MlflowSilent as error:
            if time.monotonic() > latest:
                raise
            if not told:
                board.note.remote(f"train: {error}; asking again for up to {_START_SECONDS / 60:.0f} minutes", key)
                told = True
        time.sleep(_PAUSE_SECONDS)


def _reopened(job: TrainingJob) -> Run:
    out = job.request.out
    return Run.reopen(job.request.site.tracking_uri, run_note(out)["run_id"], out)
