"""Commands that run others on a cluster: what is refused here, and what is sent. The job server is made up."""

import os
from pathlib import Path

import pytest

from pipelines import job_commands
from pipelines.cli import main

URL = "http://10.0.0.1:8265"
NOT_SENT = (
    ": is not among the files that are sent"
    " (allowed: a file below the working directory that Git does not ignore and that is not hidden)"
)
AFTER = "(allowed: options, then -- and a command: intermoe submit -- train ...)"
STORAGE = "(allowed: a URI such as s3://BUCKET/FOLDER, or an absolute path on storage that all nodes share)"
SMOKE = Path(__file__).resolve().parents[2] / "sweeps" / "smoke.yaml"


class Server:
    """Takes every job."""

    sent: list[tuple] = []  # noqa: RUF012 - of all servers

    def __init__(self, address):
        self.address = address

    def send(self, job_id, entrypoint, runtime_environment, *, command, resume):
        assert (Path(runtime_environment["working_dir"]) / "pipelines/cli.py").is_file()
        self.sent.append((job_id, entrypoint, runtime_environment["env_vars"], command, resume))


@pytest.fixture(autouse=True)
def cluster(monkeypatch, tmp_path):
    for name in os.environ:
        if name.startswith(("AWS_", "GOOGLE_", "HF_", "INTERMOE_", "MLFLOW_TRACKING", "RAY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", URL)
    monkeypatch.setattr(job_commands, "JobServer", Server)
    monkeypatch.setattr(job_commands, "new_job_id", lambda verb: f"intermoe-{verb}-1")
    monkeypatch.setattr(job_commands, "watch", lambda server, job_id, hint: 7)
    monkeypatch.chdir(tmp_path)
    Server.sent.clear()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [],
            f"intermoe submit: the command is not given {AFTER}",
        ),
        (
            ["train", "vae"],
            f"intermoe submit: unknown: train vae {AFTER}",
        ),
        (
            ["--", "train", "vae", "--config", "duet"],
            "intermoe train: the following arguments are required: --data (allowed: see `intermoe train --help`)",
        ),
        (
            ["--", "intermoe", "ui"],
            "intermoe ui: is not for a cluster (allowed: run it on your own machine)",
        ),
        (
            ["--", "describe", "--config", "duet", "workers.count=0"],
            "duet: workers.count = 0 (allowed: greater than or equal to 1)",
        ),
        (
            ["--", "describe", "--config", "../duet.yaml"],
            f"--config ../duet.yaml{NOT_SENT}",
        ),
        (
            ["--", "sweep", "runs/s.yaml", "--out", "s3://b/o"],
            f"FILE runs/s.yaml{NOT_SENT}",
        ),
        (
            ["--", "preprocess", "bvh", "--root", "/s/r", "--out", "/s/o", "--mapping", "my.yaml"],
            f"--mapping my.yaml{NOT_SENT}",
        ),
        (
            ["--", "sweep", "relative.yaml", "--out", "s3://b/o"],
            f"relative.yaml: data.root raw: is below the job's working directory, which goes with the job {STORAGE}",
        ),
        (
            ["--address", "10.0.0.1:8265", "--", "describe", "--config", "duet"],
            "--address 10.0.0.1:8265: is not the address of a job server (allowed: such as http://HOST:8265)",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(capsys, words, message):
    Path("relative.yaml").write_text(
        SMOKE.read_text().replace("{format: duet, count: 48}", "{format: interhuman, root: raw}")
    )
    assert main(["submit", *words]) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")
    assert Server.sent == []


def test_an_address_must_be_known(capsys, monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert main(["jobs"]) == 2
    assert capsys.readouterr().err == (
        "error: the address of the cluster's job server is not set"
        " (allowed: --address URL or RAY_API_SERVER_ADDRESS, such as http://HOST:8265)\n"
    )


def test_a_command_is_sent_with_its_words_and_its_environment(capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example.org")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/root/key.json")
    Path("my.yaml").write_text("name: mine")
    command = "train vae --config duet --data s3://b/d --out s3://b/o seed=2"
    assert main(["submit", "--", "intermoe", *command.split()]) == 7, "the job's exit code"
    ((job_id, line, variables, shown, resume),) = Server.sent
    assert job_id == "intermoe-train-1"
    assert line == f"exec sh pipelines/cluster/entrypoint.sh {command}"
    assert variables["AWS_SECRET_ACCESS_KEY"] == "secret"
    assert variables["MLFLOW_TRACKING_URI"] == "https://me:secret@mlflow.example.org"
    assert (shown, resume) == (command, f"intermoe submit -- {command} --resume")
    out, err = capsys.readouterr()
    first, *rest = out.splitlines()
    assert first.startswith(f"job intermoe-train-1 is sent to {URL}: ")
    assert first.endswith(" MB")
    assert rest == [
        "handed on from this environment: AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_URI",
        f"dashboard: {URL}/#/jobs/intermoe-train-1",
        "`intermoe logs intermoe-train-1 --follow` shows it, `intermoe stop intermoe-train-1` stops it",
    ]
    assert err == "note: GOOGLE_APPLICATION_CREDENTIALS names a file of this machine and is not handed on\n"
    assert "secret" not in out + err


def test_a_detached_job_is_left_alone(capsys, monkeypatch):
    monkeypatch.setattr(job_commands, "watch", lambda *_: pytest.fail("the log is followed"))
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS")
    words = ["--detach", "--address", URL, "--", "sweep", "s.yaml", "--out", "/s/o", "--resume"]
    Path("s.yaml").write_text(SMOKE.read_text())
    assert main(["submit", *words]) == 0
    assert Server.sent[0][4] == f"intermoe submit --address {URL} -- sweep s.yaml --out /s/o --resume"
    out, err = capsys.readouterr()
    assert f"`intermoe logs intermoe-sweep-1 --follow --address {URL}` shows it" in out
    assert "handed on from this environment: nothing\n" in out
    assert err == "note: MLFLOW_TRACKING_URI is not set here, so the cluster's own is used\n"


def test_a_command_that_cannot_resume_has_no_such_line():
    assert main(["submit", "--detach", "--", "describe", "--config", "duet"]) == 0
    assert Server.sent[0][4] is None
