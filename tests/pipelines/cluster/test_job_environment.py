"""What a command may rely on as a job of a cluster."""

from pathlib import Path

import pytest

from intermoe.errors import UserError
from pipelines.cli import main
from pipelines.cluster.job_environment import check_command, check_in_job, check_tracking, in_ray_job
from pipelines.grammar import parse

STORAGE = "(allowed: a URI such as s3://BUCKET/FOLDER, or an absolute path on storage that all nodes share)"
PATH = "is no path of the nodes (allowed: an absolute path on storage that all nodes share)"
GOES = "is below the job's working directory, which goes with the job"
DEFAULT = "is not given, and its default is a folder of the job's working directory, which goes with it"
STORE = "(allowed: the address of an MLflow server that every node reaches, such as https://mlflow.example.org)"
TRAIN = "train vae --config duet --data s3://b/shards"


@pytest.fixture(autouse=True)
def outside_of_a_job(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def job(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")


def refusal(check, *arguments):
    with pytest.raises(UserError) as caught:
        check(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (f"{TRAIN} --out runs/x", f"--out runs/x: {GOES} {STORAGE}"),
        (TRAIN, f"intermoe train: --out {DEFAULT} {STORAGE}"),
        ("train vae --config duet --data shards --out /s/x", f"--data shards: {GOES} {STORAGE}"),
        (f"{TRAIN} --out /s/x --vae runs/vae", f"--vae runs/vae: {GOES} {STORAGE}"),
        (f"{TRAIN} --out /s/x --text-folder clip", f"--text-folder clip: {PATH}"),
        (f"{TRAIN} --out /s/x --word-vectors glove", f"--word-vectors glove: {PATH}"),
        ("preprocess bvh --root raw --out s3://b/o", f"--root raw: {GOES} {STORAGE}"),
        ("preprocess duet --out s3://b/o --statistics-of old", f"--statistics-of old: {GOES} {STORAGE}"),
        ("generate p --model runs/d --out /s/o", f"--model runs/d: {GOES} {STORAGE}"),
        ("evaluate --model /s/m --out /s/o", f"intermoe evaluate: --evaluator {DEFAULT} {STORAGE}"),
        (f"evaluate --model {32 * 'a'} --evaluator /s/e --out /s/o", f"--model {32 * 'a'}: {GOES} {STORAGE}"),
        ("evaluate --model /s/m --evaluator e --out /s/o", f"--evaluator e: {GOES} {STORAGE}"),
        ("sweep f.yaml", f"intermoe sweep: --out {DEFAULT} {STORAGE}"),
        ("report runs/s", f"SWEEP runs/s: {GOES} {STORAGE}"),
        (
            "import published --stats stats --denoiser /s/d --vae /s/v --out /s/o",
            f"--stats stats: {PATH}",
        ),
        ("ui", "intermoe ui: is not for a cluster (allowed: run it on your own machine)"),
        ("demo", "intermoe demo: is not for a cluster (allowed: run it on your own machine)"),
        (
            "submit -- describe --config duet",
            "intermoe submit: is not for a cluster (allowed: run it on your own machine)",
        ),
    ],
)
def test_what_is_not_there_for_all_nodes_is_refused(command, message):
    assert refusal(check_command, parse(command.split())) == message


@pytest.mark.parametrize(
    "command",
    [
        f"{TRAIN} --out s3://b/runs/x",
        f"{TRAIN} --out=s3://b/x --vae /shared/vae",
        f"{TRAIN} --out file:///shared/x",
        "preprocess duet --out /shared/o",
        f"generate p --model {32 * 'a'} --out /s/o",
        "generate p --model models:/m@best --out /s/o",
        "evaluate --model /s/runs/m --evaluator /s/runs/e --out /s/o",
        "sweep f.yaml --dry-run",
        "report /shared/s",
        "describe --config duet",
        "bench moe",
    ],
)
def test_what_is_there_for_all_nodes_passes(command):
    check_command(parse(command.split()))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("mlruns", f"MLFLOW_TRACKING_URI mlruns: is a store in a file of one machine {STORE}"),
        ("file:///s/mlruns", f"MLFLOW_TRACKING_URI file:///s/mlruns: is a store in a file of one machine {STORE}"),
        ("sqlite:////s/m.db", f"MLFLOW_TRACKING_URI sqlite:////s/m.db: is a store in a file of one machine {STORE}"),
        (
            "http://me:secret@127.0.0.1:5000",
            f"MLFLOW_TRACKING_URI http://127.0.0.1:5000: is an address of this machine alone {STORE}",
        ),
    ],
)
def test_a_store_that_one_machine_sees_is_refused(uri, message):
    assert refusal(check_tracking, uri) == message


def test_a_driver_is_known_by_its_environment_or_its_folder(monkeypatch, tmp_path):
    assert not in_ray_job()
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert in_ray_job()
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    folder = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert in_ray_job()


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    ("uri", "command", "message"),
    [
        (None, f"{TRAIN} --out runs/x", f"--out runs/x: {GOES} {STORAGE}"),
        (None, f"{TRAIN} --out s3://b/x", f"MLFLOW_TRACKING_URI is not set, and a job keeps no store {STORE}"),
        (
            None,
            f"generate p --model {32 * 'a'} --out /s/o",
            f"MLFLOW_TRACKING_URI is not set, and a job keeps no store {STORE}",
        ),
        (
            "sqlite:////m.db",
            f"{TRAIN} --out s3://b/x",
            f"MLFLOW_TRACKING_URI sqlite:////m.db: is a store in a file of one machine {STORE}",
        ),
    ],
)
def test_a_job_that_would_lose_its_results_is_refused(monkeypatch, capsys, uri, command, message):
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert main(command.split()) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("job")
def test_a_job_whose_results_stay_is_not_refused(monkeypatch):
    check_in_job(parse(["preprocess", "duet", "--out", "s3://b/o"]))
    check_in_job(parse(["generate", "p", "--model", "/s/m", "--out", "/s/o"]))
    # On a cluster of one node, a server on loopback is one that every node reaches.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    check_in_job(parse(f"{TRAIN} --out s3://b/x".split()))


def test_outside_of_a_job_every_path_may_be_relative():
    check_in_job(parse(f"{TRAIN} --out runs/x".split()))


@pytest.mark.usefixtures("job")
def test_relative_recordings_of_a_sweep_file_are_refused_in_a_job(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    smoke = (Path(__file__).resolve().parents[3] / "sweeps" / "smoke.yaml").read_text()
    Path("s.yaml").write_text(smoke.replace("{format: duet, count: 48}", "{format: interhuman, root: raw}"))
    assert main(["sweep", "s.yaml", "--out", "/shared/s"]) == 2
    assert capsys.readouterr().err == f"error: s.yaml: data.root raw: {GOES} {STORAGE}\n"
