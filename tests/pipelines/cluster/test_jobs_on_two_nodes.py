"""The README's commands as jobs: two nodes that share nothing but S3 and an MLflow server, each behind a password."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from mlflow_server import PASSWORD, mlflow_server
from s3 import s3_server
from two_nodes import ROOT, TwoNodes, cluster

from intermoe import checkpoint
from intermoe.files import contents
from intermoe.places import Place, as_place

SECONDS = 600
# Of a command in the README: what makes minutes of it.
TINY = """
vae.width=8 vae.latent=4 vae.blocks=1 train.vae.window=16 train.vae.batch_size=8 train.vae.epochs=0.5
train.vae.log_every=1 train.vae.validate_every=1000 train.vae.checkpoint_every=4 workers.placement=spread
"""
SMALLER = {"preprocess": ["--count", "24"], "train": TINY.split()}
COMMANDS = re.findall(r"^intermoe ((?:submit|jobs).*)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)


class User:
    """Somebody with a shell on a machine that is no node of the cluster."""

    def __init__(self, nodes: TwoNodes, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._environment = {**nodes.environment, **environment, "PATH": "/usr/bin:/bin", "HOME": str(folder)}

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *words],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> tuple[int, str]:
        """Exit status and all that was printed."""
        out, err = (started := self.start(*words)).communicate(timeout=SECONDS)
        return started.returncode, out + err


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[User, str, Place]]:
    """A user of a cluster, the address of the MLflow server, and the bucket."""
    folder = tmp_path_factory.mktemp("servers")
    with (
        cluster() as nodes,
        s3_server(nodes.host) as bucket,
        mlflow_server(folder, nodes.host, artifacts=f"{bucket}/mlflow") as mlflow,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("MLFLOW_TRACKING_URI", mlflow)
        patch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        patch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        patch.setenv("INTERMOE_CACHE", str(folder / "cache"))
        handed = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "MLFLOW_TRACKING"))}
        for address in (f"http://{nodes.head.address}:8265/api/jobs/", f"{mlflow}/api/2.0/mlflow/experiments/search"):
            assert requests.get(address, timeout=30).status_code == 401
        yield User(nodes, tmp_path_factory.mktemp("user"), handed), mlflow, as_place(bucket)


def words_of(line: str, bucket: Place) -> list[str]:
    words = line.replace("s3://BUCKET", str(bucket)).split()
    return [*words, *(SMALLER[words[2]] if words[0] == "submit" else [])]


def weights(run: Place) -> dict[str, bytes]:
    newest = checkpoint.latest(run / "checkpoints")
    assert newest is not None
    return {file.name: file.read_bytes() for file in checkpoint.verify(newest) if file.suffix == ".safetensors"}


@pytest.mark.faults
def test_jobs_keep_everything_and_end_as_they_should(user) -> None:
    me, mlflow, bucket = user
    preprocess, train, jobs = (words_of(line, bucket) for line in COMMANDS)
    assert (preprocess[:3], train[:3], jobs) == (["submit", "--", "preprocess"], ["submit", "--", "train"], ["jobs"])
    code, text = me.run(*preprocess)
    assert code == 0, text

    # The same training as a job that is stopped and goes on, beside one that is left alone.
    code, text = me.run(*train)
    assert code == 0, text
    run = bucket / "runs" / "vae"
    assert re.search(r"train vae: 2 workers on 10\.\S+\.2, 10\.\S+\.3\n", text), text
    assert f"{run}/best holds the model" in text
    assert sorted(path.name for path in contents(run)) == ["best", "checkpoints", "run.json"]
    client = MlflowClient(mlflow)
    (experiment,) = (e for e in client.search_experiments() if e.name == "duet")
    (logged,) = client.search_runs([experiment.experiment_id])
    assert (logged.info.status, logged.data.tags["intermoe.out"]) == ("FINISHED", str(run))
    assert [path.path for path in client.list_artifacts(logged.info.run_id)] != []

    # The folder is taken now: a mistake of the user is exit status 2, here as there.
    code, text = me.run(*train)
    assert code == 2, text
    assert f"error: {run}: exists already and is not overwritten" in text

    again = [word.replace("runs/vae", "runs/stopped") for word in train]
    started = me.start(*again)
    stopped = bucket / "runs" / "stopped"
    deadline = time.monotonic() + SECONDS
    while checkpoint.latest(stopped / "checkpoints") is None:
        assert started.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    job = next(line.split()[1] for line in iter(started.stdout.readline, "") if line.startswith("job "))
    code, text = me.run("stop", job)
    assert code == 0, text
    out, err = started.communicate(timeout=SECONDS)
    assert started.returncode != 0
    assert "--resume" in out + err
    code, text = me.run(*again, "--resume")
    assert code == 0, text
    assert weights(stopped) == weights(run)

    code, text = me.run(*jobs)
    assert code == 0
    assert [text.count(f"  {state}  ") for state in ("succeeded", "failed   ", "stopped  ")] == [3, 1, 1], text
