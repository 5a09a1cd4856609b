"""The steps of a trial: whether they are done, and how long they took in all."""

import json
import time
from contextlib import suppress

import pytest
from mlflow import MlflowClient
from trials import make_trial

from intermoe.files import write_note
from pipelines.cluster.progress import progress_board
from pipelines.site import Site
from pipelines.sweep import trial
from pipelines.sweep.trial import OUTCOME, done, mark_done, run_trial, seconds, timed
from pipelines.tracking.runs import Run


def test_a_step_is_done_when_that_is_noted(tmp_path):
    assert not done(tmp_path / "denoiser")
    mark_done(tmp_path / "denoiser")
    assert done(tmp_path / "denoiser")
    assert not done(tmp_path / "evaluation")


def test_the_time_of_all_attempts_adds_up(tmp_path):
    folder = tmp_path / "denoiser"
    assert seconds(folder) == 0
    with suppress(KeyboardInterrupt), timed(folder):
        time.sleep(0.2)
        raise KeyboardInterrupt
    first = seconds(folder)
    assert 0.2 <= first < 2
    with timed(folder):
        time.sleep(0.1)
    assert first + 0.1 <= seconds(folder) < first + 2
    assert seconds(tmp_path / "evaluation") == 0


def test_the_time_is_noted_while_it_passes(tmp_path, monkeypatch):
    """What a process that is killed leaves."""
    monkeypatch.setattr(trial, "_NOTE_SECONDS", 0.05)
    with timed(tmp_path / "denoiser"):
        deadline = time.monotonic() + 10
        while seconds(tmp_path / "denoiser") < 0.1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert seconds(tmp_path / "denoiser") >= 0.1


@pytest.mark.slow
def test_a_trial_that_is_evaluated_otherwise_is_not_trained_again(run_workers, tiny, vae, shards, store, tmp_path):
    run_workers("evaluator", tiny("evaluator", 2), tmp_path / "evaluator")
    values = tiny("denoiser", 2, "evaluation.multimodality.captions=0")
    run_workers("denoiser", values, tmp_path / "denoiser", vae=vae / "best")
    run = Run.start(store, "tests", "trial", params={})
    write_note(tmp_path / "denoiser/run.json", {"run_id": run.id, "data": str(shards)})
    mark_done(tmp_path / "denoiser")
    names = []
    for replications in (2, 2, 1):
        evaluation = values.evaluation.model_copy(update={"replications": replications})
        request = make_trial(
            tmp_path,
            settings=values.model_copy(update={"evaluation": evaluation}),
            dataset=shards,
            vae=vae,
            evaluator=tmp_path / "evaluator",
            site=Site(store),
        )
        with progress_board() as board:
            run_trial(request, board)
        names.append(request.evaluation)
        assert json.loads((tmp_path / OUTCOME).read_text())["evaluation"] == request.evaluation
        rows = json.loads((tmp_path / request.evaluation / "results.json").read_text())["rows"]
        assert len(rows["generated"]["fid"]["replications"]) == replications
    assert names[0] == names[1] != names[2]
    history = MlflowClient(store).get_metric_history(run.id, "generated/fid")
    assert [point.step for point in history] == [0, 1]
    assert seconds(tmp_path / names[2]) > 0
