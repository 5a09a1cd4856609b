"""Jobs on a cluster of two nodes with networks, addresses and disks of their own."""

import json
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient
from toy_shards import write_shards
from two_nodes import TwoNodes, two_nodes  # noqa: F401 - a fixture

from intermoe.data.shards import DatasetFolder
from intermoe.training.objective import Means
from intermoe.training.step import TrainingStep
from pipelines import settings
from pipelines.site import Site
from pipelines.train.objectives import build

SETTINGS = """
vae.width=8 vae.latent=4 vae.blocks=1 train.vae.window=16 train.vae.batch_size=8 train.vae.epochs=2
train.vae.log_every=1 train.vae.validate_every=1000 train.vae.checkpoint_every=1000 workers.count=2
"""
# Ends a test that hangs; on a machine that has nothing else to do all takes a minute.
SECONDS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder that both nodes see, with shards in it."""
    folder = tmp_path_factory.mktemp("shared")
    write_shards(folder / "shards", {"train": 6, "val": 2, "test": 2})
    return folder


def finished(process) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err


def losses_without_ray(shards: Path) -> list[float]:
    """The loss of each step of the same training as a plain loop."""
    values = settings.load("duet", settings.parse_overrides(SETTINGS.split()))
    dataset = DatasetFolder.open(shards)
    objective = build("vae", values, dataset, vae=None, site=Site(""))
    stream = objective.stream(dataset, values.seed)
    take_step = TrainingStep(objective, stream)
    losses = []
    for step in range(take_step.num_steps):
        outcome = take_step(step, stream.batch(step, rank=0, world=1))
        window = Means()
        window.add(outcome.sums, outcome.count)
        losses.append(sum(objective.weights[name] * value for name, value in window.means().items()))
    return losses


@pytest.mark.faults
def test_a_training_spreads_over_two_nodes_and_what_only_one_node_sees_is_refused(
    two_nodes: TwoNodes,  # noqa: F811
    folder: Path,
):
    nodes, disk = two_nodes, two_nodes.disk
    store = f"sqlite:///{folder}/mlflow.db"
    train = f"train vae --config duet --data {folder}/shards {' '.join(SETTINGS.split())}"
    lines = {
        "spread": (f"{train} workers.placement=spread --out {folder}/spread", store),
        "out": (f"{train} --out {disk}/run", store),
        "store": (f"{train} --out {folder}/store", f"sqlite:///{disk}/mlflow.db"),
        "large": (f"{train} workers.count=4 workers.cpus=1 --out {folder}/large", store),
    }
    started = {name: nodes.intermoe(line, env={"MLFLOW_TRACKING_URI": uri}) for name, (line, uri) in lines.items()}
    ended = {name: finished(process) for name, process in started.items()}

    begins = f"Ray cluster of 2 nodes; its dashboard: http://{nodes.head.address}:8265\nerror: "
    unshared = f"{begins}node {nodes.other.address}: does not share the folder of "
    assert {name: err for name, (code, _, err) in ended.items() if code == 2} == {
        "out": f"{unshared}{disk}/run with the node of the driver"
        " (allowed: a folder that all nodes share, or a URI such as s3://...)\n",
        "store": f"{unshared}MLflow's store sqlite:///{disk}/mlflow.db with the node of the driver"
        " (allowed: MLFLOW_TRACKING_URI=http(s)://..., a server that all nodes reach)\n",
        "large": f"{begins}workers.count = 4 of 1 CPU each: the cluster has 2 nodes of 1 CPU"
        " (allowed: up to 2 workers)\n",
    }
    assert sorted(path.name for path in folder.iterdir()) == ["mlflow.db", "mlruns", "shards", "spread"]
    code, out, err = ended["spread"]
    assert (code, out.startswith(f"{folder}/spread/best holds the model")) == (0, True), err
    assert f"train vae: 2 workers on {nodes.head.address}, {nodes.other.address}\n" in err
    client = MlflowClient(store)
    run = client.get_run(json.loads((folder / "spread/run.json").read_text())["run_id"])
    losses = [point.value for point in client.get_metric_history(run.info.run_id, "loss/train")]
    assert losses == pytest.approx(losses_without_ray(folder / "shards"), rel=1e-5)
    assert run.data.tags["intermoe.workers"] == f"2 workers on {nodes.head.address}, {nodes.other.address}"
    assert not re.search("Traceback|Warning", err)
