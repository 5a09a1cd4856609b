"""From shards to a trained network: checks what is asked for, opens the MLflow run, lets Ray Train do the work."""

import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer

from intermoe import checkpoint
from intermoe.data.shards import CARD, DatasetCard, DatasetFolder
from intermoe.errors import UserError
from intermoe.files import is_taken, sha256, write_json
from intermoe.model import VAE_PARTS, trained_folder
from intermoe.text.encoders import encoder_width
from pipelines.cluster.progress import Progress, ProgressBoard
from pipelines.generate import save_routing_map
from pipelines.settings import Settings
from pipelines.tracking.address import tracking_uri
from pipelines.tracking.runs import Run
from pipelines.train.examples import example_motions
from pipelines.train.objectives import OBJECTIVES
from pipelines.train.run_folder import _RUN_FILE, _check_same, _identity, resumable_step, run_file
from pipelines.train.worker import Job, work

# Ray restarts the workers from the newest checkpoint so often before it gives up.
_RESTARTS = 2


@dataclass(frozen=True)
class Label:
    """By what a training is found in MLflow.

    Attributes:
        name: of the run; the target if None.
        parent: the run that it belongs to.
        tags: beside its own.
        uri: of the MLflow store; that of this process if None.
    """

    name: str | None = None
    parent: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    uri: str | None = None


def train(
    target: str,
    settings: Settings,
    *,
    dataset: Path,
    out: Path,
    vae: Path | None = None,
    text_folder: Path | None = None,
    resume: bool = False,
    label: Label | None = None,
    board: Any = None,
    callbacks: Sequence[Any] = (),
) -> str:
    """Train one network and record it in MLflow; Ray must be running.

    Args:
        target: "vae", "evaluator" or "denoiser".
        settings: of the run.
        dataset: a folder of shards.
        out: the folder of the run; ``best`` in it is the model, ``checkpoints`` what a resumed run goes on from.
        vae: the run or checkpoint of the VAE, which the denoiser needs.
        text_folder: where CLIP's weights lie, for an evaluator that reads its tokens, if not in the hub's cache.
        resume: go on with what ``out`` holds.
        label: of its run in MLflow.
        board: a ``ProgressBoard`` that somebody else shows; without it, progress is shown here.
        callbacks: of Ray Train; they hear of every validation.

    Returns:
        The id of the MLflow run.

    Raises:
        UserError: the data set does not fit the settings, ``out`` exists, or the loss is not finite.
    """
    card, vae = check_request(target, settings, dataset, out, vae, resume)
    run = _reopened(out) if resume else _started(target, settings, dataset, out, vae, label or Label())
    values = settings.model_dump(mode="json")
    job = Job(
        target=target,
        settings=values,
        dataset=str(dataset.resolve()),
        out=str(out.resolve()),
        vae=str(vae) if vae else None,
        text_folder=str(text_folder.resolve()) if text_folder else None,
        tracking_uri=run.uri,
        run_id=run.id,
        reports=bool(callbacks),
    )
    with run:
        profile = card.recordings | {"frames": card.frames, "quarantined": card.quarantined}
        run.log_dataset(card.name, sha256(dataset / CARD)[:16], str(dataset.resolve()), profile, "training")
        run.log_dict(values, "config.json")
        run.measure_system()
        _fit(job, settings, board, callbacks)
        best = out / "best"
        state = checkpoint.load(best).documents["state"]
        run.log_checkpoint(best, state["step"], {})
        with tempfile.TemporaryDirectory() as folder:
            for name, example in example_motions(target, best, dataset).items():
                files = [
                    *example.motion.save(Path(folder) / f"{name}.gif"),
                    *example.motion.save(Path(folder) / f"{name}.png"),
                ]
                if example.routing is not None:
                    files.append(
                        save_routing_map(example.motion, example.routing, Path(folder) / f"{name}.routing.png")
                    )
                for file in files:
                    run.log_artifact(file, "samples")
    return run.id


def check_request(
    target: str, settings: Settings, dataset: Path, out: Path, vae: Path | None, resume: bool
) -> tuple[DatasetCard, Path | None]:
    """Look whether such a training can begin, without Ray and without writing anything; arguments as for ``train``.

    Returns:
        The card of the data set, and the checkpoint of the VAE where the target needs one.

    Raises:
        UserError: it cannot.
    """
    if target not in OBJECTIVES:
        raise UserError(f"unknown target {target!r}", allowed=", ".join(OBJECTIVES))
    card = DatasetFolder.open(dataset).card
    _check_dataset(settings, card, dataset)
    before = run_file(out)
    if target != "denoiser":
        vae = None
    elif vae is None and resume and before:
        vae = Path(before["vae"])
    if target == "denoiser":
        vae = _check_vae(settings, vae)
    if resume:
        _check_same(_identity(target, settings, dataset, vae), before, out)
    elif is_taken(out):
        raise UserError(
            "exists and is not empty", where=out, allowed="a new folder, or --resume to go on with this one"
        )
    return card, vae


