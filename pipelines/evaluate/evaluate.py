"""From a trained model to a table: what its motions are worth beside recorded ones, with 95% intervals.

Ray Data hands the jobs of the plan (intermoe/evaluation/protocol.py) to actors that hold the networks
(actor.py). What they computed waits in a folder beside ``out``: an evaluation that was interrupted
goes on when it is asked for again, and under its name it is whole.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.data

from intermoe import checkpoint
from intermoe.data.shards import CARD, DatasetFolder
from intermoe.errors import UserError
from intermoe.evaluation.evaluator import Evaluator
from intermoe.evaluation.protocol import GENERATING, ROWS, EvaluationJob, Row, score
from intermoe.evaluation.runner import EvaluationSpec, read_parts
from intermoe.files import is_taken, sha256, write_json
from intermoe.model import InterMoE, trained_folder
from intermoe.text.encoders import load_encoder
from pipelines import settings
from pipelines.cluster.session import quiet_data
from pipelines.evaluate.actor import EvaluationActor
from pipelines.evaluate.results import Results, publish
from pipelines.settings import Settings
from pipelines.tracking.address import tracking_uri
from pipelines.tracking.queries import model_folder, names_run, trained_on
from pipelines.tracking.runs import Run
from pipelines.train.run_folder import run_file

_PLAN, _PARTS = "plan.json", "parts"


@dataclass(frozen=True)
class Evaluation:
    """A request that was looked through, and what it was made of."""

    request: EvaluationSpec
    settings: Settings
    jobs: Sequence[EvaluationJob]
    about: Mapping[str, Any]
    model_run: str | None


def check_request(
    model: str | Path,
    *,
    dataset: Path | None = None,
    evaluator: str | Path | None = None,
    overrides: Sequence[str] = (),
    split: str = "test",
    rows: Sequence[Row] = ROWS,
    seed: int = 0,
    guidance: float | None = None,
    text_folder: Path | None = None,
) -> Evaluation:
    """Look whether such an evaluation can be made, without Ray and without writing anything.

    Args:
        model: run or checkpoint of a denoiser, or the id of its MLflow run.
        dataset: folder of shards; that which the model was trained on if None.
        evaluator: run or checkpoint of an evaluator, or the id of its run; ``runs/NAME/evaluator`` if None.
        overrides: ``key=value`` for the settings that are stored with the model, of ``evaluation`` and ``workers``.
        split: whose recordings and captions are used.
        rows: which rows of the table are wanted.
        seed: of all that is drawn.
        guidance: scale of classifier-free guidance; the model's own if None.
        text_folder: where CLIP's tokenizer lies, if not in the hub's cache.

    Raises:
        UserError: something is missing, or does not fit together.
    """
    if seed < 0:
        raise UserError(f"seed {seed}", allowed="0 or more")
    folder = trained_folder(model_folder(model)).resolve()
    loaded = InterMoE.load(folder)
    stored = checkpoint.documents(folder)["config"]
    values = settings.overridden(stored, _allowed(overrides), where=folder)
    noted = run_file(folder.parent)
    if names_run(model):
        noted = {"run_id": str(model), "data": trained_on(str(model))}
    if dataset is None and noted.get("data"):
        dataset = Path(noted["data"])
    if dataset is None:
        raise UserError("it is not noted which data the model was trained on", where=folder, allowed="--data DIR")
    data = DatasetFolder.open(dataset)
    evaluator = evaluator or Path("runs") / values.name / "evaluator"
    judge_folder = trained_folder(model_folder(evaluator)).resolve()
    judge = Evaluator.load(judge_folder)
    for who, where, found in (("model", folder, loaded.config.data), ("evaluator", judge_folder, judge.data)):
        for key, wanted in (("skeleton", data.card.skeleton), ("encoder", data.card.encoder.name)):
            if getattr(found, key) != wanted:
                raise UserError(
                    f"data.{key} of the {who} is {getattr(found, key)!r}",
                    where=where,
                    allowed=f"{wanted!r}, as in {dataset}",
                )
    if judge.config.text == "tokens":
        load_encoder("clip", text_folder)
    request = EvaluationSpec(
        model=str(folder),
        evaluator=str(judge_folder),
        dataset=str(data.path),
        split=split,
        config=values.evaluation,
        rows=tuple(rows),
        seed=seed,
        guidance=guidance,
        text_folder=str(text_folder.resolve()) if text_folder else None,
        threads=values.workers.cpus,
        model_seed=values.seed,
    )
    jobs = request.jobs(loaded.config.data.max_frames, judge.data.persons)
    about = {
        "name": values.name,
        "model": str(folder),
        "model_sha256": sha256(folder / checkpoint.MANIFEST),
        "evaluator": str(judge_folder),
        "evaluator_sha256": sha256(judge_folder / checkpoint.MANIFEST),
        "data": str(data.path),
        "data_sha256": sha256(data.path / CARD),
        "split": split,
        "recordings": len(data.index(split).ids),
        "seed": seed,
        "guidance": loaded.config.diffusion.guidance if guidance is None else guidance,
        "threads": values.workers.cpus,
        "rows": list(rows),
        "evaluation": request.config.model_dump(mode="json"),
    }
    return Evaluation(request, values, jobs, about, noted.get("run_id"))


def evaluate(
    wanted: Evaluation,
    *,
    out: Path,
    progress: Callable[[str, int, int], None],
    parent: str | None = None,
    run_id: str | None = None,
    step: int = 0,
) -> Results:
    """Evaluate, write ``results.json``, ``results.md`` and ``results.html`` into ``out``, and record all in MLflow.

    Ray must be running. The number of workers (``workers.count``) changes nothing but the time.

    Args:
        wanted: from ``check_request``.
        out: the folder of the results; must not exist, or be empty.
        progress: told of a stage, how much of it is done, and of how much.
        parent: the MLflow run that this one belongs to.
        run_id: the MLflow run to record in; a new one if None.
        step: of what is measured in that run's curves: how many evaluations it had before.

    Raises:
        UserError: ``out`` is taken, or a half-made evaluation of something else lies beside it.
    """
    check_out(out)
    out = out.absolute()
    partial = out.with_name(f".{out.name}.partial")
    run = _begun(wanted, partial, parent, run_id)
    with run:
        try:
            seconds = _compute(wanted, partial / _PARTS, progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command goes on with what is done already") from None
        request, data = wanted.request, DatasetFolder.open(wanted.request.dataset)
        frame = score(
            data,
            wanted.settings.evaluation,
            wanted.jobs,
            read_parts(partial / _PARTS, wanted.jobs),
            seed=request.seed,
            split=request.split,
        )
        columns = {str(name): column for name, column in frame.items()}
        values = {
            row: {name: known.tolist() for name in columns if len(known := columns[name].xs(row).dropna())}
            for row in request.rows
        }
        results = Results(values=values, about={**wanted.about, "run": run.id})
        run.log_metrics(results.metrics() | {"seconds_generating": seconds}, step)
        for file in publish(results, partial, out, (_PARTS, _PLAN)):
            run.log_artifact(file)
        run.log_table(results.columns(), "results_table.json")
        if wanted.model_run is not None:
            run.log_evaluated(wanted.model_run, results.metrics("generated"), step)
    return results


def check_out(out: Path) -> None:
    """Raise where the folder of the results is taken."""
    if is_taken(out):
        raise UserError("exists already and is not overwritten", where=out, allowed="another --out")


def _allowed(overrides: Sequence[str]) -> Sequence[str]:
    for override in overrides:
        if not override.startswith(("evaluation.", "workers.", "evaluation=", "workers=")):
            key = override.partition("=")[0]
            raise UserError(f"{key} belongs to the model and cannot change", allowed="evaluation.*, workers.*")
    return overrides


def _begun(wanted: Evaluation, partial: Path, parent: str | None, run_id: str | None) -> Run:
    """The MLflow run of this evaluation: a new one, or that of the interrupted one that goes on."""
    try:
        (partial / _PARTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be made: {error.strerror}", where=partial) from None
    plan = partial / _PLAN
    # As JSON gives it back.
    identity = json.loads(json.dumps(dict(wanted.about)))
    if plan.is_file():
        before = json.loads(plan.read_text("utf-8"))
        if before["about"] != identity:
            raise UserError(
                "holds a half-made evaluation of something else", where=partial, allowed="delete it, or another --out"
            )
        return Run.reopen(before["tracking_uri"], before["run_id"])
    tags = {
        "intermoe.target": "evaluate",
        "intermoe.model": wanted.request.model,
        "intermoe.model_run": wanted.model_run or "",
        "intermoe.evaluator": wanted.request.evaluator,
    }
    if run_id is None:
        run = Run.start(tracking_uri(), wanted.settings.name, "evaluate", identity, tags, parent)
    else:
        run = Run.reopen(tracking_uri(), run_id)
    data = DatasetFolder.open(wanted.request.dataset)
    digest = wanted.about["data_sha256"][:16]
    profile = {str(split): count for split, count in data.card.recordings.items()}
    run.log_dataset(data.card.name, digest, str(data.path), profile, "evaluation")
    write_json(plan, {"about": identity, "run_id": run.id, "tracking_uri": run.uri})
    return run


def _compute(wanted: Evaluation, parts: Path, progress: Callable[[str, int, int], None]) -> float:
    """Do the jobs that are not done yet; the seconds from the first generation's begin to the last one's end."""
    jobs, workers = wanted.jobs, wanted.settings.workers
    todo = [number for number, job in enumerate(jobs) if not (parts / f"{job.name}.npz").is_file()]
    total = sum(len(job.samples) for job in jobs)
    done = total - sum(len(jobs[number].samples) for number in todo)
    progress("evaluate", done, total)
    if not todo:
        return 0.0
    began, ended = [], []
    with quiet_data():
        stream = ray.data.from_items([{"job": number} for number in todo], override_num_blocks=len(todo)).map_batches(
            EvaluationActor,
            fn_constructor_args=(wanted.request, str(parts.resolve()), workers.gpu),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers.count, max_tasks_in_flight_per_actor=2),
            num_cpus=workers.cpus,
            num_gpus=1 if workers.gpu else None,
        )
        for answer in stream.iter_rows():
            if answer["error"]:
                raise UserError(answer["error"])
            job = jobs[answer["job"]]
            if job.purpose in GENERATING:
                began.append(answer["began"])
                ended.append(answer["ended"])
            done += len(job.samples)
            progress("evaluate", done, total)
    return max(ended) - min(began) if ended else 0.0
