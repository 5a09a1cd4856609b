"""Runs in MLflow, against a store in a folder of this test session."""

import json
import logging
import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from intermoe.errors import UserError, UserNote
from pipelines.tracking import delivery
from pipelines.tracking.address import ADDRESSES, tracking_uri
from pipelines.tracking.queries import model_folder
from pipelines.tracking.runs import Run


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("a store")


@pytest.fixture(scope="session")
def uri(folder):
    """One store for all tests: making its tables takes two seconds."""
    return f"sqlite:///{folder}/mlflow.db"


@pytest.fixture(scope="session")
def client(uri):
    return MlflowClient(uri)


def start(uri, **options):
    return Run.start(uri, "tests", "a run", params=options.pop("params", {}), **options)


def points(client, run, name):
    assert run.flush()
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.id, name)]


def test_the_default_store_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    for given, expected in {
        "sqlite:///other/x.db": f"sqlite:///{tmp_path}/other/x.db",
        f"sqlite:///{tmp_path}/y.db": f"sqlite:///{tmp_path}/y.db",
        "http://127.0.0.1:5000": "http://127.0.0.1:5000",
        "postgresql://u:p@db/mlflow": "postgresql://u:p@db/mlflow",
        "": f"sqlite:///{tmp_path}/mlflow.db",
    }.items():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        assert tracking_uri() == expected


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://me:secret@[::1", f"MLFLOW_TRACKING_URI: http://[::1: Invalid IPv6 URL (allowed: {ADDRESSES})"),
        (
            "mysql+nothing://me:secret@db/x",
            f"mysql+nothing://db/x: MLflow: not the address of a database (allowed: {ADDRESSES})",
        ),
        (
            "postgresql+psycopg://me:secret@db/x",
            "postgresql+psycopg://db/x: MLflow: this address needs the module psycopg",
        ),
    ],
)
def test_an_address_that_is_none_is_refused_in_a_line(address, message, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    # Whether it is installed is not up to this test.
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError) as caught:
        model_folder("0" * 32, tracking_uri())
    assert str(caught.value) == message


def test_a_run_holds_its_parameters_tags_and_parent(uri, client, folder):
    parent = start(uri)
    many = {f"p{number}": number for number in range(150)}
    params = {
        "moe": {"experts": 8, "alpha": 0.5, "gate": None, "dense": False},
        "betas": [0.9, 0.99],
        "name": "x",
        "m": many,
    }
    child = start(uri, params=params, tags={"vae": parent.id}, parent=parent.id)
    run = client.get_run(child.id)
    assert run.info.run_name == "a run"
    assert run.info.status == "RUNNING"
    expected = {f"m.p{number}": str(number) for number in range(150)}
    expected |= {"moe.experts": "8", "moe.alpha": "0.5", "moe.gate": "null", "moe.dense": "false", "name": "x"}
    assert run.data.params == {**expected, "betas": "[0.9, 0.99]"}
    assert run.data.tags["vae"] == parent.id
    assert run.data.tags["mlflow.parentRunId"] == parent.id
    assert run.info.artifact_uri.startswith(f"{folder}/mlruns/")
    assert client.get_run(parent.id).info.experiment_id == run.info.experiment_id


def test_a_child_that_nobody_noted_is_found_again(uri, client):
    """Its process was killed between making the run and writing down which it is."""
    parent, other = start(uri), start(uri)
    tags = {"intermoe.out": "/runs/a"}
    lost = start(uri, params={"seed": 1}, tags=tags, parent=parent.id)
    again = start(uri, params={"seed": 1}, tags=tags, parent=parent.id)
    assert again.id == lost.id
    assert client.get_run(lost.id).data.params == {"seed": "1"}
    assert start(uri, tags={"intermoe.out": "/runs/b"}, parent=parent.id).id != lost.id
    assert start(uri, tags=tags, parent=other.id).id != lost.id
    # Without a parent, another training into a folder that was emptied is another run.
    assert start(uri, tags=tags).id != start(uri, tags=tags).id


def test_a_report_adds_to_a_run_that_has_ended_and_leaves_it_so(uri, client, tmp_path):
    run = start(uri)
    run.finish("KILLED")
    (tmp_path / "report.md").write_text("x")
    report = Run.attach(uri, run.id)
    report.log_artifact(tmp_path / "report.md")
    report.close()
    assert client.get_run(run.id).info.status == "KILLED"
    assert [file.path for file in client.list_artifacts(run.id)] == ["report.md"]
    with pytest.raises(UserError, match="not found"):
        Run.attach(uri, "0" * 32)


def test_what_an_evaluation_says_is_said_once(uri, client, tmp_path):
    """One whose process ended before that was noted is made again."""
    (tmp_path / "weights").write_text("x")
    trained = start(uri)
    trained.log_checkpoint(tmp_path, 5, {})
    trained.close()
    for step, fid in ((0, 1.5), (0, 1.5), (1, 2.5)):
        run = Run.reopen(uri, trained.id)
        run.log_table({"row": ["a"], "fid": [str(fid)]}, "table.json")
        run.log_evaluated(trained.id, {"fid": fid}, step)
        run.close()
    table = json.loads(Path(client.download_artifacts(trained.id, "table.json")).read_text())
    assert table == {"columns": ["row", "fid"], "data": [["a", "2.5"]]}
    assert points(client, trained, "evaluated/fid") == [(0, 1.5), (1, 2.5)]


