"""Whole sweeps by the command, small: interrupted and not, changed, with trials that fail or are stopped early."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow import MlflowClient

from pipelines.site import Site
from pipelines.sweep.file import load as load_sweep
from pipelines.sweep.request import SweepRequest
from pipelines.sweep.sweep import sweep
from pipelines.train.run_folder import resumable_step

ROOT = Path(__file__).resolve().parents[3]
SMOKE = ROOT / "sweeps" / "smoke.yaml"
TOOL = Path(sys.executable).with_name("intermoe")

pytestmark = pytest.mark.ray


def begin(folder: Path, *words: object, command: list[str] | None = None) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    environment["HF_HUB_CACHE"] = str(folder / "no-cache")
    command = command or [str(TOOL), "sweep", *map(str, words), "--out", "out"]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(folder: Path, *words: object, status: int = 0) -> str:
    process = begin(folder, *words)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == status, printed
    return printed


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "out/report/tables.csv").read_text().splitlines()))


def outcomes(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("out/trials/*/trial.json")}


def runs_of(folder: Path) -> tuple[MlflowClient, list, list]:
    """The sweep's runs and the trials' runs in the store of that folder."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(ids)
    note = json.loads((folder / "out/sweep.json").read_text())
    parents = [run for run in found if run.info.run_id == note["run_id"]]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == note["run_id"]]
    return client, parents, children


def write_sweep(file: Path, values: dict) -> Path:
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, clip_folder) -> Path:
    """The smallest sweep with the paper's text encoder: a small CLIP in a folder that is not the hub's cache."""
    values = yaml.safe_load(SMOKE.read_text())
    # Two trials, of the three points that are left: they run at once.
    values["points"] = [point for point in values["points"] if point["name"] != "dense"]
    del values["tables"]["2"]["rows"]["Baseline"]
    profile = values["profiles"]["tiny"]
    profile["data"] |= {"encoder": "clip", "text_folder": str(clip_folder)}
    vocabulary = len(json.loads((clip_folder / "vocab.json").read_text()))
    profile["set"] |= {"data.encoder": "clip", "evaluator.text": "tokens", "evaluator.vocabulary": vocabulary}
    return write_sweep(tmp_path_factory.mktemp("smoke") / "smoke.yaml", values)


@pytest.fixture(scope="module")
def whole(smoke, tmp_path_factory) -> Path:
    """A sweep that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    printed = run(folder, smoke)
    assert "report.html has the tables and plots" in printed
    assert "(raylet)" not in printed, "a line of Ray's, among ours"
    return folder


@pytest.fixture
def begun(whole, tmp_path, monkeypatch) -> Callable[[Path], Path]:
    """A function that begins a sweep as far as its note, with the shards, VAE and evaluator of ``whole``; its folder.

    They are what this sweep would make: their folders are named by a hash of their inputs.
    """

    def begun(file: Path) -> Path:
        class Interrupted(Exception):
            pass

        def interrupt(*_: object) -> None:
            raise Interrupted

        monkeypatch.setattr("pipelines.sweep.sweep.make_shared", interrupt)
        with pytest.raises(Interrupted):
            sweep(SweepRequest(load_sweep(file), tmp_path / "out", Site(f"sqlite:///{tmp_path}/mlflow.db")).checked())
        shutil.copytree(whole / "out/shared", tmp_path / "out/shared")
        return tmp_path

    return begun


@pytest.mark.slow
def test_a_sweep_is_one_run_with_a_child_for_each_trial(whole):
    client, (parent,), children = runs_of(whole)
    assert parent.info.status == "FINISHED"
    assert {run.info.status for run in children} == {"FINISHED"}
    tags = {run.data.tags["intermoe.point"]: run.data.tags for run in children}
    assert tags.keys() == {"full, c-exp-1", "c-exp-2"}
    assert tags["full, c-exp-1"]["intermoe.rows"] == "2: Ours Full; 5: 1"
    assert tags["full, c-exp-1"]["intermoe.tables"] == "2, 5"
    assert tags["c-exp-2"]["intermoe.seed"] == "0"
    for child in children:
        assert child.data.metrics["generated/fid"] > 0
        steps = [metric.step for metric in client.get_metric_history(child.info.run_id, "loss/train")]
        assert steps == sorted(set(steps))
        assert steps[-1] == 28
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {
        "report.html",
        "report.md",
        "tables.csv",
        "orders.csv",
        "over-moe.c_exp.png",
        "training.png",
        "cost.png",
    } <= files
    assert "smoke.yaml" in files
    rows = [row for row in table(whole) if row["table"] in ("2", "5")]
    assert len(rows) == 6
    assert all(float(row["run_here"]) >= 0 for row in rows)
    page = (whole / "out/report/report.html").read_text()
    assert page.count("<img") == 3  # over C_exp, training, cost
    assert not (whole / "out/tune").exists()


def kill_with_all_it_started(process: subprocess.Popen) -> None:
    """As when the machine goes down."""
    others = psutil.Process(process.pid).children(recursive=True)
    for victim in (process, *others):
        with suppress(psutil.NoSuchProcess):
            victim.kill()
    process.communicate()


@pytest.mark.faults
def test_killed_and_resumed_it_ends_in_the_same_table_and_nothing_is_done_twice(smoke, whole, begun, tmp_path):
    """One trial is done when it is killed, one is in its training, and one is new when it goes on: a point changes."""
    values = yaml.safe_load(smoke.read_text())
    values["profiles"]["tiny"]["concurrent"] = 1
    first, second = (trial.key for trial in load_sweep(smoke).trials)
    training = tmp_path / "out/trials" / second / "denoiser"
    process = begin(begun(write_sweep(tmp_path / "in-turns.yaml", values)), tmp_path / "in-turns.yaml", "--resume")
    deadline = time.monotonic() + 300
    while resumable_step(training) < 8 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    kill_with_all_it_started(process)
    assert 8 <= resumable_step(training) < 29
    done = outcomes(tmp_path)
    assert done.keys() == {first}

    # What the changed point comes down to is trained, and what was not done; nothing else.
    values = yaml.safe_load(smoke.read_text())
    full, changed, _ = values["points"]
    del full["rows"]["5"]
    changed["set"]["moe.c_exp"] = 3
    run(tmp_path, write_sweep(tmp_path / "changed.yaml", values), "--resume")
    after = outcomes(tmp_path)
    assert len(after) == 3
    assert after[first] == done[first]
    client, (parent,), children = runs_of(tmp_path)
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["intermoe.point"] for run in children} == {"full", "c-exp-1", "c-exp-2"}
    assert len(children) == 3
    for child in children:
        steps = [metric.step for metric in client.get_metric_history(child.info.run_id, "loss/train")]
        assert steps == [4, 8, 12, 16, 20, 24, 28]
        assert child.info.status == "FINISHED"
    before, now = (
        {(row["table"], row["row"], row["measure"]): row["run_here"] for row in table(folder) if row["table"]}
        for folder in (whole, tmp_path)
    )
    different = {key for key in before if before[key] != now[key]}
    assert ("5", "1", "fid") in different
    assert different <= {("5", "1", "fid"), ("5", "1", "r_precision_top1")}


# The command in a Ray of its own, which is then asked whether all that the sweep has taken is free again.
FREED = """
import sys, time
import ray
from pipelines.cli import main
from pipelines.cluster.session import ray_session

