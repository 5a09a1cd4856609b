"""What trainings need."""

import json
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from mlflow import MlflowClient
from small_disk import SmallDisk, small_disk
from tiny_training import tiny_overrides

from intermoe.data.shards import DatasetFolder
from intermoe.datasets.duet import write_duet
from intermoe.datasets.interhuman import InterHumanReader
from intermoe.training import StepOutcome, TrainingStep
from intermoe.training.samples import Batch, SampleStream
from pipelines import settings
from pipelines.cluster.progress import progress_board
from pipelines.preprocess.preprocess import make_shards
from pipelines.settings import Settings
from pipelines.site import Site
from pipelines.tracking.runs import Run
from pipelines.train import feed
from pipelines.train.request import TrainingJob, TrainRequest
from pipelines.train.worker import Worker

# Ray's workers do not import test modules: what they need of this one travels with the task.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="session")
def shards(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set made the real way."""
    root = tmp_path_factory.mktemp("shards")
    write_duet(root / "raw", count=24, seed=1)
    make_shards(InterHumanReader(root / "raw"), name="tiny", out=root / "tiny", encoder="minilm")
    return root / "tiny"


@pytest.fixture(scope="session")
def clip_shards(ray_session: None, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same data with the states of a small CLIP."""
    root = tmp_path_factory.mktemp("clip-shards")
    write_duet(root / "raw", count=24, seed=1)
    reader = InterHumanReader(root / "raw")
    make_shards(reader, name="tiny", out=root / "shards", encoder="clip", text_folder=clip_folder)
    return root / "shards"


@pytest.fixture(scope="session")
def vocabulary(clip_folder: Path) -> int:
    """The number of tokens of the small CLIP."""
    return len(json.loads((clip_folder / "vocab.json").read_text()))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system of 16 KiB."""
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of an MLflow store."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="session")
def tiny(shards: Path) -> Callable[..., Settings]:
    """A function from a target, its number of steps and overrides to settings of a training of a few seconds."""

    return lambda target, steps, *overrides: settings.load(
        "duet", settings.parse_overrides(tiny_overrides(target, steps, shards, *overrides))
    )


class History:
    """What one training has logged in MLflow."""

    def __init__(self, uri: str, run_id: str) -> None:
        self._client, self._id = MlflowClient(uri), run_id
        self.failure: str | None = None

    def __call__(self, name: str) -> list[tuple[int, float]]:
        return [(metric.step, metric.value) for metric in self._client.get_metric_history(self._id, name)]

    @property
    def tags(self) -> dict[str, str]:
        return dict(self._client.get_run(self._id).data.tags)

    def names(self) -> set[str]:
        return set(self._client.get_run(self._id).data.metrics)


class Stopped(Exception):
    """A worker was told to fall over here."""


class Stumbling:
    """A ``TrainingStep`` with another call."""

    def __init__(self, take_step: TrainingStep, call: Callable[[int, Batch], StepOutcome]) -> None:
        self._take_step, self._call = take_step, call

    def __call__(self, step: int, batch: Batch) -> StepOutcome:
        return self._call(step, batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._take_step, name)


class Host:
    """A process that plays one training worker, without Ray Train around it and with a feed of its own."""

    def join(self, rank: int, world: int, meeting: str) -> None:
        """Become one of a group, for good; alone there is none."""
        torch.set_num_threads(1)
        if world > 1:
            torch.distributed.init_process_group(
                "gloo", init_method=meeting, rank=rank, world_size=world, timeout=timedelta(seconds=60)
            )

    def call(self, function: Callable[[int, int], Any], rank: int, world: int) -> Any:
        """What a function of rank and world gives here."""
        return function(rank, world)

    def work(self, job: TrainingJob, run_id: str, board: Any, stop: int | None) -> bool:
        """Train; with ``stop``, fall over before the step of that number. Whether it went to the end."""
        batches, feed.batches = feed.batches, _batches
        try:
            work = Worker(job, run_id, board, torch.device("cpu"), reports=False)
            take_step = work.take_step

            def stumble(number: int, batch: Batch) -> StepOutcome:
                if number == stop:
                    raise Stopped
                return take_step(number, batch)

            work.take_step = Stumbling(take_step, stumble)  # type: ignore[assignment]
            work.run()
        except Stopped:
            return False
        finally:
            feed.batches = batches
        return True


def _batches(
    stream: SampleStream,
    first: int,
    last: int,
    *,
    rank: int,
    world: int,
    pinned: bool = False,
) -> Iterator[Batch]:
    for step in range(first, last):
        yield stream.batch(step, rank=rank, world=world)


Together = Callable[[int, Callable[[Any, int], Any]], list[Any]]


@pytest.fixture(scope="session")
def together(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Together:
    """A function that asks something of each of one, two or four processes, and gives their answers.

    The processes of a group meet once and stay: groups that are made and left in quick succession now and then find
    each other's connections.
    """
    groups: dict[int, list[Any]] = {}

    def meet(world: int) -> list[Any]:
        hosts: list[Any] = [ray.remote(num_cpus=0)(Host).remote() for _ in range(world)]
        meeting = f"file://{tmp_path_factory.mktemp('meeting')}/file"
        ray.get([host.join.remote(rank, world, meeting) for rank, host in enumerate(hosts)])
        return hosts

    def together(world: int, ask: Callable[[Any, int], Any]) -> list[Any]:
        if world not in groups:
            groups[world] = meet(world)
        try:
            return ray.get([ask(host, rank) for rank, host in enumerate(groups[world])])
        except BaseException:
            # One may wait for another that has fallen over.
            for host in groups.pop(world):
                ray.kill(host)
            raise

    return together


@pytest.fixture(scope="session")
def call_together(together: Together) -> Callable[..., list[Any]]:
    """A function that calls another one in one, two or four processes of one group, and gives what each returned."""
    return lambda function, world: together(world, lambda host, rank: host.call.remote(function, rank, world))


@pytest.fixture(scope="session")
def run_workers(together: Together, shards: Path, store: str) -> Callable[..., History]:
    """A function that trains in one, two or four processes, and gives what was logged.

    An interrupted training goes on when the function is called again with the same folder.
    """
    runs: dict[Path, str] = {}

    def run_workers(
        target: str,
        values: Settings,
        out: Path,
        *,
        world: int = 1,
        vae: Path | None = None,
        stop: int | None = None,
        dataset: Path = shards,
    ) -> History:
        if out not in runs:
            runs[out] = Run.start(store, "tests", target, params=values.model_dump(mode="json")).id
        request = TrainRequest(target, values, dataset=dataset, out=out, site=Site(store), vae=vae)
        job = TrainingJob(request, DatasetFolder.open(dataset).card)
        with progress_board() as board:
            ended = together(world, lambda host, _rank: host.work.remote(job, runs[out], board, stop))
            assert ended == [stop is None] * world
            # What the driver of a training does: its workers only write down what they log.
            Run.attach(store, runs[out], out).close()
            history = History(store, runs[out])
            history.failure = ray.get(board.failure.remote(str(out)))
        return history

    return run_workers


@pytest.fixture(scope="session")
def vae(run_workers: Callable[..., History], tiny: Callable[..., Settings], tmp_path_factory) -> Path:
    """The run of a VAE."""
    out = tmp_path_factory.mktemp("trained") / "vae"
    run_workers("vae", tiny("vae", 3), out)
    return out


@pytest.fixture(scope="session")
def read_history(store: str) -> Callable[[str], History]:
    """A function from the id of a run to what it has logged."""
    return lambda run_id: History(store, run_id)