def test_points_wait_and_are_sent_together(uri, client, monkeypatch):
    monkeypatch.setattr(delivery, "SECONDS", 3600.0)
    batches = []
    log_batch = MlflowClient.log_batch

    def count(self, run_id, metrics=(), **options):
        batches.append(len(metrics))
        return log_batch(self, run_id, metrics=metrics, **options)

    run = start(uri)
    run.log_metrics({"first": 0.0}, 0)
    assert run.flush()
    monkeypatch.setattr(MlflowClient, "log_batch", count)
    time.sleep(0.2)
    run.log_metrics({"loss": 2.0, "odd": math.nan}, 0)
    run.log_metrics({"loss": 1.5}, 10)
    assert points(client, run, "loss") == [(0, 2.0), (10, 1.5)]
    assert math.isnan(points(client, run, "odd")[0][1])
    assert batches == [3]
    run.log_metrics({f"many/{name}": 0.0 for name in range(1001)}, 30)
    assert run.flush()
    assert len(client.get_run(run.id).data.metrics) == 1004
    assert batches == [3, 1000, 1]


def test_a_reopened_run_misses_no_point_and_has_none_twice(uri, client):
    """The first worker is lost when it has sent step 30 of one curve but not of the other; the next resumes from 20."""
    run = start(uri)
    for step in (10, 20, 30):
        run.log_metrics({"loss": float(step)}, step)
        if step < 30:
            run.log_metrics({"validation": float(step)}, step)
    run.close()
    client.set_terminated(run.id, "FAILED")

    again = Run.reopen(uri, run.id)
    assert again.flush()
    assert client.get_run(run.id).info.status == "RUNNING"
    for step in (30, 40, 50):
        again.log_metrics({"loss": float(step), "validation": float(step)}, step)
    again.finish()
    assert points(client, run, "loss") == [(step, float(step)) for step in (10, 20, 30, 40, 50)]
    assert points(client, run, "validation") == [(step, float(step)) for step in (10, 20, 30, 40, 50)]
    assert client.get_run(run.id).info.status == "FINISHED"


def test_files_documents_and_tables(uri, client, tmp_path):
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    (tmp_path / "videos" / "deep" / "bow.mp4").write_bytes(b"\0\1")
    run = start(uri)
    run.log_artifact(tmp_path / "videos" / "deep" / "bow.mp4", "motion")
    run.log_artifact(tmp_path / "videos")
    run.log_artifact(tmp_path / "videos", "all")
    run.log_dict({"moe": {"experts": 8}}, "config.yaml")
    run.log_table({"metric": ["FID", "R@1"], "ours": [0.5, 0.25]}, "table.json")
    run.close()
    place = Path(client.download_artifacts(run.id, "", str(tmp_path)))
    for name in ("motion/bow.mp4", "videos/deep/bow.mp4", "all/videos/deep/bow.mp4"):
        assert (place / name).read_bytes() == b"\0\1"
    assert (place / "config.yaml").read_text() == "moe:\n  experts: 8\n"
    table = {"columns": ["metric", "ours"], "data": [["FID", 0.5], ["R@1", 0.25]]}
    assert json.loads((place / "table.json").read_text()) == table


def test_the_data_set_is_an_input_of_the_run(uri, client):
    run = start(uri)
    run.log_dataset("duet", "0123456789abcdef" * 4, "data/duet", profile={"train": 160, "val": 20}, context="training")
    run.close()
    (found,) = client.get_run(run.id).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("duet", ("0123456789abcdef" * 4)[:36])
    assert json.loads(found.dataset.profile) == {"train": 160, "val": 20}
    assert json.loads(found.dataset.source) == {"uri": "data/duet"}
    assert {tag.key: tag.value for tag in found.tags} == {"mlflow.data.context": "training"}


def test_a_checkpoint_is_a_logged_model_once_a_step(uri, client, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"w")
    (tmp_path / "manifest.json").write_text("{}")
    run = start(uri, params={"seed": 1})
    run.log_checkpoint(tmp_path, 100, {"fid": 0.5})
    run.close()
    again = Run.reopen(uri, run.id)
    again.log_checkpoint(tmp_path, 100, {"fid": 0.5})
    again.log_checkpoint(tmp_path, 200, {})
    again.close()
    outputs = client.get_run(run.id).outputs.model_outputs
    first, second = (output.model_id for output in sorted(outputs, key=lambda output: output.step))
    model = client.get_logged_model(first)
    assert (model.name, model.status.value, model.source_run_id) == ("a run-100", "READY", run.id)
    assert [(metric.key, metric.value) for metric in model.metrics] == [("fid", 0.5)]
    assert {file.path for file in client.list_logged_model_artifacts(first)} == {"weights.safetensors", "manifest.json"}
    assert {(output.model_id, output.step) for output in outputs} == {(first, 100), (second, 200)}
    assert points(client, run, "fid") == [(100, 0.5)]