with ray_session():
    print("status:", main(["sweep", sys.argv[1], "--out", "out", "--resume"]))
    deadline = time.monotonic() + 180
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"] and time.monotonic() < deadline:
        time.sleep(0.5)
    print("CPUs in use:", ray.cluster_resources()["CPU"] - ray.available_resources().get("CPU", 0))
    groups = ray.util.placement_group_table().values()
    print("groups:", {group["state"] for group in groups} - {"REMOVED"})
"""


@pytest.mark.slow
def test_trials_that_fail_or_fall_behind_do_not_stop_the_others_and_free_what_they_had(smoke, begun, tmp_path):
    """One place at a time, ASHA, and one trial in whose place a file lies."""
    values = yaml.safe_load(smoke.read_text())
    tiny = values["profiles"]["tiny"]
    tiny |= {"concurrent": 1, "asha": {"grace_steps": 8, "reduction": 2}}
    # Learning rates that differ: the second is behind at the first rung.
    values["points"] = [
        {"name": "good", "set": {"train.denoiser.learning_rate": 0.01}},
        {"name": "slow", "set": {"train.denoiser.learning_rate": 0.0000001}},
        {"name": "broken", "set": {"train.denoiser.learning_rate": 0.02}},
    ]
    file = write_sweep(tmp_path / "asha.yaml", values)
    keys = {trial.points[0]: trial.key for trial in load_sweep(file).trials}
    obstacle = begun(file) / "out/trials" / keys["broken"] / "denoiser"
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("in the way")
    process = begin(tmp_path, command=[sys.executable, "-c", FREED, str(file)])
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed
    assert printed.splitlines()[-3:] == ["status: 2", "CPUs in use: 0.0", "groups: set()"]
    assert "1 trials failed: broken-seed0" in printed
    assert (tmp_path / "out/trials" / keys["good"] / "trial.json").is_file()
    assert json.loads((tmp_path / "out/trials" / keys["slow"] / "stopped.json").read_text())["step"] == 8
    _, _, children = runs_of(tmp_path)
    states = {run.data.tags["intermoe.point"]: run.info.status for run in children}
    assert states == {"good": "FINISHED", "slow": "KILLED"}
    report = (tmp_path / "out/report/report.md").read_text()
    assert "Failed: broken-seed0: " in report
    assert "in the way" not in report
    assert "Not done, or stopped early: slow-seed0." in report
