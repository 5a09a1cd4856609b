"""What the tests share: where the golden files lie, one small Ray, and quiet single-threaded arithmetic."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import pipelines  # noqa: F401 - sets the environment that Ray and MLflow read when a test imports them

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

SHARED = Path(__file__).resolve().parents[2] / "shared"
SUPPORT = Path(__file__).resolve().parent / "support"


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests that run a Ray are marked ``ray``: `make test` has them in one process, apart from the others.

    Those that share one come last: idle, it takes a quarter of two cores from those that start their own.
    """
    for item in items:
        if shares_ray(item):
            item.add_marker("ray")
    items.sort(key=shares_ray)


def shares_ray(item: pytest.Item) -> bool:
    return "ray_session" in getattr(item, "fixturenames", ())


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """A variable that a test leaves behind is read by the next ones, in this process and in those that they start."""
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    left = sorted(changed - {"PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR"})
    assert not left, f"left in the environment: {', '.join(left)}"


@pytest.fixture(autouse=True)
def _no_ray_of_its_own(request: pytest.FixtureRequest) -> Iterator[None]:
    """Many functions of Ray start one that is not there: of no size that a test chose, and in the way of ours."""
    yield
    if "ray_session" not in request.fixturenames and ray.is_initialized():
        ray.shutdown()
        pytest.fail("left a Ray running in this process: this test needs ray_session")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of inputs and outputs of the published implementation; tests that need it skip without it."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip("needs ../shared/golden")
    return folder


@pytest.fixture(scope="session")
def salsa_zip() -> Path:
    """Real two-person motion capture; tests that need it skip without it."""
    file = SHARED / "data" / "cmu_salsa.zip"
    if not file.is_file():
        pytest.skip("needs ../shared/data/cmu_salsa.zip")
    return file


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small text tower in CLIP's form."""
    from small_clip import write_clip

    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder)
    return folder


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a bucket on a real S3 server."""
    from s3 import s3_server

    with pytest.MonkeyPatch.context() as patch, s3_server() as uri:
        patch.setenv("INTERMOE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield uri


@pytest.fixture(scope="session")
def ray_session(bucket: str) -> Iterator[None]:
    """One Ray for all tests of the jobs, since starting it takes longer than most of them.

    It has 2 CPUs, and many trainings have 2 workers of one each: nothing else in them may need a CPU.
    """
    with pytest.MonkeyPatch.context() as patch:
        # Ray's workers inherit it: they import what tests share, as pytest does.
        patch.setenv("PYTHONPATH", str(SUPPORT), prepend=os.pathsep)
        # The processes of the feed's tasks serve the next test too, as in a Ray that a command starts (session.py).
        patch.setenv("RAY_idle_worker_killing_time_threshold_ms", "300000")
        ray.init(
            num_cpus=2,
            object_store_memory=10**9,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    yield
    ray.shutdown()
