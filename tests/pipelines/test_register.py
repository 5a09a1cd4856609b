"""A trained denoiser in MLflow's registry: what is registered, generated with, and served."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from small_model import save_model, small_model

from intermoe.errors import UserError
from intermoe.model import InterMoE
from pipelines.register import register
from pipelines.tracking.queries import model_folder
from pipelines.tracking.registry import request_example

PROMPT, SECONDS, SEED = "They bow.", 1.0, 3


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose weights are random."""
    folder = tmp_path_factory.mktemp("run") / "denoiser"
    save_model(folder / "best", small_model())
    return folder


@pytest.fixture(scope="module")
def registered(run, uri):
    return register(run, uri, alias="best", name="small")


def test_each_registration_is_a_version_and_the_alias_means_the_newest(run, uri):
    first, second = (register(run, uri, alias="newest", name="twice") for _ in range(2))
    assert (first.version, second.version, second.uri) == (1, 2, "models:/twice@newest")
    client = MlflowClient(uri)
    assert int(client.get_model_version_by_alias("twice", "newest").version) == 2


def test_a_registered_model_is_the_one_of_the_run(registered, run, uri):
    for name in ("models:/small@best", "models:/small/1"):
        model = InterMoE.load(model_folder(name, uri))
        theirs = model.generate(PROMPT, seconds=SECONDS, seed=SEED)
        assert (theirs.joints == InterMoE.load(run).generate(PROMPT, seconds=SECONDS, seed=SEED).joints).all()


def test_its_card_says_what_it_is(registered, uri):
    card = MlflowClient(uri).get_model_version("small", "1").description
    assert card.startswith("# small\n\nTurns a sentence into the motion of two people: the InterMoE generator")
    for part in (
        "## Data\n\nNot noted.",
        "Not evaluated yet",
        "models:/small@best",
        json.dumps(request_example("bvh")),
    ):
        assert part in card


def test_nothing_of_it_is_pickled(registered, uri):
    folder = model_folder("models:/small@best", uri).parents[1]
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes <= {"", ".json", ".md", ".py", ".safetensors", ".sh", ".txt", ".typed", ".yaml"}
    assert (folder / "MLmodel").is_file()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("models:/small", "models:/small: names no version (allowed: models:/NAME@ALIAS, models:/NAME/VERSION)"),
        ("models:/small@none", "{uri}: MLflow: Registered model alias none not found."),
        ("models:/other/1", "{uri}: MLflow: Model Version (name=other, version=1) not found"),
    ],
)
def test_a_model_that_is_not_registered_is_one_line(registered, uri, model, message):
    with pytest.raises(UserError) as caught:
        model_folder(model, uri)
    assert str(caught.value) == message.format(uri=uri)


@pytest.fixture(scope="module")
def served(registered, uri, tmp_path_factory):
    """The address of `mlflow models serve` as the model's card shows it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("serve")
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", registered.uri]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--env-manager", "local", "--port", str(port)],
            env={**os.environ, "MLFLOW_TRACKING_URI": uri, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 180
            while True:
                try:
                    requests.get(f"http://127.0.0.1:{port}/ping", timeout=5).raise_for_status()
                    break
                except requests.RequestException:
                    assert server.poll() is None, (folder / "log").read_text()
                    assert time.monotonic() < deadline, (folder / "log").read_text()
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


@pytest.mark.slow
def test_mlflow_serves_it_and_answers_as_generate_does(served, run, tmp_path):
    row: Any = {"prompt": PROMPT, "seconds": SECONDS, "seed": SEED}
    motion = InterMoE.load(run).generate(PROMPT, seconds=SECONDS, seed=SEED)
    texts = [Path(str(file)).read_text() for file in motion.save(tmp_path / "bow.bvh")]
    answer = requests.post(served, json={"dataframe_records": [row], "params": {"format": "bvh"}}, timeout=60)
    assert answer.json() == {"predictions": [{"prompt": PROMPT, "fps": 30, "bvh": texts}]}
    answer = requests.post(served, json={"dataframe_records": [row, {**row, "prompt": "Hug!"}]}, timeout=60)
    bow, hug = answer.json()["predictions"]
    assert bow["joints"] == motion.joints.tolist()
    assert hug["joints"] != bow["joints"]
    for wrong, reason in (({"seconds": 1000.0}, "1000"), ({"prompt": " "}, "empty"), ({"seed": -1}, "seed -1")):
        answer = requests.post(served, json={"dataframe_records": [row | wrong]}, timeout=60)
        assert (answer.status_code, reason in answer.text) == (400, True), answer.text
