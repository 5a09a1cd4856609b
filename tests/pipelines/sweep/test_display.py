"""What is shown of a sweep: where nobody watches lines, else a table."""

import io
import time
from pathlib import Path

import pytest
import ray
from rich.console import Console
from trials import make_trial

from intermoe.files import write_note
from pipelines.cluster.progress import progress_board
from pipelines.sweep import display
from pipelines.sweep.display import TrialDisplay
from pipelines.sweep.trial import FAILED, OUTCOME, STOPPED, TrialRequest


def trial(folder: Path, name: str) -> TrialRequest:
    (folder / name).mkdir()
    return make_trial(folder / name, f"{name}-seed0", key=name)


@pytest.fixture
def board(ray_session):
    with progress_board() as board:
        yield board


@pytest.fixture
def trials(tmp_path, board) -> list[TrialRequest]:
    """One that waits, one in training, one in evaluation, one that is done, one that was stopped."""
    requests = [trial(tmp_path, name) for name in ("waits", "trains", "judged", "done", "stopped")]
    ray.get(board.post.remote(30, 60, {"loss": 0.25}, key=str(tmp_path / "trains/denoiser")))
    ray.get(board.post.remote(10, 40, {}, "evaluate", key=str(tmp_path / "judged/denoiser")))
    evaluation = tmp_path / "done" / requests[3].evaluation
    evaluation.mkdir()
    results = {"rows": {"raw": {"fid": {"mean": 12.345}}}}
    write_note(evaluation / "results.json", results)
    (tmp_path / "done" / OUTCOME).write_text("{}")
    (tmp_path / "stopped" / STOPPED).write_text("{}")
    return requests


def test_the_table_has_state_step_loss_and_fid_of_each(trials, board):
    console = Console(width=100, file=io.StringIO())
    shown = TrialDisplay(trials, board, console)
    console.print(shown._table(shown._updates()))
    cells = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        if line.startswith("│")
    ]
    assert cells == [
        ["waits-seed0", "waiting", "", "", ""],
        ["trains-seed0", "train", "30/60", "0.25", ""],
        ["judged-seed0", "evaluate", "10/40", "", ""],
        ["done-seed0", "done", "", "", "12.35"],
        ["stopped-seed0", "stopped", "", "", ""],
    ]


def test_the_time_left_follows_from_what_was_done_since_the_beginning(trials, board, tmp_path, monkeypatch):
    shown = TrialDisplay(trials[:3], board)
    # What was done before, such as by a sweep that is resumed, says nothing of the pace.
    assert shown._left(shown._updates()) == ""
    ray.get(board.post.remote(60, 60, {}, key=str(tmp_path / "trains/denoiser")))
    # Nothing; the two thirds that training is, of which half is new; these and a quarter of the last.
    share = (0 + 2 / 3 + 2 / 3 + 1 / 12) / 3
    since = 1 / 3 / 3
    monkeypatch.setattr(display.time, "monotonic", lambda: shown._began + 100)
    minutes, seconds = divmod(round(100 * (1 - share) / since), 60)
    assert shown._left(shown._updates()) == f" ({share:.0%}, 0:{minutes:02}:{seconds:02} left)"


def test_where_nobody_watches_every_change_of_state_is_a_line(trials, board, tmp_path, monkeypatch):
    monkeypatch.setattr(display, "POLL_SECONDS", 0.05)
    # A log has no width: a line that is longer than one stays one line.
    console = Console(width=20, file=io.StringIO())
    with TrialDisplay(trials, board, console):
        time.sleep(0.5)
        (tmp_path / "waits" / FAILED).write_text("{}")
        time.sleep(0.5)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[:5] == [
        "waits-seed0: waiting",
        "trains-seed0: train",
        "judged-seed0: evaluate",
        "done-seed0: done",
        "stopped-seed0: stopped",
    ]
    assert lines[5].startswith("trains-seed0 train 30/60 loss 0.25; judged-seed0 evaluate 10/40")
    assert lines[6:] == ["waits-seed0: failed"]
