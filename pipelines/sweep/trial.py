"""One trial of a sweep, as a Tune function: train the denoiser, evaluate it, write down what came out.

It runs in a process of Tune's. Everything it makes lies in the trial's folder, and each step is left out where it is
done already: a trial that is asked for again goes on where it was.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.integration.ray_train import TuneReportCallback

from intermoe.files import write_json
from pipelines.describe import describe
from pipelines.evaluate.evaluate import check_request, evaluate
from pipelines.settings import Settings, flatten
from pipelines.train.run_folder import as_begun, run_file
from pipelines.train.train import Label, train

# In a trial's folder: it came to its end; it was behind the others; it failed.
OUTCOME, STOPPED, FAILED = "trial.json", "stopped.json", "failed.json"
_NOTE_SECONDS = 5.0


@dataclass(frozen=True)
class Order:
    """What a trial is told; plain values, to be sent to other processes.

    Attributes:
        key: of the trial.
        name: of its run in MLflow.
        settings: all settings.
        folder: of the trial.
        dataset: the folder of shards.
        vae: the run of the VAE.
        evaluator: the run of the evaluator.
        evaluation: name of the folder of the evaluation.
        text_folder: of CLIP's weights, if not in the hub's cache.
        tracking_uri: of MLflow.
        parent: the sweep's run.
        tags: of the trial's run.
    """

    key: str
    name: str
    settings: dict[str, Any]
    folder: str
    dataset: str
    vae: str
    evaluator: str
    evaluation: str
    text_folder: str | None
    tracking_uri: str
    parent: str
    tags: dict[str, str]


def run_trial(config: dict[str, Any]) -> None:
    """Do what is not done yet; ``config`` holds ``order`` and the ``board`` that progress is posted to."""
    order: Order = config["order"]
    board: Any = config["board"]
    os.environ["MLFLOW_TRACKING_URI"] = order.tracking_uri
    settings, folder = Settings.parse(order.settings), Path(order.folder)
    text_folder = Path(order.text_folder) if order.text_folder else None
    trained, evaluated = folder / "denoiser", folder / order.evaluation
    if not done(trained):
        train_to_the_end(
            "denoiser",
            settings,
            trained,
            dataset=Path(order.dataset),
            vae=Path(order.vae),
            text_folder=text_folder,
            label=Label(order.name, order.parent, order.tags),
            board=board,
            callbacks=[TuneReportCallback()],
        )
    run_id = run_file(trained)["run_id"]
    if not done(evaluated):
        # Results without a note: the process ended before MLflow had them all.
        shutil.rmtree(evaluated, ignore_errors=True)

        def show(_stage: str, count: int, total: int) -> None:
            board.post.remote(count, total, {}, "evaluate", key=str(trained))

        wanted = check_request(
            trained,
            dataset=Path(order.dataset),
            evaluator=order.evaluator,
            # Not those that the model was stored with: they may have changed since it was trained.
            overrides=[
                f"{name}={json.dumps(value)}"
                for name, value in flatten(order.settings).items()
                if name.startswith(("evaluation.", "workers."))
            ],
            rows=("real", "generated"),
            text_folder=text_folder,
        )
        earlier = len(list(folder.glob("evaluation-*.done")))
        with timed(evaluated):
            evaluate(wanted, out=evaluated, progress=show, run_id=run_id, step=earlier)
        mark_done(evaluated)
    outcome = {
        "key": order.key,
        "run": run_id,
        "evaluation": order.evaluation,
        "parameters": describe(settings)["parameters"],
        "seconds_training": seconds(trained),
        "seconds_evaluating": seconds(evaluated),
    }
    write_json(folder / OUTCOME, outcome)


def train_to_the_end(target: str, settings: Settings, folder: Path, **options: Any) -> None:
    """Train into a folder, or go on with what has begun there, and note that it is done.

    The folder is named by all that decides the result: what else has changed since it was begun does not matter.

    Args:
        target: as for ``train``.
        settings: of a training that begins now.
        folder: of the run.
        options: the others of ``train``.
    """
    begun = bool(run_file(folder))
    if not begun:
        # What a process left that was killed before anything had begun.
        shutil.rmtree(folder, ignore_errors=True)
    with timed(folder):
        train(target, as_begun(settings, folder), out=folder, resume=begun, **options)
    mark_done(folder)


def done(folder: Path) -> bool:
    """Whether the step that makes the folder is done."""
    return folder.with_name(f"{folder.name}.done").is_file()


def mark_done(folder: Path) -> None:
    """Note that the step that makes the folder is done."""
    write_json(folder.with_name(f"{folder.name}.done"), {})


@contextmanager
def timed(folder: Path) -> Iterator[None]:
    """Add up what the step that makes the folder takes, over all attempts.

    It is noted every few seconds, so that little is lost with a process that is killed.
    """
    before, began, ended = seconds(folder), time.monotonic(), threading.Event()

    def note() -> None:
        last = False
        while not last:
            last = ended.wait(_NOTE_SECONDS)
            write_json(_clock(folder), {"seconds": before + time.monotonic() - began})

    thread = threading.Thread(target=note, name="clock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def seconds(folder: Path) -> float:
    """What the step that makes the folder has taken so far."""
    clock = _clock(folder)
    return float(json.loads(clock.read_text("utf-8"))["seconds"]) if clock.is_file() else 0.0


def _clock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.seconds")
