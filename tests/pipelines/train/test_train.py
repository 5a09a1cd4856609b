"""Whole trainings under Ray Train, and what is refused before they begin."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from logged_routing import routing_curves
from mlflow import MlflowClient

from intermoe import checkpoint
from intermoe.data.card import CARD
from intermoe.data.shards import DatasetFolder
from intermoe.errors import UserError
from intermoe.files import read_note, write_note
from pipelines.cli import main
from pipelines.settings import Settings
from pipelines.site import Site
from pipelines.tracking.runs import Run
from pipelines.train.request import TrainRequest
from pipelines.train.run_folder import note_run, resumable_step, run_identity
from pipelines.train.train import train


@pytest.fixture
def train_to(shards, store):
    """A function that trains into a folder."""

    def train_to(out: Path, target: str, values: Settings, *, vae: Path | None = None) -> str:
        return train(TrainRequest(target, values, dataset=shards, out=out, site=Site(store), vae=vae).checked())

    return train_to


def tensors(out):
    folder = checkpoint.latest(out / "checkpoints")
    assert folder is not None
    return checkpoint.load(folder).tensors


def assert_same_tensors(found, expected):
    assert {part: names.keys() for part, names in found.items()} == {p: n.keys() for p, n in expected.items()}
    for part, names in expected.items():
        for name, tensor in names.items():
            assert found[part][name].equal(tensor), (part, name)


def kill_one_worker(after: Path, killed: list[int]) -> None:
    """Once that checkpoint is there, kill a training worker the hard way."""
    deadline = time.monotonic() + 120
    while not after.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    for process in psutil.Process().children(recursive=True):
        if "RayTrainWorker" in " ".join(process.cmdline()):
            process.kill()
            killed.append(process.pid)
            return


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_two_workers_and_one_of_them_killed_give_what_plain_processes_give(
    run_workers, read_history, tiny, train_to, store, tmp_path, capfd, killed
):
    values = tiny("vae", 40, "workers.count=2", "train.vae.checkpoint_every=4", "train.vae.keep=100")
    victims: list[int] = []
    if killed:
        after = tmp_path / "run/checkpoints/step-00000008"
        threading.Thread(target=kill_one_worker, args=(after, victims), daemon=True).start()
    run = train_to(tmp_path / "run", "vae", values)
    printed = capfd.readouterr()
    assert len(victims) == killed
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["best", "checkpoints", "run.json"]
    expected = run_workers("vae", values, tmp_path / "expected", world=2)
    assert_same_tensors(tensors(tmp_path / "run"), tensors(tmp_path / "expected"))
    found = read_history(run)
    assert found("loss/train") == expected("loss/train")
    assert [step for step, _ in found("loss/train")] == list(range(1, 41))
    assert found("validation/position_error_cm") == expected("validation/position_error_cm")
    info = MlflowClient(store).get_run(run)
    assert info.info.status == "FINISHED"
    assert (info.data.tags["intermoe.target"], info.data.params["workers.count"]) == ("vae", "2")
    assert [output.step for output in info.outputs.model_outputs] == [40]
    assert all(line.startswith("train vae: ") for line in printed.err.splitlines())
    restarts = [line for line in printed.err.splitlines() if "again" in line]
    assert len(restarts) == killed
    assert ("intermoe.restarts" in info.data.tags) == killed
    if killed:
        reason = r"started again \(1 of 2\) from step \d+: worker [01]: (its process ended|it has lost another worker)"
        assert re.fullmatch(f"train vae: {reason}", restarts[0])
        assert info.data.tags["intermoe.restarts"] == "1"
        assert restarts[0] == f"train vae: {info.data.tags['intermoe.restarted']}"
    assert re.fullmatch(r"2 workers on [\d.]+", info.data.tags["intermoe.workers"])


@pytest.mark.slow
@pytest.mark.parametrize(("world", "selection"), [(1, "expert_choice"), (2, "expert_choice"), (2, "dynamic")])
def test_the_pool_of_all_ray_train_workers_gives_what_one_process_gives(
    run_workers, read_history, tiny, train_to, vae, tmp_path, world, selection
):
    words = (f"moe.selection={selection}", "train.denoiser.accumulate=2")
    values = tiny("denoiser", 12, *words, f"workers.count={world}")
    found = read_history(train_to(tmp_path / "run", "denoiser", values, vae=vae))
    expected = run_workers("denoiser", tiny("denoiser", 12, *words), tmp_path / "expected", vae=vae / "best")
    assert found("loss/train") == [(step, pytest.approx(loss, rel=1e-5)) for step, loss in expected("loss/train")]
    learned = {"dynamic": "bias", "expert_choice": "threshold"}[selection]
    ours, theirs = routing_curves(tmp_path / "run"), routing_curves(tmp_path / "expected")
    for name in [f"layer{layer}/{of}{e}" for of in ("load", learned) for layer in range(2) for e in range(4)]:
        assert len(theirs[name]) == 12
        assert ours[name] == [(step, pytest.approx(value, abs=1e-6)) for step, value in theirs[name]], name
    weights = [tensors(tmp_path / name)["denoiser"] for name in ("run", "expected")]
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[0][name], tensor, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_one_line_and_not_tried_again(tiny, train_to, store, tmp_path):
    values = tiny("vae", 40, "train.vae.loss.kl=1e38")
    with pytest.raises(
        UserError, match=r"^train vae: step 1: the loss .* is not finite; samples \w+/[01]/\d+, "
    ) as caught:
        train_to(tmp_path / "run", "vae", values)
    assert "\n" not in str(caught.value)
    experiment = MlflowClient(store).get_experiment_by_name("duet").experiment_id
    (run,) = MlflowClient(store).search_runs([experiment], f"tags.`intermoe.out` = '{(tmp_path / 'run').resolve()}'")
    assert run.info.status == "FAILED"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


@pytest.mark.slow
def test_ctrl_c_and_kill_leave_a_run_that_resumes_to_the_same_end_and_is_used(
    run_workers, tiny, vae, clip_shards, clip_folder, store, tmp_path, monkeypatch
):
    """With CLIP in a folder that is not the hub's cache; training needs none, for the shards hold all its states."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-cache"))
    often = [f"train.denoiser.{key}" for key in ("checkpoint_every=4", "keep=2", "validate_every=8")]
    values = tiny("denoiser", 100, "data.encoder=clip", *often)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values.model_dump(mode="json")))
    out = tmp_path / "run"
    words = [sys.executable, "-m", "pipelines.cli", "train", "denoiser", "--config", str(tmp_path / "tiny.yaml")]
    words += ["--data", str(clip_shards), "--vae", str(vae), "--out", str(out)]

    def start(*more: str) -> subprocess.Popen:
        # A session of its own, so that Ctrl-C reaches all that it started, as in a terminal, and nothing else.
        return subprocess.Popen(
            [*words, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def wait_for_step(step: int) -> int:
        while (reached := resumable_step(out)) < step:
            time.sleep(0.02)
        return reached

    first = start()
    wait_for_step(8)
    os.killpg(first.pid, signal.SIGINT)
    printed = first.communicate(timeout=120)
    step = resumable_step(out)
    assert 8 <= step < 100
    assert first.returncode == 130
    assert printed[0] == ""
    assert printed[1].splitlines()[-1] == f"interrupted: `--resume` goes on from step {step}"
    assert all(line.startswith(("train denoiser: ", "interrupted: ")) for line in printed[1].splitlines())
    status = {run.info.run_id: run.info.status for run in _runs_below(store, out)}
    assert list(status.values()) == ["KILLED"]

    second = start("--resume")
    wait_for_step(step + 8)
    second.kill()
    second.communicate(timeout=120)
    time.sleep(3)  # until the processes that Ray started have seen it
    assert resumable_step(out) < 100

    third = start("--resume")
    printed = third.communicate(timeout=400)
    assert third.returncode == 0, printed[1]
    assert printed[0].startswith(f"{out}/best holds the model; its MLflow run is {next(iter(status))}")
    expected = run_workers(
        "denoiser", values, tmp_path / "expected", world=values.workers.count, vae=vae / "best", dataset=clip_shards
    )
    assert_same_tensors(tensors(out), tensors(tmp_path / "expected"))
    assert_same_tensors(checkpoint.load(out / "best").tensors, checkpoint.load(tmp_path / "expected/best").tensors)
    (run,) = _runs_below(store, out)
    assert run.info.status == "FINISHED"
    history = MlflowClient(store).get_metric_history(run.info.run_id, "loss/train")
    assert [(point.step, point.value) for point in history] == expected("loss/train")

    run_workers("evaluator", tiny("evaluator", 2, "data.encoder=clip"), tmp_path / "evaluator", dataset=clip_shards)
    use = ["--model", str(out), "--text-folder", str(clip_folder), "--out"]
    assert main(["generate", "two.bow", "--seconds", "1", *use, str(tmp_path / "motions")]) == 0
    assert {file.suffix for file in (tmp_path / "motions").iterdir()} == {".npz", ".bvh", ".glb", ".mp4", ".png"}
    judged = ["--data", str(clip_shards), "--evaluator", str(tmp_path / "evaluator"), "evaluation.replications=1"]
    assert main(["evaluate", *judged, *use, str(tmp_path / "results")]) == 0
    rows = json.loads((tmp_path / "results/results.json").read_text())["rows"]
    assert rows["generated"]["fid"]["mean"] > 0


def _runs_below(store, out):
    experiment = MlflowClient(store).get_experiment_by_name("duet").experiment_id
    return MlflowClient(store).search_runs([experiment], f"tags.`intermoe.out` = '{out.resolve()}'")


@pytest.fixture(scope="module")
def begun(ray_session, tiny, shards, store, tmp_path_factory):
    """A run that was recorded and has not taken a step."""
    out = tmp_path_factory.mktemp("begun") / "run"
    out.mkdir()
    values = tiny("vae", 4)
    with Run.start(store, "tests", "vae", params={}) as run:
        identity = run_identity("vae", values, shards, None)
        note_run(out, run_id=run.id, tracking_uri=store, data=shards, identity=identity)
    return out


@pytest.fixture
def checked(tiny, shards, vae, tmp_path):
    """A function that checks a request for a training of the denoiser, right but for what it is given."""

    def checked(*overrides, target="denoiser", **options):
        defaults = {"dataset": shards, "out": tmp_path / "run", "site": Site("sqlite:///nowhere.db"), "vae": vae}
        values = tiny("vae" if target == "vae" else "denoiser", 4, *overrides)
        return TrainRequest(target, values, **(defaults | options)).checked()

    return checked


@pytest.mark.parametrize(
    ("target", "words", "message"),
    [
        ("vae", ("train.vae.learning_rate=0.5",), "train.vae.learning_rate = 0.5 (allowed: 0.006, as in the run that"),
        ("vae", ("seed=3",), "seed = 3 (allowed: 0, as in the run that is resumed)"),
        ("denoiser", (), 'target = "denoiser" (allowed: "vae", as in the run that is resumed)'),
    ],
)
def test_another_run_is_not_resumed_as_this_one(begun, checked, target, words, message):
    before = {path: path.read_bytes() for path in begun.rglob("*")}
    with pytest.raises(UserError) as caught:
        checked(*words, target=target, out=begun, resume=True)
    assert str(caught.value).startswith(f"{begun}: ")
    assert message in str(caught.value)
    assert {path: path.read_bytes() for path in begun.rglob("*")} == before


def test_a_run_from_before_there_was_a_setting_is_resumed_with_what_that_is_by_default(begun, checked, tmp_path):
    older = tmp_path / "older"
    shutil.copytree(begun, older)
    note = read_note(older / "run.json")
    settings = note["settings"]
    del settings["network"], settings["diffusion"]["schedule"], settings["train"]["vae"]["clip_norm"]
    write_note(older / "run.json", note)
    assert checked(target="vae", out=older, resume=True).request.out == older
    with pytest.raises(UserError) as caught:
        checked("train.vae.clip_norm=1", target="vae", out=older, resume=True)
    assert str(caught.value) == f"{older}: train.vae.clip_norm = 1.0 (allowed: null, as in the run that is resumed)"


def test_more_workers_may_resume_but_not_with_other_data(begun, checked, store, shards, tmp_path):
    job = checked("workers.count=2", target="vae", out=begun, resume=True)
    assert job.request.site.tracking_uri == store, "the store that the run began in"
    with pytest.raises(UserError) as caught:
        checked(target="vae", out=begun)
    assert str(caught.value) == (
        f"{begun}: exists already and is not overwritten "
        "(allowed: a new or an empty folder, or --resume to go on with the run in it)"
    )
    shutil.copytree(shards, tmp_path / "other")
    card = tmp_path / "other" / CARD
    card.write_text(card.read_text() + "\n")
    with pytest.raises(UserError, match="the dataset is not the one that the run began with"):
        checked(target="vae", dataset=tmp_path / "other", out=begun, resume=True)


def test_what_is_right_is_not_refused(checked, shards, vae, tmp_path):
    job = checked()
    assert job.card == DatasetFolder.open(shards).card
    assert job.request.vae == vae / "best"
    assert checked(vae=vae / "best").request.vae == vae / "best"
    assert checked(target="vae").request.vae is None
    (tmp_path / "empty").mkdir()
    checked(out=tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        ((), {"target": "gan"}, "unknown target 'gan' (allowed: vae, evaluator, denoiser)"),
        (("data.encoder=clip",), {}, "data.encoder of the data set is 'minilm' (allowed: 'clip', as in the config)"),
        ((), {"dataset": Path("nowhere")}, "no such folder"),
        ((), {"vae": None}, "--vae: the denoiser needs a trained VAE"),
        ((), {"vae": Path("nowhere")}, "no such folder"),
        (("vae.width=4",), {}, "vae.width of the VAE is 8 (allowed: 4, as in the config)"),
        (("vae.latent=8",), {}, "vae.latent of the VAE is 4"),
        ((), {"resume": True}, "holds no run to resume"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_before_anything_is_written(
    checked, words, options, message, tmp_path, store
):
    with pytest.raises(UserError) as caught:
        checked(*words, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_vae_is_no_denoiser_and_the_reverse(checked, vae, tmp_path):
    (tmp_path / "not").mkdir()
    with pytest.raises(UserError, match=r"has no manifest\.json: not a checkpoint"):
        checked(vae=tmp_path / "not")
    saved = checkpoint.load(vae / "best")
    part = {"vae": saved.tensors["vae"]}
    checkpoint.save(tmp_path / "part", tensors=part, documents=saved.documents)
    with pytest.raises(UserError, match="has no normaliser"):
        checked(vae=tmp_path / "part")


def test_a_place_that_is_taken_is_refused(checked, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="exists already and is not overwritten"):
            checked(out=out)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_training_that_cannot_begin_leaves_neither_folder_nor_run(tiny, shards, store, tmp_path):
    runs = _runs(store)
    request = TrainRequest("vae", tiny("vae", 4), dataset=shards, out=tmp_path / "file" / "run", site=Site(store))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        train(request.checked())
    nowhere = Site(f"sqlite:///{tmp_path}/file/mlflow.db")
    with pytest.raises(UserError, match="cannot be written"):
        train(replace(request, out=tmp_path / "run", site=nowhere).checked())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert _runs(store) == runs


def _runs(store):
    client = MlflowClient(store)
    return [run.info.run_id for e in client.search_experiments() for run in client.search_runs([e.experiment_id])]
