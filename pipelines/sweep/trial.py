"""One trial of a sweep, as a Tune function: train the denoiser, evaluate it, write down what came out.

It runs in a process of Tune's. Everything it makes lies in the trial's folder, and each step is left out where it is
done already: a trial that is asked for again goes on where it was.
"""

import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any

from ray.tune.integration.ray_train import TuneReportCallback

from intermoe.errors import UserError, UserNote
from intermoe.files import contents, digest, discard, read_note, write_note
from intermoe.places import Place, is_file, is_folder
from pipelines.describe import describe
from pipelines.evaluate.evaluate import evaluate
from pipelines.evaluate.request import EvaluateRequest
from pipelines.settings import Settings
from pipelines.site import Site
from pipelines.tracking.label import RunLabel
from pipelines.train.request import TrainRequest
from pipelines.train.run_folder import as_begun, run_note
from pipelines.train.train import train

# In a trial's folder: it came to its end; it was behind the others; it failed.
OUTCOME, STOPPED, FAILED = "trial.json", "stopped.json", "failed.json"
_NOTE_SECONDS = 5.0


@dataclass(frozen=True)
class TrialRequest:
    """A trial of a sweep: a denoiser to train and to evaluate.

    Attributes:
        key: of the trial: a hash of all that decides what it learns.
        settings: of its run.
        folder: of the trial.
        dataset: the folder of shards.
        vae: the run of the VAE, if its network has one.
        evaluator: the run of the evaluator.
        site: where things lie.
        label: of its run in MLflow.
    """

    key: str
    settings: Settings
    folder: Place
    dataset: Place
    vae: Place | None
    evaluator: Place
    site: Site
    label: RunLabel

    @property
    def name(self) -> str:
        """For people."""
        return self.label.name or self.key

    @property
    def evaluation(self) -> str:
        """Name of the folder of the evaluation: a hash of how it is made."""
        return f"evaluation-{digest([self.settings.evaluation.model_dump(mode='json'), self.evaluator.name])}"

    @property
    def training(self) -> TrainRequest:
        """The training of its denoiser."""
        return TrainRequest(
            "denoiser",
            self.settings,
            dataset=self.dataset,
            out=self.folder / "denoiser",
            site=self.site,
            vae=self.vae,
            label=self.label,
        )

    def evaluating(self, run_id: str, step: int) -> EvaluateRequest:
        """The evaluation of what was trained, recorded in the trial's own run."""
        values = self.settings.model_dump(mode="json")
        return EvaluateRequest(
            self.training.out,
            out=self.folder / self.evaluation,
            site=self.site,
            dataset=self.dataset,
            evaluator=self.evaluator,
            # Not those that the model was stored with: they may have changed since it was trained.
            overrides={name: values[name] for name in ("evaluation", "workers")},
            rows=("recorded", "generated", "raw"),
            run_id=run_id,
            run_folder=self.training.out,
            step=step,
        )


def run_trial(trial: TrialRequest, board: Any) -> None:
    """Do what is not done yet of a trial, posting progress to a ``ProgressBoard``."""
    training = trial.training
    if not done(training.out):
        train_to_the_end(training, board=board, callbacks=[TuneReportCallback()])
    run_id = run_note(training.out)["run_id"]
    earlier = sum(fnmatch(file.name, "evaluation-*.done") for file in contents(trial.folder))
    evaluation = trial.evaluating(run_id, earlier)
    if not done(evaluation.out):
        # Results without a note: the process ended before MLflow had them all.
        discard(evaluation.out)

        def show(_stage: str, count: int, total: int) -> None:
            board.post.remote(count, total, {}, "evaluate", key=str(training.out))

        with timed(evaluation.out):
            evaluate(evaluation.checked(), progress=show)
        mark_done(evaluation.out)
    outcome = {
        "key": trial.key,
        "run": run_id,
        "evaluation": trial.evaluation,
        "parameters": describe(trial.settings)["parameters"],
        "seconds_training": seconds(training.out),
        "seconds_evaluating": seconds(evaluation.out),
    }
    write_note(trial.folder / OUTCOME, outcome)


def train_to_the_end(request: TrainRequest, *, board: Any = None, callbacks: Sequence[Any] = ()) -> None:
    """Train into a folder, or go on with what has begun there, and note that it is done.

    The folder is named by all that decides the result: what else has changed since it was begun does not matter.

    Args:
        request: of a training that begins now.
        board: as for ``train``.
        callbacks: as for ``train``.
    """
    begun = bool(run_note(request.out))
    if not begun and is_folder(request.out):
        # What a process left that was killed before anything had begun. A file there is somebody's.
        discard(request.out)
    with timed(request.out):
        request = replace(request, settings=as_begun(request.settings, request.out), resume=begun)
        train(request.checked(), board=board, callbacks=callbacks)
    mark_done(request.out)


def done(folder: Place) -> bool:
    """Whether the step that makes the folder is done."""
    return is_file(folder.with_name(f"{folder.name}.done"))


def mark_done(folder: Place) -> None:
    """Note that the step that makes the folder is done."""
    write_note(folder.with_name(f"{folder.name}.done"), {})


@contextmanager
def timed(folder: Place) -> Iterator[None]:
    """Add up what the step that makes the folder takes, over all attempts.

    It is noted every few seconds, so that little is lost with a process that is killed.
    """
    before, began, ended = seconds(folder), time.monotonic(), threading.Event()

    def note() -> None:
        last = False
        while not last:
            last = ended.wait(_NOTE_SECONDS)
            # A storage that does not answer for a moment stops no clock.
            with suppress(UserError):
                write_note(_clock(folder), {"seconds": before + time.monotonic() - began})

    thread = threading.Thread(target=note, name="clock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def seconds(folder: Place) -> float:
    """The seconds that a step of a trial has taken so far, by its folder."""
    try:
        return float(read_note(_clock(folder)).get("seconds", 0))
    except UserError as error:
        # A clock stops no trial.
        warnings.warn(UserNote(f"{error}; the time before is not counted"), stacklevel=2)
        return 0.0


def _clock(folder: Place) -> Place:
    return folder.with_name(f"{folder.name}.seconds")
