"""`intermoe verify`: every checksum below a folder."""

import shutil

import pytest
import torch
from toy_shards import write_shards
from trained_folder import RUN, TRIAL, write_sweep

from intermoe import checkpoint
from intermoe.checkpoint import MANIFEST
from intermoe.data.card import CARD
from intermoe.files import write_note
from pipelines.cli import main

DATA_SET, CHECKPOINT = "the data set is damaged", "the checkpoint is damaged"


@pytest.fixture
def sweep(tmp_path):
    """A folder with a data set, and a run with its best and two other checkpoints."""
    write_shards(tmp_path / "shared/shards", {"train": 2})
    run = tmp_path / "trials/one/denoiser"
    for folder in (run / "best", *(checkpoint.step_folder(run / "checkpoints", step) for step in (2, 4))):
        checkpoint.save(folder, tensors={"weights": {"w": torch.ones(2)}}, documents={"config": {}})
    write_note(run / "run.json", {})
    (run / "checkpoints" / f".step-00000006.{'0' * 32}").mkdir()
    return tmp_path


def test_what_is_whole_is_counted(sweep, capsys):
    assert main(["verify", str(sweep), str(sweep / "trials/one/denoiser/best")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{sweep}: checked; data sets: 1, checkpoints: 3",
        f"{sweep}/trials/one/denoiser/best: checked; data sets: 0, checkpoints: 1",
    ]


def test_each_damage_is_a_line_and_the_status_is_2(sweep, capsys):
    run = sweep / "trials/one/denoiser"
    shard = sweep / "shared/shards/motions/train-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    (run / "run.json").write_text('{"run_id": ')
    (checkpoint.step_folder(run / "checkpoints", 2) / "manifest.json").unlink()
    config = checkpoint.step_folder(run / "checkpoints", 4) / "config.json"
    config.write_text(config.read_text().replace("{", "["))
    assert main(["verify", str(sweep)]) == 2
    printed = capsys.readouterr()
    assert printed.out == f"{sweep}: checked; data sets: 1, checkpoints: 3\n"
    damages = [
        f"{run}/run.json: cannot be read: it is damaged, or no JSON object",
        f"{sweep}/shared/shards: motions/train-00000.parquet does not match its checksum in {CARD}: {DATA_SET}",
        f"{run}/checkpoints/step-00000002: has no manifest.json: not a checkpoint",
        f"{run}/checkpoints/step-00000004: config.json does not match its checksum in {MANIFEST}: {CHECKPOINT}",
        "error: 4 damaged",
    ]
    assert [line for line in printed.err.splitlines() if not line.startswith("verify")] == damages


def test_notes_spools_and_the_history_of_routing_are_checked_too(tmp_path, capsys):
    run = write_sweep(tmp_path) / TRIAL / "denoiser"
    assert main(["verify", str(tmp_path / "sweep")]) == 0
    capsys.readouterr()
    changes = {
        "run.json": (b"denoiser", b"denoisex"),
        "routing.jsonl": (b"0.25", b"0.35"),
        f"tracking/{RUN}.jsonl": (b'"step": 10', b'"step": 11'),
        "../trial.json": (b"30.0", b"31.0"),
        "../evaluation-1/results.json": (b"0.5", b"0.4"),
    }
    for file, change in changes.items():
        (run / file).write_bytes((run / file).read_bytes().replace(*change, 1))
    newest = max((run / "checkpoints").glob("step-*"))
    shutil.copytree(newest, run / "../../two/checkpoints" / newest.name)
    (tmp_path / "sweep/other/checkpoints/of_others").mkdir(parents=True)
    assert main(["verify", str(tmp_path / "sweep")]) == 2
    trial = tmp_path / "sweep" / TRIAL
    damaged = "does not match its own checksum: it is damaged"
    allowed = "(allowed: delete it; the heat maps begin anew then)"
    assert [line for line in capsys.readouterr().err.splitlines() if not line.startswith("verify")] == [
        f"{trial}/trial.json: {damaged}",
        f"{trial}/denoiser/run.json: {damaged}",
        f"{trial}/denoiser/routing.jsonl: does not match its checksum, its last line: it is damaged {allowed}",
        f"{trial}/evaluation-1/results.json: {damaged}",
        f"{trial.parent}/two: has checkpoints, but no run.json: the run is damaged",
        f"{trial}/denoiser/tracking/{RUN}.jsonl: line 2 is damaged",
        "error: 6 damaged",
    ]


def test_what_has_no_checksums_is_refused(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert main(["verify", str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: {tmp_path}: holds nothing that has checksums (allowed: a data set or a checkpoint in it)",
        f"error: {tmp_path}/absent: no such folder (allowed: a data set, a checkpoint, a run or a sweep)",
    ]


def test_folders_in_a_storage_are_checked_too(sweep, bucket, capsys):
    import s3fs

    s3fs.S3FileSystem().put(str(sweep), f"{bucket}/verified", recursive=True)
    assert main(["verify", f"{bucket}/verified"]) == 0
    assert capsys.readouterr().out == f"{bucket}/verified: checked; data sets: 1, checkpoints: 3\n"
