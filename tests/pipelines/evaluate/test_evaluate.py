"""Evaluation from end to end on a few recordings: the same numbers however it is computed, and what is recorded."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from toy_shards import change_card

from intermoe import checkpoint
from intermoe.errors import UserError
from intermoe.evaluation import runner
from intermoe.evaluation.measures import MEASURES
from intermoe.evaluation.protocol import ROWS
from intermoe.files import write_note
from pipelines.evaluate.evaluate import evaluate
from pipelines.evaluate.request import EvaluateRequest
from pipelines.evaluate.results import Results
from pipelines.settings import parse_overrides
from pipelines.site import Site
from pipelines.tracking.runs import Run

pytestmark = pytest.mark.slow

OVERRIDES = {"evaluation.multimodality.captions": 2}


@pytest.fixture(scope="module")
def denoiser(run_workers, tiny, vae, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "denoiser"
    run_workers("denoiser", tiny("denoiser", 3), out, vae=vae / "best")
    return out


@pytest.fixture(scope="module")
def evaluator(run_workers, tiny, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "evaluator"
    run_workers("evaluator", tiny("evaluator", 3), out)
    return out


@pytest.fixture(scope="module")
def request_of(denoiser, evaluator, shards, store):
    """A function that asks for an evaluation of the small model, with other options where given."""

    def request_of(out: Path, *overrides: str, **options) -> EvaluateRequest:
        defaults = {"model": denoiser, "dataset": shards, "evaluator": evaluator, "site": Site(store)}
        return EvaluateRequest(out=out, overrides=OVERRIDES | parse_overrides(overrides), **(defaults | options))

    return request_of


@pytest.fixture
def ask(request_of):
    """A function that evaluates the small model, with other options where given."""

    def ask(out: Path, *overrides: str, **options) -> Results:
        seen = []
        plan = request_of(out, *overrides, **options).checked()
        results = evaluate(plan, progress=lambda *call: seen.append(call))
        total = sum(len(job.samples) for job in plan.jobs)
        assert seen[-1] == ("evaluate", total, total)
        return results

    return ask


@pytest.fixture(scope="module")
def reference(request_of, tmp_path_factory):
    """An evaluation by one worker: its folder, its results."""
    out = tmp_path_factory.mktemp("evaluated") / "results"
    return out, evaluate(request_of(out).checked(), progress=lambda *_: None)


def rows_of(out: Path) -> dict:
    return json.loads((out / "results.json").read_text())["rows"]


def test_the_table_has_all_rows_and_measures(reference):
    out, results = reference
    names = ["results.html", "results.json", "results.md", "samples.html"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert not list(out.parent.glob(".*"))
    rows = rows_of(out)
    assert list(rows) == list(ROWS)
    common = set(MEASURES) - {"multimodality", "identity_swapped"}
    assert set(rows["generated"]) == set(rows["raw"]) == set(MEASURES)
    assert set(rows["untrained"]) == common
    for row in ROWS:
        for name in common:
            measured = rows[row][name]
            count = 1 if row == "untrained" else 3
            assert len(measured["replications"]) == count
            assert np.isfinite(measured["replications"]).all()
            assert measured["mean"] == pytest.approx(np.mean(measured["replications"]))
            assert measured["half_width"] == pytest.approx(1.96 * np.std(measured["replications"]) / count**0.5)
    assert rows["recorded"]["identity"]["mean"] == 1
    assert results.metrics("recorded")["identity"] == 1


def test_two_workers_give_the_same_numbers_to_the_last_digit(reference, ask, tmp_path):
    ask(tmp_path / "two", "workers.count=2")
    assert rows_of(tmp_path / "two") == rows_of(reference[0])


def test_real_motion_is_the_same_beside_another_model_and_another_seed_is_another_draw(reference, ask, vae, tmp_path):
    ask(tmp_path / "again", rows=("recorded",), guidance=3.0)
    before = rows_of(reference[0])["recorded"]
    assert rows_of(tmp_path / "again") == {"recorded": before}
    ask(tmp_path / "other", rows=("recorded",), seed=1)
    assert rows_of(tmp_path / "other")["recorded"]["fid"] != before["fid"]


def test_an_interrupted_evaluation_goes_on_where_it_was(reference, request_of, ask, tmp_path, monkeypatch, store):
    """Stopped after four jobs: the rest is done later, in the same run, and nothing twice."""
    done = []

    def stop(_stage: str, count: int, _total: int) -> None:
        done.append(count)
        if len(done) == 5:
            raise KeyboardInterrupt

    out = tmp_path / "late"
    reads = runner.read_parts
    interrupted = request_of(out).checked()
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        evaluate(interrupted, progress=stop)
    assert not out.exists()
    partial = tmp_path / ".late.partial"
    plan = json.loads((partial / "plan.json").read_text())
    assert MlflowClient(store).get_run(plan["run_id"]).info.status == "KILLED"
    finished = {path.name: path.stat().st_mtime_ns for path in (partial / "parts").glob("[a-z]*.npz")}
    assert 4 <= len(finished) < len(interrupted.jobs)

    def look(folder: Path, jobs):
        for name, when in finished.items():
            assert (folder / name).stat().st_mtime_ns == when
        return reads(folder, jobs)

    monkeypatch.setattr("pipelines.evaluate.evaluate.read_parts", look)
    results = ask(out)
    assert rows_of(out) == rows_of(reference[0])
    assert not partial.exists()
    assert results.about["run"] == plan["run_id"]
    run = MlflowClient(store).get_run(plan["run_id"])
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("step", ["log_artifact", "move"])
def test_one_that_was_killed_at_its_very_end_tells_mlflow_what_it_found(
    reference, ask, tmp_path, monkeypatch, store, step
):
    """Between the folder of results and what MLflow is to have of it; somebody else's folder stays as it is."""
    out = tmp_path / "late"
    with monkeypatch.context() as killed:
        killed.setattr(Run, step, _interrupt)
        with pytest.raises(KeyboardInterrupt):
            ask(out)
    plan = json.loads((tmp_path / ".late.partial" / "plan.json").read_text())
    assert rows_of(out) == rows_of(reference[0])
    out.rename(tmp_path / "aside")
    out.mkdir()
    (out / "results.json").write_text('{"about": {"run": "another"}}')
    with pytest.raises(UserError, match="late: exists already and is not overwritten"):
        ask(out)
    shutil.rmtree(out)
    (tmp_path / "aside").rename(out)
    assert ask(out).about["run"] == plan["run_id"]
    assert rows_of(out) == rows_of(reference[0])
    assert not (tmp_path / ".late.partial").exists()
    names = {file.path for file in MlflowClient(store).list_artifacts(plan["run_id"])}
    assert {"results.json", "results.md", "results.html", "results_table.json"} <= names
    assert MlflowClient(store).get_run(plan["run_id"]).info.status == "FINISHED"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_another_evaluation_does_not_go_on_with_what_lies_there(reference, ask, tmp_path):
    (tmp_path / ".x.partial").mkdir()
    document = {"about": {"seed": 5}, "run_id": "0" * 32, "tracking_uri": "nowhere"}
    write_note(tmp_path / ".x.partial" / "plan.json", document)
    with pytest.raises(UserError, match="holds a half-made evaluation of something else"):
        ask(tmp_path / "x")


