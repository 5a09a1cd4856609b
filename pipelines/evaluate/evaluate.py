"""From a trained model to a table: what its motions are worth beside recorded ones, with 95% intervals.

Ray Data hands the jobs of the plan (intermoe/evaluation/protocol.py) to actors that hold the networks
(actor.py). What they computed waits in a folder beside ``out``: an evaluation that was interrupted
goes on when it is asked for again, and under its name it is whole.
"""

import json

import ray.data

from intermoe.data.shards import DatasetFolder
from intermoe.errors import UserError
from intermoe.evaluation.metrics import MetricScales
from intermoe.evaluation.protocol import GENERATING
from intermoe.evaluation.runner import read_parts
from intermoe.evaluation.scoring import score
from intermoe.files import contents, discard, make_folder, read_note, remove_folder, write_note
from intermoe.locks import locked
from intermoe.places import Place, absolute
from pipelines.cluster.progress import ProgressCallback
from pipelines.cluster.session import quiet_data
from pipelines.evaluate.actor import EvaluationActor
from pipelines.evaluate.extremes import extreme_scenes
from pipelines.evaluate.recorded_row import recorded_tags
from pipelines.evaluate.request import PLAN, EvaluationPlan, check_out, partial_folder
from pipelines.evaluate.results import Results, description, publish
from pipelines.tracking.address import as_noted, shown
from pipelines.tracking.runs import Run

_PARTS = "parts"


def evaluate(plan: EvaluationPlan, *, progress: ProgressCallback) -> Results:
    """Evaluate, write the results into ``out`` (see ``publish``), and record all in MLflow.

    Ray must be running. The number of workers (``workers.count``) changes nothing but the time.

    Args:
        plan: from :meth:`EvaluateRequest.checked`.
        progress: called with a stage, how much of it is done, and of how much.

    Raises:
        UserError: another process works on ``out``, it has been taken since, or a half-made evaluation of something
            else lies beside it.
    """
    request = plan.request
    out = absolute(request.out)
    partial = partial_folder(out)
    with locked(out), _begun(plan, out, partial) as run:
        try:
            seconds = _compute(plan, partial / _PARTS, progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command goes on with what is done already") from None
        data = DatasetFolder.open(plan.spec.dataset)
        profile = {str(split): count for split, count in data.card.recordings.items()}
        digest = plan.about["data_sha256"][:16]
        run.log_dataset(data.card.name, digest, str(data.path), profile=profile, context="evaluation")
        parts = read_parts(partial / _PARTS, plan.jobs)
        values = score(
            data,
            plan.settings.evaluation,
            plan.jobs,
            parts,
            seed=request.seed,
            split=request.split,
            scales=MetricScales.parse(plan.about["scales"]),
        )
        results = Results(values=values, about={**plan.about, "run": run.id})
        run.log_metrics(results.metrics() | {"seconds_generating": seconds}, request.step)
        files = publish(results, out, extreme_scenes(plan, parts, partial / _PARTS))
        for file in files:
            run.log_artifact(file)
        run.log_table(results.columns(), "results_table.json")
        run.describe(description(results))
        run.set_tags(recorded_tags(results.recorded))
        if plan.model_run is not None:
            run.log_evaluated(plan.model_run, results.metrics("generated"), request.step)
        # Last: until then, the same command does all this again.
        if request.run_folder is None:
            run.move(out)
        remove_folder(partial)
    return results


def _begun(plan: EvaluationPlan, out: Place, partial: Place) -> Run:
    """The MLflow run of this evaluation: a new one, or that of the interrupted one that goes on."""
    request, uri = plan.request, plan.request.site.tracking_uri
    # Again: another process may have been at work since it was checked.
    check_out(out)
    make_folder(partial / _PARTS)
    note = partial / PLAN
    # As JSON gives it back.
    identity = json.loads(json.dumps(dict(plan.about)))
    if before := read_note(note):
        if before["about"] != identity:
            raise UserError(
                "holds a half-made evaluation of something else", where=partial, allowed="delete it, or another --out"
            )
        # It was killed before MLflow had the results: they are made again, of what is there.
        discard(out)
        return Run.reopen(as_noted(before["tracking_uri"], uri), before["run_id"], request.run_folder or partial)
    if request.run_id is None:
        tags = {
            "intermoe.target": "evaluate",
            "intermoe.model": plan.about["model"],
            "intermoe.model_run": plan.model_run or "",
            "intermoe.evaluator": plan.spec.evaluator,
            **request.label.tags,
        }
        name = request.label.name or "evaluate"
        run = Run.start(
            uri,
            plan.settings.name,
            name,
            params=identity,
            tags=tags,
            parent=request.label.parent,
            folder=partial,
        )
    else:
        run = Run.reopen(uri, request.run_id, request.run_folder or partial)
    write_note(note, {"about": identity, "run_id": run.id, "tracking_uri": shown(run.uri)})
    return run


def _compute(plan: EvaluationPlan, parts: Place, progress: ProgressCallback) -> float:
    """Do the jobs that are not done yet; the seconds from the first generation's begin to the last one's end."""
    jobs, workers = plan.jobs, plan.settings.workers
    there = {file.name for file in contents(parts)}
    todo = [number for number, job in enumerate(jobs) if f"{job.name}.npz" not in there]
    total = sum(len(job.samples) for job in jobs)
    done = total - sum(len(jobs[number].samples) for number in todo)
    progress("evaluate", done, total)
    if not todo:
        return 0.0
    began, ended = [], []
    with quiet_data():
        stream = ray.data.from_items([{"job": number} for number in todo], override_num_blocks=len(todo)).map_batches(
            EvaluationActor,
            fn_constructor_args=(plan.spec, str(absolute(parts))),
            fn_constructor_kwargs={"gpu": workers.gpu},
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
