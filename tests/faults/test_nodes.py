"""Trainings of two workers on nodes that are lost, taken away and added; the nodes are raylets of this machine."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from ray_nodes import Command, RayNodes, ray_nodes
from toy_shards import write_shards

from intermoe import checkpoint
from pipelines.train.run_folder import run_note

pytestmark = pytest.mark.faults

SETTINGS = """
vae.width=8 vae.latent=4 vae.blocks=1 train.vae.window=16 train.vae.batch_size=8 train.vae.epochs=35
train.vae.learning_rate=1e-5 train.vae.log_every=1 train.vae.validate_every=100000 train.vae.checkpoint_every=40
train.vae.keep=1000 workers.count=2
"""
STEPS, LOST_AFTER = 499, 80
# Ends a test that hangs.
SECONDS = 400


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    """A cluster of a head of one CPU."""
    with ray_nodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def start(nodes: RayNodes, tmp_path_factory) -> Callable[..., tuple[Path, Command]]:
    """A function that starts a training; its folder and the command."""
    root = tmp_path_factory.mktemp("nodes")
    write_shards(root / "shards", {"train": 6, "val": 2, "test": 2})

    def start(name: str, settings: str = "") -> tuple[Path, Command]:
        out, words = root / name, f"{' '.join(SETTINGS.split())} {settings}"
        line = f"train vae --config duet --data {root}/shards --out {out} {words}"
        return out, nodes.intermoe(line, MLFLOW_TRACKING_URI=f"sqlite:///{root}/mlflow.db")

    return start


@pytest.fixture(scope="module")
def undisturbed(nodes: RayNodes, start) -> Path:
    """The folder of a training to which nothing happened."""
    other = nodes.add()
    out, command = start("undisturbed")
    code, err = command.ended(SECONDS)
    assert code == 0, err
    other.kill()
    return out


def await_step(out: Path, step: int, command: Command) -> None:
    """Wait until a checkpoint is there."""
    deadline = time.monotonic() + SECONDS
    while not (out / f"checkpoints/step-{step:08d}").exists():
        assert time.monotonic() < deadline, f"no checkpoint at step {step}"
        assert command.runs(), command.ended(1)
        time.sleep(0.02)


def assert_same_end(out: Path, expected: Path) -> None:
    """The last checkpoints hold the same digits."""
    last, wanted = (checkpoint.latest(folder / "checkpoints") for folder in (out, expected))
    assert last is not None
    assert wanted is not None
    assert last.name == wanted.name == f"step-{STEPS:08d}"
    tensors, wanted_tensors = checkpoint.load(last).tensors, checkpoint.load(wanted).tensors
    assert tensors.keys() == wanted_tensors.keys()
    for part, names in wanted_tensors.items():
        for name, tensor in names.items():
            assert tensors[part][name].equal(tensor), (part, name)


def losses(out: Path) -> list[float]:
    """The logged losses; every step has one."""
    note = run_note(out)
    points = MlflowClient(note["tracking_uri"]).get_metric_history(note["run_id"], "loss/train")
    assert [point.step for point in points] == list(range(1, STEPS + 1))
    return [point.value for point in points]


def test_a_training_goes_on_with_a_spare_node_and_ends_as_if_nothing_had_happened(nodes, start, undisturbed):
    other, spare = nodes.add(), nodes.add()
    out, command = start("spare")
    await_step(out, LOST_AFTER, command)
    lost, left = (other, spare) if other.trains() else (spare, other)
    lost.kill()
    code, err = command.ended(SECONDS)
    assert code == 0, err
    assert re.search(r"train vae: started again \(1 of 2\) from step \d+: ", err)
    assert_same_end(out, undisturbed)
    assert losses(out) == losses(undisturbed)
    left.kill()


def test_without_a_spare_node_a_training_ends_within_two_minutes_with_one_line(nodes, start):
    other = nodes.add()
    out, command = start("alone")
    await_step(out, LOST_AFTER, command)
    other.kill()
    code, err = command.ended(120)
    step = checkpoint.latest(out / "checkpoints").name.removeprefix("step-").lstrip("0")
    assert code == 2
    assert err.splitlines()[-1] == (
        "error: no node has come for a lost one in 60 s: workers.count = 2 of 1 CPU each: the cluster has 1 node of"
        f" 1 CPU (allowed: up to 1 worker); `--resume` goes on from step {step}"
    )
    assert "Traceback" not in err


def test_an_elastic_training_goes_on_with_one_worker_and_with_two_again_on_the_same_batches(nodes, start, undisturbed):
    other = nodes.add()
    out, command = start("elastic", "workers.min_count=1")
    await_step(out, LOST_AFTER, command)
    other.kill()
    await_step(out, LOST_AFTER + 80, command)
    another = nodes.add()
    code, err = command.ended(SECONDS)
    assert code == 0, err
    counts = re.findall(r"train vae: (\d) workers? on ", err)
    assert counts == ["2", "1", "2"], err
    assert re.search(r"train vae: goes on with 2 workers from step \d+\n", err)
    # The same batches, summed over one share or over two. Larger steps of the optimizer would magnify the rounding.
    assert losses(out) == pytest.approx(losses(undisturbed), rel=1e-5)
    another.kill()


def test_an_announced_loss_makes_a_checkpoint_that_the_training_goes_on_from(nodes, start, undisturbed):
    other = nodes.add()
    out, command = start("announced")
    await_step(out, LOST_AFTER, command)
    other.drain(seconds=25)
    spare = nodes.add()
    code, err = command.ended(SECONDS)
    assert code == 0, err
    announced = re.search(r"train vae: a node is to be taken away: checkpoint at step (\d+)\n", err)
    # By the end of the node, or before by the feed, whose next tasks find no place on it.
    again = re.search(r"train vae: started again \(1(?: of 2)?\) from step (\d+): .*a node is taken away\n", err)
    assert announced, err
    assert again, err
    assert int(again[1]) >= int(announced[1]) > LOST_AFTER
    assert (out / f"checkpoints/step-{int(announced[1]):08d}").is_dir()
    assert_same_end(out, undisturbed)
    spare.kill()
