"""A trained denoiser in MLflow's registry: what is registered, generated with, and served."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from mlflow import MlflowClient
from mlflow_server import PASSWORD, mlflow_server
from small_model import save_model, small_evaluator, small_model
from toy_shards import write_shards

from intermoe import checkpoint
from intermoe.errors import UserError
from intermoe.model import InterMoE
from pipelines.cli import main
from pipelines.register import model_card, register
from pipelines.tracking import queries
from pipelines.tracking.client import experiment_named
from pipelines.tracking.queries import model_folder
from pipelines.tracking.registry import default_store, request_example
from pipelines.tracking.runs import Run
from pipelines.train.run_folder import note_run

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


@pytest.fixture(scope="module")
def foreign(uri, tmp_path_factory) -> None:
    """A registered model that is none of ours, in version 1."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "MLmodel").write_text("flavors: {}\n")
    client = MlflowClient(uri)
    model = client.create_logged_model(experiment_named(client, uri, "other"), name="foreign")
    client.log_model_artifacts(model.model_id, str(folder))
    client.create_registered_model("foreign")
    with default_store(uri):
        client.create_model_version("foreign", f"models:/{model.model_id}", model_id=model.model_id)


def test_a_default_store_is_gone_after_its_block(uri, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with default_store(uri):
        assert (mlflow.get_tracking_uri(), os.environ["MLFLOW_TRACKING_URI"]) == (uri, uri)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert not mlflow.is_tracking_uri_set()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mine")
    with default_store(uri):
        assert mlflow.get_tracking_uri() == uri
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://mine"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other")
    assert mlflow.get_tracking_uri() == "http://other", "nothing but the environment says so"
    # As a program does with `mlflow.set_tracking_uri`.
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", "http://program")
    with default_store(uri):
        assert (mlflow.get_tracking_uri(), os.environ["MLFLOW_TRACKING_URI"]) == (uri, uri)
    assert (mlflow.get_tracking_uri(), os.environ["MLFLOW_TRACKING_URI"]) == ("http://program", "http://other")


def test_the_command_names_version_alias_and_uri(run, uri, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert main(["register", str(run), "--alias", "best", "--name", "told"]) == 0
    assert capsys.readouterr().out == (
        "models:/told@best is version 1 of told: `intermoe generate --model models:/told@best` uses it\n"
    )


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


def test_its_card_states_the_data_and_the_newest_evaluation(uri, tmp_path):
    shards = write_shards(tmp_path / "shards", {"train": 3, "val": 1, "test": 1})
    out = tmp_path / "denoiser"
    save_model(out / "best", small_model())
    with Run.start(uri, "measured", "denoiser", params={}) as training:
        training.log_checkpoint(out / "best", 1, {"loss": 0.5})
    note_run(out, run_id=training.id, tracking_uri=uri, data=shards.path, identity={})
    for fid, step in ((9.0, 20), (2.5, 0)):
        with Run.start(uri, "measured", "evaluate", params={}) as evaluation:
            evaluation.log_evaluated(training.id, {"fid": fid, "r_precision/top1": 0.25}, step)
        time.sleep(0.002)  # MLflow's clock counts milliseconds
    register(out, uri, alias="best", name="measured")
    version = MlflowClient(uri).get_model_version("measured", "1")
    assert version.run_id == training.id
    data, _, rest = version.description.partition("## Data\n\n")[2].partition("\n\n## Measures\n\n")
    card = shards.card
    assert data == (
        f"`{card.name}`: 3 recordings of the training split, {card.captions:,} captions with all their forms. Its "
        "licence is not stated in the shards: ask where the recordings come from before you share the model."
    )
    assert rest.partition("\n\n## Use")[0] == (
        "| measure | run here |\n|---|---|\n| fid | 2.5 |\n| r_precision/top1 | 0.25 |"
    )
    folder = model_folder("models:/measured@best", uri).parents[1]
    assert (folder / "README.md").read_text("utf-8") == version.description


def test_a_run_that_another_store_recorded_is_registered(uri, tmp_path):
    out = tmp_path / "denoiser"
    save_model(out / "best", small_model())
    note_run(out, run_id="0" * 32, tracking_uri="http://elsewhere", data=tmp_path / "gone", identity={})
    assert register(out, uri, alias="best", name="from-elsewhere").version == 1
    assert not MlflowClient(uri).get_model_version("from-elsewhere", "1").run_id


def test_a_model_that_reads_with_clip_is_registered_without_the_weights_of_clip(uri, tmp_path):
    save_model(tmp_path / "best", small_model(data={"encoder": "clip"}))
    register(tmp_path, uri, alias="best", name="clip")
    folder = model_folder("models:/clip@best", uri)
    assert {file.name for file in folder.iterdir()} == {file.name for file in (tmp_path / "best").iterdir()}


def test_what_is_no_denoiser_is_refused(uri, tmp_path):
    model = small_evaluator(small_model())
    tensors = {name: part.state_dict() for name, part in model.parts().items()}
    documents = {"config": model.config.model_dump(mode="json"), "state": {"step": 1, "target": "evaluator"}}
    checkpoint.save(tmp_path / "best", tensors=tensors, documents=documents)
    with pytest.raises(UserError) as caught:
        register(tmp_path, uri, alias="best")
    assert str(caught.value) == (
        f"{tmp_path}/best: is a trained evaluator (allowed: a run of `intermoe train denoiser`)"
    )


@pytest.mark.slow
def test_a_server_hands_a_model_out_once(run, tmp_path, monkeypatch):
    """Behind basic auth, artifacts through the server, which is all that a user's machine reaches."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    monkeypatch.setenv("INTERMOE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server") as address:
        uri = register(run, address, alias="best", name="small").uri
        folder = model_folder(uri, address)
        copies = [file.parent for file in (tmp_path / "cache").rglob("*") if file.is_file()]
        assert set(copies) == {folder}  # the weights alone, without the code that is served
        monkeypatch.setattr(queries, "download_artifacts", None)
        assert model_folder("models:/small/1", address) == folder
    theirs, ours = (InterMoE.load(at).generate(PROMPT, seconds=SECONDS, seed=SEED) for at in (folder, run))
    assert (theirs.joints == ours.joints).all()


def test_nothing_of_it_is_pickled(registered, uri):
    folder = model_folder("models:/small@best", uri).parents[1]
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    of_page = {".css", ".glsl", ".html", ".js"}
    assert suffixes - of_page <= {"", ".json", ".md", ".py", ".safetensors", ".sh", ".txt", ".typed", ".yaml"}
    assert (folder / "MLmodel").is_file()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("models:/small", "models:/small: names no version (allowed: models:/NAME@ALIAS, models:/NAME/VERSION)"),
        ("models:/small@none", "{uri}: MLflow: Registered model alias none not found."),
        ("models:/other/1", "{uri}: MLflow: Model Version (name=other, version=1) not found"),
        ("models:/foreign/1", "models:/foreign/1: is no model of `intermoe register`"),
    ],
)
def test_a_model_that_is_not_one_of_register_is_one_line(foreign, registered, uri, model, message):
    with pytest.raises(UserError) as caught:
        model_folder(model, uri)
    assert str(caught.value) == message.format(uri=uri)


def served_command(text: str) -> str:
    """The command line in a text that serves a model."""
    return next(line for line in text.splitlines() if line.startswith("mlflow models serve "))


def test_the_readme_serves_a_model_as_its_card_does():
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    card = model_card("duet", "best", {"config": {}}, data=None, measured={})
    assert served_command(readme) == served_command(card)


@pytest.fixture(scope="module")
def served(registered, uri, tmp_path_factory):
    """The address of `mlflow models serve` as the model's card shows it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("serve")
    card = str(MlflowClient(uri).get_model_version_by_alias("small", "best").description)
    command = [sys.executable, "-m", *shlex.split(served_command(card).replace("--port 5001", f"--port {port}"))]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command,
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
def test_mlflow_serves_it_and_answers_as_generate_does(served, run, registered, uri, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    files = {}
    for model in (registered.uri, str(run)):
        out = tmp_path / str(len(files))
        words = ["--seconds", str(SECONDS), "--seed", str(SEED), "--out", str(out)]
        assert main(["generate", PROMPT, "--model", model, *words]) == 0
        # A video's bytes differ each time it is encoded.
        files[model] = {file.name: file.read_bytes() for file in out.iterdir() if file.suffix != ".mp4"}
    assert files[registered.uri] == files[str(run)]
    texts = [files[str(run)][f"00_they-bow_person{person}.bvh"].decode() for person in (1, 2)]
    row: Any = {"prompt": PROMPT, "seconds": SECONDS, "seed": SEED}
    answer = requests.post(served, json={"dataframe_records": [row], "params": {"format": "bvh"}}, timeout=60)
    assert answer.json() == {"predictions": [{"prompt": PROMPT, "fps": 30, "bvh": texts}]}
    answer = requests.post(served, json={"dataframe_records": [row, {**row, "prompt": "Hug!"}]}, timeout=60)
    bow, hug = answer.json()["predictions"]
    assert bow["joints"] == InterMoE.load(run).generate(PROMPT, seconds=SECONDS, seed=SEED).joints.tolist()
    assert hug["joints"] != bow["joints"]
    answer = requests.post(served, json={"dataframe_records": [row | {"seed": -1}]}, timeout=60)
    assert answer.status_code == 400
    # MLflow puts the rows before it.
    assert answer.json()["message"].endswith("\nError: row 1 of 1: seed -1 (allowed: 0 or more)")
