"""The steps of a trial: whether they are done, and how long they took in all."""

import time
from contextlib import suppress

from pipelines import trial
from pipelines.trial import done, mark_done, seconds, timed


def test_a_step_is_done_when_that_is_noted(tmp_path):
    assert not done(tmp_path / "denoiser")
    mark_done(tmp_path / "denoiser")
    assert done(tmp_path / "denoiser")
    assert not done(tmp_path / "evaluation")


def test_the_time_of_all_attempts_adds_up(tmp_path):
    folder = tmp_path / "denoiser"
    assert seconds(folder) == 0
    with suppress(KeyboardInterrupt), timed(folder):
        time.sleep(0.2)
        raise KeyboardInterrupt
    first = seconds(folder)
    assert 0.2 <= first < 2
    with timed(folder):
        time.sleep(0.1)
    assert first + 0.1 <= seconds(folder) < first + 2
    assert seconds(tmp_path / "evaluation") == 0


def test_the_time_is_noted_while_it_passes(tmp_path, monkeypatch):
    """What a process that is killed leaves."""
    monkeypatch.setattr(trial, "_NOTE_SECONDS", 0.05)
    with timed(tmp_path / "denoiser"):
        deadline = time.monotonic() + 10
        while seconds(tmp_path / "denoiser") < 0.1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert seconds(tmp_path / "denoiser") >= 0.1
