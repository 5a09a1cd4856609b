"""Two commands for one folder: while one works, the other is refused in a line; once it has ended, it is not."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from trained_folder import TRIAL, Begun, install_mlflow, stop_before_ray, without_ray, write_sweep

from intermoe.files import write_note
from intermoe.locks import locked
from pipelines.cli import main

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "sweeps/smoke.yaml"
GENERATE = "generate Bow. --model {sweep}/{trial}/denoiser --seconds 0.6 --out {out}"
# Each with the folder that it writes; {out} is a new one.
COMMANDS = {
    "demo": ("demo --out {out}", "{out}"),
    "preprocess": ("preprocess duet --root {root}/raw --count 4 --out {out}", "{out}"),
    "train": ("train vae --config {root}/config.yaml --data {root}/shards --out {out}", "{out}"),
    "train --resume": (
        "train denoiser --config {root}/config.yaml --data {root}/shards --out {sweep}/{trial}/denoiser --resume",
        "{sweep}/{trial}/denoiser",
    ),
    "evaluate": ("evaluate --model {sweep}/{trial}/denoiser --evaluator {root}/evaluator --out {out}", "{out}"),
    "generate": (GENERATE, "{out}"),
    "report": ("report {sweep} --out {out}", "{out}"),
    "sweep": (f"sweep {SMOKE} --out {{out}}", "{out}"),
    "sweep --resume": (f"sweep {SMOKE} --out {{root}}/begun --resume", "{root}/begun"),
}
HOLD = """
import sys
from pathlib import Path
from intermoe.locks import locked
with locked(Path(sys.argv[1])):
    input()
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with a trained run, what they were made of, and a sweep that has only begun."""
    root = tmp_path_factory.mktemp("drivers")
    write_sweep(root)
    (root / "begun").mkdir()
    begun = {"name": "smoke", "profile": "tiny", "run_id": "2" * 32, "tracking_uri": "http://mlflow.example"}
    write_note(root / "begun/sweep.json", begun | {"overrides": {}})
    return root


@pytest.fixture
def call(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[list[str], Path]]:
    """A function from the name of a command to its words and the folder that it writes; none of them starts Ray."""
    without_ray(monkeypatch)
    install_mlflow(monkeypatch)

    def call(name: str) -> tuple[list[str], Path]:
        names = {"root": root, "sweep": root / "sweep", "trial": TRIAL, "out": tmp_path / "out"}
        words, folder = (text.format(**names) for text in COMMANDS[name])
        return shlex.split(words), Path(folder)

    return call


@contextmanager
def process(*words: object) -> Iterator[subprocess.Popen[bytes]]:
    """Another process, killed at the end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def wait_for_lock(folder: Path, holder: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not (lock_of(folder).is_file() and lock_of(folder).read_bytes()):
        assert holder.poll() is None, "it ended before it had the lock"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def state(folder: Path) -> list[tuple[str, bytes, int]]:
    """All that is in a folder and beside it, but for the lock."""
    paths = [path for path in folder.parent.rglob("*") if path != lock_of(folder)]
    return sorted(
        (str(path), path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in paths
        if path.is_file() or path.is_dir()
    )


def assert_refused(words: list[str], folder: Path, holder: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(folder)
    assert main(words) == 2
    refusals = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    host = socket.gethostname()
    assert refusals == [
        f"error: {folder}: process {holder} on {host} is at work here (allowed: its end, or another folder)"
    ]
    assert state(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_while_another_process_works_in_a_folder_a_command_is_refused_and_then_not(name, call, capsys, monkeypatch):
    words, folder = call(name)
    with process("-c", HOLD, folder) as holder:
        wait_for_lock(folder, holder)
        assert_refused(words, folder, holder.pid, capsys)
        # Where the other one has begun after this one has looked.
        with monkeypatch.context() as patch:
            for module in ("preprocess.request", "train.request", "evaluate.request", "sweep.request", "generate"):
                patch.setattr(f"pipelines.{module}.check_unlocked", lambda _folder: None)
            assert_refused(words, folder, holder.pid, capsys)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert lock_of(folder).exists()
    stop_before_ray(monkeypatch)
    with suppress(Begun):
        assert main(words) == 0
    with locked(folder):
        pass
    assert not lock_of(folder).exists()


@pytest.mark.slow
def test_generate_is_refused_while_the_same_command_works_and_not_once_that_is_killed(call, capsys):
    words, folder = call("generate")
    with process("-m", "pipelines.cli", *words) as holder:
        wait_for_lock(folder, holder)
        holder.send_signal(signal.SIGSTOP)
        assert_refused(words, folder, holder.pid, capsys)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert main(words) == 0
    assert [path.suffix for path in folder.iterdir()] == [".npz"]
    assert not lock_of(folder).exists()