def test_a_model_is_found_by_folder_or_run(uri, tmp_path):
    assert model_folder("runs/a", uri) == Path("runs/a")
    run = start(uri)
    with pytest.raises(UserError, match="holds no checkpoint"):
        model_folder(run.id, uri)
    for step in (200, 1000):
        (tmp_path / "config.json").write_text(str(step))
        run.log_checkpoint(tmp_path, step, {})
    assert run.flush()
    assert (model_folder(run.id, uri) / "config.json").read_text() == "1000"
    with pytest.raises(UserError, match="not found"):
        model_folder("0" * 32, uri)


def test_leaving_the_block_says_how_the_run_ended(uri, client):
    ended = {}
    for error in (None, ValueError("x"), KeyboardInterrupt()):
        run = start(uri)
        try:
            with run:
                run.log_metrics({"loss": 1.0}, 1)
                if error:
                    raise error
        except (ValueError, KeyboardInterrupt):
            pass
        ended[type(error).__name__] = client.get_run(run.id).info.status
        assert points(client, run, "loss") == [(1, 1.0)]
    assert ended == {"NoneType": "FINISHED", "ValueError": "FAILED", "KeyboardInterrupt": "KILLED"}


def test_system_metrics_are_logged(uri, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    run = start(uri)
    run.measure_system()
    deadline = time.monotonic() + 10
    while not client.get_run(run.id).data.metrics and time.monotonic() < deadline:
        time.sleep(0.1)
    run.finish()
    assert "system/cpu_utilization_percentage" in client.get_run(run.id).data.metrics


def test_system_metrics_go_on_after_those_that_wait(uri, client, monkeypatch, tmp_path):
    """A process that was killed while the server was away has left some, and the store does not know how far it was."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    run = Run.start(uri, "tests", "a run", params={}, folder=tmp_path)
    with monkeypatch.context() as away:
        away.setattr(delivery.Delivery, "_send", lambda *_: time.sleep(60))
        run.log_metrics({"system/waiting": 1.0}, 7)
        run.measure_system()
        while run._load is not None and not (logged := [step for step, _ in run._waiting_points()][1:]):
            time.sleep(0.05)
    assert logged[0] == 8
    run.leave()


def test_what_cannot_be_reached_is_told_in_one_line(uri, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://user:secret@127.0.0.1:{unused.getsockname()[1]}"
        (tmp_path / "file").touch()
        for wrong, message in {
            nobody: "MLflow does not answer",
            f"sqlite:///{tmp_path}/file/mlflow.db": "cannot be written",
            f"sqlite:///{tmp_path}": "cannot be written",
        }.items():
            begin = time.monotonic()
            with pytest.raises(UserError, match=message) as error:
                start(wrong)
            assert "\n" not in str(error.value)
            assert "secret" not in str(error.value)
            assert time.monotonic() - begin < 2
    with pytest.raises(UserError, match="not found"):
        Run.reopen(uri, "0" * 32)
    with pytest.raises(UserError, match="MLflow"):
        Run.start(uri, "tests", "x", params={"not a name?": 1})


def test_what_a_store_refuses_keeps_nothing_else_from_it(uri, client, caplog):
    run = start(uri)
    run.log_metrics({"loss": 1.0}, 1)
    run.log_metrics({"not a name?": 1.0, "loss": 2.0}, 2)
    run.log_metrics({"loss": 3.0}, 3)
    with caplog.at_level(logging.WARNING), pytest.warns(UserNote) as notes:
        run.finish()
    assert points(client, run, "loss") == [(1, 1.0), (3, 3.0)]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith('MLflow does not take it, left out: points: Invalid value "not a name?"')
    (note,) = [str(note.message) for note in notes if note.category is UserNote]
    assert note.startswith("MLflow did not take 1 of what was logged, such as points: Invalid value")


@pytest.mark.slow
def test_mlflow_says_nothing_on_its_own(tmp_path):
    script = (
        "from pipelines.tracking.address import tracking_uri\n"
        "from pipelines.tracking.queries import model_folder\n"
        "from pipelines.tracking.runs import Run\n"
        "with Run.start(tracking_uri(), 'quiet', 'r', params={'a': 1}) as run: run.log_metrics({'x': 1.0}, 1)\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db"}


def test_an_experiment_opens_in_the_view_for_training(uri, client):
    run = Run.start(uri, "kinds", "one", params={})
    experiment = client.get_experiment(client.get_run(run.id).info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_description_is_replaced_and_cut_at_a_line(uri, client):
    run = Run.start(uri, "described", "one", params={})
    run.describe("before")
    run.describe("".join(f"{number:09d}\n" for number in range(1000)))
    assert run.flush()
    text = client.get_run(run.id).data.tags["mlflow.note.content"]
    assert text == "".join(f"{number:09d}\n" for number in range(800))
    assert run.artifact_link("samples/a b.gif") == f"get-artifact?path=samples%2Fa+b.gif&run_uuid={run.id}"
