"""Progress: what is shown, with Ray and without."""

import io
import time

import pytest
import ray
from ray.exceptions import RayActorError
from rich.console import Console

from pipelines.cluster import progress
from pipelines.cluster.progress import Progress, Stages, progress_board


@pytest.fixture
def output():
    return io.StringIO()


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def plain(output):
    return Console(file=output, width=80)


def test_lines_come_every_ten_seconds_and_at_both_ends(output, clock):
    with Stages(plain(output)) as stages:
        for done in range(101):
            stages("write", done, 100, {"loss": 1 / 3})
            clock[0] += 0.5
        stages("write", 100, 100)
        stages("[read]", 3, 4)
    assert output.getvalue().splitlines() == [
        "write: 0/100, loss 0.3333",
        "write: 20/100, 0:00:40 left, loss 0.3333",
        "write: 40/100, 0:00:30 left, loss 0.3333",
        "write: 60/100, 0:00:20 left, loss 0.3333",
        "write: 80/100, 0:00:10 left, loss 0.3333",
        "write: 100/100, took 0:00:50, loss 0.3333",
        "[read]: 3/4",
    ]


def test_a_resumed_job_is_not_taken_for_a_fast_one(output, clock):
    with Stages(plain(output)) as stages:
        stages("train", 9000, 10000)
        clock[0] += 100
        stages("train", 9100, 10000)
    assert output.getvalue().splitlines()[-1] == "train: 9100/10000, 0:15:00 left"


def test_a_terminal_shows_a_bar_a_stage(output):
    with Stages(Console(file=output, force_terminal=True, width=100)) as stages:
        for stage in ("read", "write"):
            for done in range(5):
                stages(stage, done, 4, {"loss": 0.25})
    read, write = [line for line in output.getvalue().splitlines() if "4/4" in line][-2:]
    assert "read" in read
    assert "write" in write
    assert "loss 0.25" in write


@pytest.fixture(scope="module")
def board(ray_session):
    with progress_board() as board:
        yield board


def test_the_board_of_a_job_ends_with_it(ray_session):
    with progress_board() as board:
        assert ray.get(board.latest.remote()) is None

    def asked_until_it_ends() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # an actor takes a moment to end
            ray.get(board.latest.remote())
            time.sleep(0.05)

    with pytest.raises(RayActorError):
        asked_until_it_ends()


def test_the_driver_shows_what_a_worker_posts(board, output, monkeypatch):
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.02)

    @ray.remote(num_cpus=0)
    def work(board):
        for step in (50, 100):
            board.post.remote(step, 100, {"loss": 1 / step})
        ray.get(board.fail.remote("step 7: not finite"))
        ray.get(board.fail.remote("a later one"))

    assert ray.get(board.latest.remote()) is None
    with Progress(board, "train vae", plain(output)):
        ray.get(work.remote(board))
    lines = output.getvalue().splitlines()
    assert lines[-1].startswith("train vae: 100/100")
    assert lines[-1].endswith("loss 0.01")
    assert ray.get(board.failure.remote()) == "step 7: not finite"


def test_an_exception_passes_through_and_ends_the_thread(board, output):
    shown = Progress(board, "train", plain(output))
    begin = time.monotonic()
    with pytest.raises(ValueError, match="broken"), shown:
        raise ValueError("broken")
    assert not shown._thread.is_alive()
    assert time.monotonic() - begin < 5


def test_a_lost_board_stops_nothing(board, output, monkeypatch):
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.02)
    with progress_board() as lost:
        ray.get(lost.latest.remote())
    with Progress(lost, "train", plain(output)):
        time.sleep(0.2)
    assert output.getvalue() == ""


def test_another_attempt_at_a_job_finds_nothing_of_the_one_before(board):
    for key in ("mine", "other"):
        ray.get([board.post.remote(3, 4, {}, key=key), board.fail.remote("not finite", key=key)])
    ray.get(board.begin.remote("mine"))
    assert ray.get(board.failure.remote("mine")) is None
    assert ray.get(board.latest.remote("mine")) is None
    assert ray.get(board.failure.remote("other")) == "not finite"
    ray.get(board.fail.remote("again", key="mine"))
    assert ray.get(board.failure.remote("mine")) == "again"
