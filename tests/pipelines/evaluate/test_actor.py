"""The shell that Ray Data calls; what it computes is tested in tests/intermoe/evaluation/test_runner.py."""

import numpy as np
from small_model import save_model, small_evaluator, small_model
from toy_shards import write_shards

from intermoe.errors import UserError
from intermoe.evaluation.protocol import EvaluationConfig
from intermoe.evaluation.runner import EvaluationSpec, JobRunner, read_parts
from pipelines.evaluate.actor import EvaluationActor


def test_jobs_of_a_block_are_computed_and_what_is_wrong_comes_back_as_a_value(tmp_path, monkeypatch):
    model = small_model(data={"max_frames": 40})
    write_shards(tmp_path / "data", {"test": 4})
    spec = EvaluationSpec(
        model=str(save_model(tmp_path / "model", model)),
        evaluator=str(save_model(tmp_path / "evaluator", small_evaluator(model))),
        dataset=str(tmp_path / "data"),
        split="test",
        config=EvaluationConfig.parse({"replications": 1, "pool": 2, "batch_size": 2}),
        rows=("recorded",),
        seed=0,
        diffusion=model.config.diffusion,
        text_folder=None,
        threads=1,
        model_seed=0,
    )
    actor = EvaluationActor(spec, str(tmp_path), gpu=False)
    run = JobRunner.run

    def stumble(runner: JobRunner, job) -> None:
        if job.name == "recorded-000001":
            raise UserError("full", where="disk")
        run(runner, job)

    monkeypatch.setattr(JobRunner, "run", stumble)
    jobs = spec.jobs(40, "drawn")
    names = [job.name for job in jobs]
    assert names == [
        "captions-000000",
        "captions-000001",
        "recorded-000000",
        "recorded-000001",
        "reference-000000",
        "reference-000001",
    ]
    answers = actor({"job": np.array([0, 2, 3])})
    assert answers["job"] == [0, 2, 3]
    assert answers["error"] == ["", "", "disk: full"]
    assert all(began <= ended for began, ended in zip(answers["began"], answers["ended"], strict=True))
    assert list(read_parts(tmp_path, [jobs[0], jobs[2]])) == ["captions-000000", "recorded-000000"]
    assert not (tmp_path / "recorded-000001.npz").exists()