def test_mlflow_has_numbers_files_and_the_model_that_was_evaluated(reference, denoiser, store):
    out, results = reference
    client = MlflowClient(store)
    run = client.get_run(results.about["run"])
    assert run.data.metrics["generated/fid"] == pytest.approx(rows_of(out)["generated"]["fid"]["mean"])
    assert run.data.tags["intermoe.target"] == "evaluate"
    assert run.data.tags["intermoe.model"] == str(denoiser / "best")
    assert run.data.params["evaluation.pool"] == "2"
    assert run.inputs.dataset_inputs[0].dataset.name == "tiny"
    assert run.data.metrics["seconds_generating"] > 0
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"results.json", "results.md", "results.html", "results_table.json", "samples.html"} <= files


def test_the_checkpoint_in_mlflow_shows_what_was_found(reference, ask, denoiser, tmp_path, store):
    """As after a training by the command: the run is noted beside the checkpoint, which is logged as a model."""
    from pipelines.tracking.runs import Run

    copy = tmp_path / "run"
    shutil.copytree(denoiser, copy)
    with Run.start(store, "tests", "denoiser", params={}) as run:
        run.log_checkpoint(copy / "best", 3, {})
    write_note(copy / "run.json", {"run_id": run.id})
    results = ask(tmp_path / "shown", model=copy, rows=("generated",))
    client = MlflowClient(store)
    evaluation = client.get_run(results.about["run"])
    (model_id,) = [model.model_id for model in client.get_run(run.id).outputs.model_outputs]
    assert [model.model_id for model in evaluation.inputs.model_inputs] == [model_id]
    shown = {metric.key: metric.value for metric in client.get_logged_model(model_id).metrics}
    assert shown["evaluated/fid"] == pytest.approx(results.metrics("generated")["fid"])


