"""The evaluator of a request: what its results say of it, through to MLflow, computed without Ray."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from mlflow import MlflowClient
from toy_shards import write_shards

from intermoe import checkpoint
from intermoe.data.shards import DatasetFolder
from intermoe.evaluation.evaluator import Evaluator
from intermoe.evaluation.runner import JobRunner
from intermoe.model import InterMoE
from intermoe.places import Place
from pipelines import settings
from pipelines.evaluate.evaluate import evaluate
from pipelines.evaluate.request import EvaluateRequest, EvaluationPlan
from pipelines.site import Site

TINY = """
data.max_frames=40 vae.width=8 vae.latent=4 vae.blocks=1 denoiser.width=16 denoiser.layers=1 denoiser.heads=2
denoiser.text_layers=1 denoiser.text_hidden=16 denoiser.text_heads=2 moe.experts=2 moe.hidden=16
diffusion.sampler_steps=2 evaluation.pool=3 evaluation.replications=1 evaluation.multimodality.captions=0
evaluator.motion_width=16 evaluator.motion_layers=1 evaluator.motion_heads=2 evaluator.motion_hidden=16
evaluator.text_heads=2 evaluator.text_hidden=16 evaluator.embedding=8
"""
KNOWN = {
    "dataset": "toy",
    "skeleton": "smpl22",
    "origin": "published",
    "source": "a table",
    "ranges": {"fid": [30, 40]},
}


@pytest.fixture
def request_of(tmp_path, store):
    """A function that asks for an evaluation of a small model by an evaluator with a known row."""
    values = settings.load("duet", settings.parse_overrides(TINY.split()))
    write_shards(tmp_path / "toy", {"test": 5})
    model = InterMoE.initial(values, seed=0)
    save(tmp_path / "model", model, values)

    def request_of(known: Mapping | None, *words: str, **options) -> EvaluateRequest:
        judged = settings.overridden(values.model_dump(), {"evaluator.conventions.known_row": known}, where="test")
        normaliser = DatasetFolder.open(tmp_path / "toy").normaliser()
        save(tmp_path / "evaluator", Evaluator.initial(judged.evaluator, judged.data, normaliser), judged)
        return EvaluateRequest(
            tmp_path / "model",
            tmp_path / "out",
            Site(store),
            dataset=tmp_path / "toy",
            evaluator=tmp_path / "evaluator",
            overrides=settings.parse_overrides(words),
            rows=("recorded",),
            **options,
        )

    return request_of


def save(folder: Path, networks: InterMoE | Evaluator, values: settings.Settings) -> None:
    tensors = {name: part.state_dict() for name, part in networks.parts().items()}
    documents = {"config": values.model_dump(mode="json"), "state": {"step": 1}}
    checkpoint.save(folder, tensors=tensors, documents=documents)


def test_a_plan_names_the_known_row_of_these_recordings_and_what_differs(request_of):
    about = request_of(KNOWN, "evaluation.pool=2").checked().about
    assert about["known_row"] == KNOWN | {"split": "test", "ranges": {"fid": [30.0, 40.0]}}
    assert about["protocol_differences"] == ["evaluation.pool is 2, the evaluator's own is 3"]
    assert about["scales"] == {"fid": 6.0, "diversity": 3.0, "multimodality": 1.0}


def test_a_known_row_of_other_recordings_is_not_of_these(request_of):
    about = request_of(KNOWN | {"dataset": "interhuman"}).checked().about
    assert about["known_row"] is None
    assert about["protocol_differences"] == []


@pytest.mark.slow
def test_an_evaluation_warns_in_mlflow_and_goes_on(request_of, store, tmp_path, monkeypatch):
    def compute(plan: EvaluationPlan, parts: Place, progress: object) -> float:
        runner = JobRunner(plan.spec, parts)
        for job in plan.jobs:
            runner.run(job)
        return 0.0

    monkeypatch.setattr("pipelines.evaluate.evaluate._compute", compute)
    results = evaluate(request_of(KNOWN, "evaluation.pool=2").checked(), progress=lambda *_: None)
    value = results.metrics("recorded")["fid"]
    assert 0 <= value < 30
    run = MlflowClient(store).get_run(results.about["run"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["intermoe.recorded_motion"] == f"outside: FID is {value:.3f}, known 30.000 to 40.000"
    assert run.data.tags["intermoe.protocol"] == "evaluation.pool is 2, the evaluator's own is 3"
    assert "Warning: recorded motion is outside" in run.data.tags["mlflow.note.content"]
    assert "Warning: recorded motion is outside" in (tmp_path / "out/results.md").read_text()
    table = MlflowClient(store).download_artifacts(run.info.run_id, "results_table.json", str(tmp_path))
    assert '"run here"' in Path(table).read_text()