def _fit(job: Job, settings: Settings, shown: Any, callbacks: Sequence[Any]) -> None:
    workers = settings.workers
    # Ray Train's notes on a run; all that is needed to go on is in the checkpoints.
    notes = Path(job.out) / "ray"
    shutil.rmtree(notes, ignore_errors=True)
    board = shown or ProgressBoard.remote()  # type: ignore[attr-defined]
    ray.get(board.begin.remote(job.out))
    trainer = TorchTrainer(
        work,
        train_loop_config={"job": job, "board": board},
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpu,
            resources_per_worker={"CPU": workers.cpus} | ({"GPU": 1} if workers.gpu else {}),
        ),
        run_config=RunConfig(
            name=f"{settings.name}-{job.target}-{job.run_id}",
            storage_path=str(notes),
            callbacks=list(callbacks),
            failure_config=FailureConfig(max_failures=_RESTARTS, controller_failure_limit=_RESTARTS),  # type: ignore[call-arg]
        ),
    )
    try:
        progress = nullcontext() if shown else Progress(board, f"train {job.target}", key=job.out)
        with progress, _interruptible(Path(job.out)):
            trainer.fit()
    except WorkerGroupError as error:
        for cause in error.worker_failures.values():
            inner: BaseException | None = cause
            while inner is not None and not isinstance(inner, UserError):
                inner = getattr(inner, "cause", None) or inner.__cause__
            if inner is not None:
                raise UserError(str(inner)) from None
        raise
    finally:
        shutil.rmtree(notes, ignore_errors=True)
    failure = ray.get(board.failure.remote(job.out))
    if failure:
        raise UserError(failure, where=f"train {job.target}")


@contextmanager
def _interruptible(out: Path) -> Iterator[None]:
    """Ctrl-C ends the block as ``KeyboardInterrupt`` with what to do next; Ray would leave the process with code 0."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise KeyboardInterrupt(f"`--resume` goes on from step {resumable_step(out)}") from None
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)


def _check_dataset(settings: Settings, card: DatasetCard, dataset: Path) -> None:
    """Raise where the data set is not what the settings describe."""
    data = settings.data
    for key, wanted, found in (
        ("data.skeleton", data.skeleton, card.skeleton),
        ("data.encoder", data.encoder, card.encoder.name),
        ("text width", encoder_width(data.encoder), card.encoder.width),
    ):
        if wanted != found:
            raise UserError(
                f"{key} of the data set is {found!r}", where=dataset, allowed=f"{wanted!r}, as in the config"
            )
    if not card.recordings.get("train"):
        raise UserError("the training split is empty", where=dataset)


def _check_vae(settings: Settings, path: Path | None) -> Path:
    """The VAE's checkpoint, after a look whether it is one and has the sizes of the config."""
    if path is None:
        raise UserError("the denoiser needs a trained VAE", where="--vae", allowed="a run of `intermoe train vae`")
    folder = trained_folder(path)
    saved = checkpoint.load(folder)
    missing = [part for part in VAE_PARTS if part not in saved.tensors]
    if missing:
        raise UserError(f"holds no {' and no '.join(missing)}", where=folder, allowed="a run of `intermoe train vae`")
    for key in ("data", "vae"):
        found, wanted = saved.documents["config"][key], settings.model_dump(mode="json")[key]
        for name in wanted:
            # A VAE knows nothing of text, nor of how long a motion is.
            if name not in ("encoder", "max_frames", "dropout") and found.get(name) != wanted[name]:
                raise UserError(
                    f"{key}.{name} of the VAE is {found.get(name)!r}",
                    where=folder,
                    allowed=f"{wanted[name]!r}, as in the config",
                )
    return folder.resolve()


def _started(
    target: str,
    settings: Settings,
    dataset: Path,
    out: Path,
    vae: Path | None,
    label: Label,
) -> Run:
    """A new run in MLflow and its folder."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be made: {error.strerror}", where=out) from None
    tags = {"intermoe.target": target, "intermoe.out": str(out.resolve()), **label.tags}
    if vae:
        tags |= {"intermoe.vae": str(vae), "intermoe.vae_run": str(run_file(vae.parent).get("run_id", ""))}
    try:
        values = settings.model_dump(mode="json")
        uri = label.uri or tracking_uri()
        run = Run.start(uri, settings.name, label.name or target, values, tags, label.parent)
    except BaseException:
        out.rmdir()
        raise
    document = {"run_id": run.id, "tracking_uri": run.uri, "vae": str(vae) if vae else None}
    document |= {"data": str(dataset.resolve())}
    document |= _identity(target, settings, dataset, vae)
    write_json(out / _RUN_FILE, document)
    return run


def _reopened(out: Path) -> Run:
    before = run_file(out)
    return Run.reopen(before["tracking_uri"], before["run_id"])