def test_the_page_stands_alone_and_names_what_was_evaluated(reference, denoiser):
    out, results = reference
    text = (out / "results.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "<script" not in text
    assert str(denoiser) in text
    assert results.cells.loc["generated", "fid"] in text
    assert results.cells.loc["generated", "fid"] in (out / "results.md").read_text()


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        (("evaluation.pool=50",), {}, "evaluation.pool = 50 (allowed: at most 2, the recordings of the test split)"),
        (("moe.experts=8",), {}, "moe.experts belongs to the model and cannot change"),
        (("evaluation.pols=3",), {}, "unknown key 'evaluation.pols'"),
        ((), {"dataset": Path("nowhere")}, "no such folder"),
        ((), {"evaluator": Path("nowhere")}, "no such folder"),
        ((), {"seed": -1}, "seed -1 (allowed: 0 or more)"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_written(ask, tmp_path, overrides, options, message):
    with pytest.raises(UserError) as caught:
        ask(tmp_path / "out", *overrides, **options)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def change_config(folder: Path, to: Path, **data: object) -> Path:
    saved = checkpoint.load(folder / "best")
    documents = json.loads(json.dumps(saved.documents))
    documents["config"]["data"] |= data
    checkpoint.save(to, tensors=saved.tensors, documents=documents)
    return to


def test_models_of_other_data_are_refused(ask, evaluator, denoiser, vae, tmp_path, shards):
    other = change_config(evaluator, tmp_path / "evaluator", encoder="clip")
    with pytest.raises(UserError, match=r"the weights do not fit|data\.encoder of the evaluator is 'clip'"):
        ask(tmp_path / "out", evaluator=other)
    card = json.loads((shards / "dataset.json").read_text())
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    change_card(copy, encoder=card["encoder"] | {"name": "clip"})
    with pytest.raises(UserError, match=r"data\.encoder of the model is 'minilm' \(allowed: 'clip'"):
        ask(tmp_path / "out", dataset=copy)
    change_card(copy, encoder=card["encoder"], recordings=card["recordings"] | {"test": 0})
    with pytest.raises(UserError, match="the test split is empty"):
        ask(tmp_path / "out", dataset=copy)
    with pytest.raises(UserError, match="holds no text_head"):
        ask(tmp_path / "out", model=vae)
    with pytest.raises(UserError, match="holds no evaluator"):
        ask(tmp_path / "out", evaluator=denoiser)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(UserError, match="exists already and is not overwritten"):
        ask(tmp_path / "taken")


def test_a_model_without_a_note_of_its_data_needs_the_option(request_of, tmp_path):
    with pytest.raises(UserError, match="which data the model was trained on"):
        request_of(tmp_path / "out", dataset=None).checked()


def test_a_model_of_mlflow_brings_its_data_and_its_run_shows_the_evaluation(
    request_of, denoiser, shards, store, tmp_path
):
    with Run.start(store, "tests", "denoiser", params={}) as trained:
        trained.log_checkpoint(denoiser / "best", 3, {})
    request = request_of(
        tmp_path / "out", "evaluation.replications=1", model=trained.id, dataset=None, rows=("recorded",)
    )
    with pytest.raises(UserError, match="which data the model was trained on"):
        request.checked()
    trained.log_dataset("other", "0", "nowhere", profile={}, context="evaluation")
    trained.log_dataset("tiny", "1", str(shards), profile={}, context="training")
    plan = request.checked()
    assert plan.about["data"] == str(shards)
    results = evaluate(plan, progress=lambda *_: None)
    run = MlflowClient(store).get_run(results.about["run"])
    assert run.data.tags["intermoe.model_run"] == trained.id
    models = MlflowClient(store).get_run(trained.id).outputs.model_outputs
    assert [used.model_id for used in run.inputs.model_inputs] == [made.model_id for made in models]


def test_a_damaged_part_is_named(tmp_path, request_of):
    job = request_of(tmp_path / "out").checked().jobs[0]
    (tmp_path / f"{job.name}.npz").write_bytes(b"PK broken")
    with pytest.raises(UserError, match="delete it and evaluate again"):
        runner.read_parts(tmp_path, [job])
