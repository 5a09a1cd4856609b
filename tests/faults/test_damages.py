"""Random damages of checkpoints, shards and run folders, seeded: none is used silently, and each is one line."""

import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import pytest
import torch
from damages import Damage, Outcomes, damaged_copies
from toy_shards import write_shards
from trained_folder import TRIAL, Begun, all_files, install_mlflow, stop_before_ray, write_sweep

from intermoe import checkpoint
from intermoe.checkpoint import DamagedCheckpoint
from intermoe.errors import LONGEST_MESSAGE, UserError
from intermoe.places import Place
from intermoe.training.samples import SampleStream
from pipelines.cli import main
from pipelines.train.request import TrainingJob
from pipelines.train.routing_history import ROUTING, RoutingHistory

T = TypeVar("T")
PAGES = ("results.md", "results.html", "samples.html")
USED, OLDER, REFUSED, NOTED = "used as before", "the older one used", "refused", "named, and the rest used"


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def tensor_digest(tensors: dict[str, torch.Tensor]) -> list[tuple[str, str]]:
    return [
        (name, hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest())
        for name, tensor in sorted(tensors.items())
    ]


def saved(folder: Place) -> str:
    """What a checkpoint holds."""
    loaded = checkpoint.load(folder)
    return digest([(name, tensor_digest(part)) for name, part in sorted(loaded.tensors.items())], loaded.documents)


def attempt(read: Callable[[], T]) -> tuple[T | None, str | None]:
    """What a function gives, or why it refuses."""
    try:
        return read(), None
    except UserError as error:
        return None, str(error)


def is_one_line(message: str, folder: Path) -> bool:
    told, _, allowed = message.replace(str(folder), "").partition(" (allowed: ")
    return message.isprintable() and max(len(told.partition(": ")[2] or told), len(allowed)) <= LONGEST_MESSAGE


def names_it(message: str, damage: Damage) -> bool:
    """Whether a message names a damaged file, or the folder that it is in."""
    return any(file.name in message or f"{file.parent.name}:" in message for file in damage.before)


# Checkpoints


def write_checkpoints(folder: Path) -> Path:
    for step in (10, 20):
        generator = torch.Generator().manual_seed(step)
        weights = {name: torch.randn(40, generator=generator) for name in ("a", "b")}
        checkpoint.save(
            checkpoint.step_folder(folder, step),
            tensors={"weights": weights, "optimizer": {"step": torch.tensor(float(step)), "mean": weights["a"] * 2}},
            documents={"config": {"width": 4}, "state": {"step": step}, "progress": {"best": 1 / step}},
        )
    return folder


def checkpoint_outcome(folder: Path, damage: Damage, whole: dict[str, str]) -> str:
    reports: list[DamagedCheckpoint] = []
    needed = ["progress.json", "optimizer.safetensors"]
    newest, refusal = attempt(lambda: checkpoint.latest(folder, holding=needed, report=reports.append))
    if refusal is not None:
        assert is_one_line(refusal, folder)
        assert "no checkpoint of 2 is whole" in refusal
        return REFUSED
    assert newest is not None
    assert saved(newest) == whole[newest.name], "other content than before"
    if newest.name == "step-00000010":
        (report,) = reports
        assert str(report).startswith(f"{folder}/step-00000020: ")
        assert is_one_line(str(report), folder)
        return OLDER
    assert reports == []
    # What was damaged is the older one, or nothing.
    assert not [file for file in damage.files if file.parent == newest]
    return USED


def check_checkpoints(count: int, tmp_path: Path) -> str:
    whole = write_checkpoints(tmp_path / "checkpoints")
    contents = {folder.name: saved(folder) for folder in whole.iterdir()}
    outcomes = Outcomes()
    for folder, damage in damaged_copies(whole, tmp_path, count, files=lambda copy: list(all_files(copy))):
        outcomes.add(damage, checkpoint_outcome, folder, damage, contents)
    assert outcomes.counts[OLDER] > count / 5
    return outcomes.check(count)


# Shards and their cards


def batches(folder: Path) -> str:
    """All samples that trainings and evaluations read, as the feed makes them."""
    parts = []
    kinds: list[tuple[Literal["interactions", "windows"], str]] = [
        ("interactions", "train"),
        ("windows", "train"),
        ("interactions", "test"),
    ]
    for kind, split in kinds:
        stream = SampleStream(str(folder), split, kind, 0, 2, 60, window=16)
        trained = [stream.batch(step) for step in range(4)]
        parts += [tensor_digest(batch) for batch in (*trained, *stream.held_out(split).held_out_batches())]
    return digest(parts)


def shards_outcome(folder: Path, damage: Damage, whole: str, printed: Callable[[], tuple[str, str]]) -> str:
    status = main(["verify", str(folder)])
    _, told = printed()
    lines = [line for line in told.splitlines() if line.startswith((str(folder), "error"))]
    assert (status, bool(lines)) == (2 if damage.files else 0, bool(damage.files)), f"verify: {status} {lines}"
    assert not lines or names_it(lines[0], damage), lines
    assert all(is_one_line(line, folder) for line in lines), lines
    read, refusal = attempt(lambda: batches(folder))
    if refusal is not None:
        assert is_one_line(refusal, folder)
        assert names_it(refusal, damage), refusal
        return REFUSED
    assert read == whole, "other batches than before"
    return USED


def check_shards(count: int, tmp_path: Path, printed: Callable[[], tuple[str, str]]) -> str:
    write_shards(tmp_path / "shards", {"train": 3, "test": 2})
    whole, outcomes = batches(tmp_path / "shards"), Outcomes()
    for folder, damage in damaged_copies(tmp_path / "shards", tmp_path, count, files=lambda c: list(all_files(c))):
        outcomes.add(damage, shards_outcome, folder, damage, whole, printed)
    assert outcomes.counts[REFUSED] > count / 2
    return outcomes.check(count)


