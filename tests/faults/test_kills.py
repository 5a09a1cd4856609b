"""Trainings that are killed again and again, and end as if they had not been.

``INTERMOE_KILLS`` is the number of kills of each, 20 by default. What is random has fixed seeds.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kills import HOOKS, ROOT, Run, StorageGate, environment_of_driver, plan_kills
from standing_ray import StandingRay, standing_ray
from tiny_training import tiny_overrides

from intermoe.places import Place, as_place, is_remote

pytestmark = pytest.mark.faults
_KILLS = int(os.environ.get("INTERMOE_KILLS", "20"))
_STEPS = 5 * _KILLS + 20
_WORKERS = {("vae", "disk"): 2}
_LOG_EVERY = {"vae": 1, "denoiser": 2, "evaluator": 3}


@pytest.fixture(scope="module")
def gate() -> Iterator[StorageGate]:
    gate = StorageGate()
    with gate.installed():
        yield gate


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the hooks, of one run at a time."""
    return tmp_path_factory.mktemp("watch")


@pytest.fixture(scope="module")
def ray(bucket: str, watch: Path) -> Iterator[StandingRay]:
    paths = os.pathsep.join([str(HOOKS), str(ROOT)])
    with standing_ray({"KILLS_FOLDER": str(watch), "PYTHONPATH": paths}) as ray:
        yield ray


@pytest.fixture(scope="module")
def environment(ray: StandingRay, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return environment_of_driver(ray, f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")


@pytest.fixture(scope="module")
def roots(bucket: str, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Place]:
    """A folder on the disk and one in the storage, each with the same shards."""
    disk, storage = tmp_path_factory.mktemp("disk"), as_place(f"{bucket}/kills")
    words = f"preprocess duet --count 24 --seed 1 --root {disk}/raw --out {disk}/tiny --encoder minilm"
    subprocess.run([sys.executable, "-m", "pipelines.cli", *words.split()], env=environment, cwd=ROOT, check=True)
    assert is_remote(storage)
    for file in (disk / "tiny").rglob("*"):
        if file.is_file():
            storage.fs.put_file(str(file), f"{storage.path}/{file.relative_to(disk)}")
    return {"disk": disk, "storage": storage}


@pytest.fixture(scope="module")
def run_of(
    ray: StandingRay, gate: StorageGate, environment: dict[str, str], roots: dict[str, Place], watch: Path
) -> Callable[..., Run]:
    """A function from target, place and name to a run that has not begun."""

    def run_of(target: str, place: str, name: str) -> Run:
        root = roots[place]
        often = [f"train.{target}.{key}" for key in ("checkpoint_every=4", "validate_every=10", "keep=2")]
        often += [f"train.{target}.log_every={_LOG_EVERY[target]}", f"workers.count={_WORKERS.get((target, place), 1)}"]
        words = ["train", target, "--config", "duet", "--data", f"{root}/tiny", "--out", f"{root}/{target}/{name}"]
        if target == "denoiser":
            words += ["--vae", f"{root}/vae/undisturbed"]
        disk = roots["disk"]
        assert isinstance(disk, Path)
        words += tiny_overrides(target, _STEPS, disk / "tiny", *often)
        return Run(words, root / target / name, f"{target}-{place}-{name}", watch, ray, gate, environment)

    return run_of


@pytest.fixture(scope="module")
def undisturbed(run_of: Callable[..., Run]) -> Callable[..., Run]:
    """A function from target and place to a run that was not disturbed."""
    runs: dict[tuple[str, str], Run] = {}

    def undisturbed(target: str, place: str) -> Run:
        if target == "denoiser":
            undisturbed("vae", place)
        if (target, place) not in runs:
            run = runs[target, place] = run_of(target, place, "undisturbed")
            run.undisturbed()
        return runs[target, place]

    return undisturbed


@pytest.mark.parametrize("place", ["disk", "storage"])
@pytest.mark.parametrize("target", ["vae", "evaluator", "denoiser"])
def test_a_training_that_was_killed_ends_as_one_that_was_not(
    run_of: Callable[..., Run], undisturbed: Callable[..., Run], environment: dict[str, str], target: str, place: str
) -> None:
    """Bit for bit: what is in its folder (weights, optimizer, biases), its batches, its points, each of them once."""
    expected = undisturbed(target, place)
    run = run_of(target, place, "killed")
    kills = plan_kills(f"{target} {place}", _KILLS, _STEPS, _WORKERS.get((target, place), 1), place)
    began = time.monotonic()
    run.killed(kills)
    again = sum("started again" in line for line in run.lines)
    sys.stdout.write(
        f"{target} {place}: {len(kills)} kills, {run.starts} commands, {again} times started again by Ray Train, "
        f"{time.monotonic() - began:.0f} s\n"
    )
    assert run.files() == expected.files()
    assert run.batches() == expected.batches()
    assert all(len(checksums) == 1 for checksums in run.batches().values())
    store = environment["MLFLOW_TRACKING_URI"]
    record, other = run.record(store), expected.record(store)
    for name, points in other["curves"].items():
        assert record["curves"].get(name) == points, name
    assert record == other
    every = _LOG_EVERY[target]
    steps = [step for step, _ in record["curves"]["loss/train"]]
    assert steps == sorted({*range(every, _STEPS + 1, every), _STEPS})