# Folders of runs


def first_reading(job: TrainingJob, **_named: object) -> None:
    """What the workers of a training that is resumed read first."""

    def note(damage: DamagedCheckpoint) -> None:
        sys.stderr.write(f"note: {damage}\n")

    newest = checkpoint.latest(job.request.out / "checkpoints", report=note)
    assert newest is not None
    raise Begun((job, RoutingHistory(job.request.out).read(), saved(newest)))


class Commands:
    """The commands that read the folder of a run or of a sweep."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, printed: Callable[[], tuple[str, str]]) -> None:
        self._root, self._patch, self._printed = root, patch, printed
        stop_before_ray(patch)
        patch.setattr("pipelines.train.train.train", first_reading)

    def results(self, sweep: Path) -> dict[str, tuple[str | None, list[str]]]:
        """Of each command what it gives, None where it is refused, and what it says of faults."""
        run, out = sweep / TRIAL / "denoiser", sweep.parent / f"{sweep.name}-out"
        root = self._root
        commands = {
            "generate": f"generate Bow. --model {run} --seconds 0.6 --out {out}/motions",
            "evaluate": f"evaluate --model {run} --evaluator {root}/evaluator --out {out}/evaluation",
            "train": f"train denoiser --config {root}/config.yaml --data {root}/shards --out {run} --resume",
            "verify": f"verify {sweep}",
            "report": f"report {sweep} --out {out}/report",
            "sync": f"sync {run}",
        }
        results = {name: self._result(command.split(), sweep, out) for name, command in commands.items()}
        shutil.rmtree(out, ignore_errors=True)
        return results

    def _result(self, command: list[str], sweep: Path, out: Path) -> tuple[str | None, list[str]]:
        begun = None
        with self._patch.context() as patch:
            client = install_mlflow(patch)
            try:
                status = main(command)
            except Begun as begins:
                status, begun = 0, begins.job
        printed, told = self._printed()
        lines = [line for line in told.splitlines() if line.startswith(("error: ", "note: ", str(sweep)))]
        if status:
            assert status == 2
            assert sum(line.startswith("error: ") for line in lines) == 1, told
            return None, lines
        files = sorted(file for file in all_files(out) if file.suffix in (".npz", ".md", ".csv"))
        made = [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
        given = repr((begun, printed, made, client.written)).replace(str(sweep), "SWEEP")
        shutil.rmtree(out, ignore_errors=True)
        return given, lines


def of_no_matter(file: Path, damage: Damage) -> bool:
    """Whether nothing can tell that a file was damaged: pages for people, and what is made anew where it is missing."""
    if damage.after[file] is None:
        return file.name in (*PAGES, ROUTING)
    # A line of a spool that was never there cannot be told from one that is cut off whole.
    is_shorter = file.suffix == ".jsonl" and damage.kind == "cut" and damage.after[file].endswith(b"\n")
    return file.name in PAGES or is_shorter


def run_outcome(sweep: Path, damage: Damage, commands: Commands, whole: dict[str, tuple[str | None, list[str]]]) -> str:
    results = commands.results(sweep)
    noticed = set()
    for name, (given, lines) in results.items():
        if given != whole[name][0]:
            assert lines, f"{name} gives something else and says nothing"
        for line in lines:
            assert is_one_line(line, sweep), line
        if lines:
            noticed.add(name)
            assert any(names_it(line, damage) for line in lines), lines
    matters = [file for file in damage.files if not of_no_matter(file, damage)]
    assert bool(noticed) == bool(matters), (sorted(noticed), results)
    if not noticed:
        return USED
    return f"refused by {min(noticed)}" if all(results[name][0] is None for name in noticed) else NOTED


def check_runs(count: int, tmp_path: Path, patch: pytest.MonkeyPatch, printed: Callable[[], tuple[str, str]]) -> str:
    sweep, outcomes = write_sweep(tmp_path), Outcomes()
    commands = Commands(tmp_path, patch, printed)
    shutil.copytree(sweep, tmp_path / "whole")
    whole = commands.results(tmp_path / "whole")
    assert not [lines for _, lines in whole.values() if lines]
    assert None not in [given for given, _ in whole.values()]
    for folder, damage in damaged_copies(sweep, tmp_path, count, files=lambda copy: list(all_files(copy))):
        outcomes.add(damage, run_outcome, folder, damage, commands, whole)
    return outcomes.check(count)


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[str, str]]:
    """A function that gives what was printed since it was last called: on standard output, and on standard error."""
    return lambda: tuple(capsys.readouterr())  # type: ignore[return-value]


def test_damaged_checkpoints(tmp_path):
    check_checkpoints(40, tmp_path)


def test_damaged_shards(tmp_path, printed):
    check_shards(30, tmp_path, printed)


@pytest.mark.slow
def test_damaged_runs(tmp_path, monkeypatch, printed):
    check_runs(12, tmp_path, monkeypatch, printed)


@pytest.mark.faults
def test_many_damaged_checkpoints(tmp_path, capsys):
    show(capsys, check_checkpoints(200, tmp_path))


@pytest.mark.faults
def test_many_damaged_shards(tmp_path, capsys, printed):
    show(capsys, check_shards(200, tmp_path, printed))


@pytest.mark.faults
def test_many_damaged_runs(tmp_path, monkeypatch, capsys, printed):
    show(capsys, check_runs(100, tmp_path, monkeypatch, printed))


def show(capsys: pytest.CaptureFixture[str], counts: str) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{counts}\n")
