"""The report of a sweep's folder; tests/pipelines/sweep/test_sweep.py has it of a sweep that was run."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from intermoe import checkpoint
from intermoe.body.skeletons import SMPL22
from intermoe.data.card import DatasetCard, EncoderCard, shard_name, write_card
from intermoe.data.shards import CAPTION_SCHEMA, MOTION_SCHEMA, write_rows
from intermoe.errors import UserError
from intermoe.files import sha256, write_note
from intermoe.motion import Motion
from intermoe.render.page import Scene
from pipelines.evaluate.results import Results, publish, replications_frame
from pipelines.report.outcomes import _tokens_per_sample
from pipelines.report.report import report
from pipelines.tracking.runs import Run

FRAMES = (21, 61)
ABOUT = {
    "name": "toy",
    "split": "test",
    "recordings": 4,
    "seed": 0,
    "sampler": "ddim",
    "sampler_steps": 50,
    "spacing": None,
    "guidance": 1.0,
    "guidance_interval": [0.0, 1.0],
    "scales": {"fid": 6.0, "diversity": 3.0, "multimodality": 1.0},
    "known_row": None,
    "protocol_differences": [],
    "evaluation": {"replications": 2, "pool": 2, "diversity_pairs": 2, "multimodality": {"captions": 0}},
}


NOTHING_DONE = {"trials": [], "tables": {}, "tracking_uri": "y", "run_id": "x"}


def write_data(folder: Path) -> Path:
    """A data set of two recordings to train on."""
    rows = [
        {
            "id": f"r{number}",
            "frames": frames,
            "position": np.zeros((frames, 2, 22, 3), np.float32),
            "rotation": np.zeros((frames, 2, 21, 6), np.float32),
            "features": np.empty(0, np.float32),
            **{key: [0] for key in ("captions", "mirrored", "swapped", "swapped_mirrored")},
            "label": "{}",
        }
        for number, frames in enumerate(FRAMES)
    ]
    folder.mkdir()
    file, captions = shard_name("motions/train", 0), shard_name("captions/", 0)
    write_rows(folder / file, MOTION_SCHEMA, rows)
    states = np.zeros((2, 4), np.float32)
    caption = {"text": "They bow.", "words": "", "tokens": 2, "eot": 1, "state": states}
    write_rows(folder / captions, CAPTION_SCHEMA, [caption])
    card = DatasetCard(
        name="toy",
        reader="None",
        skeleton="smpl22",
        encoder=EncoderCard(name="minilm", width=4, sha256="0" * 64),
        recordings={"train": len(FRAMES)},
        frames=sum(FRAMES),
        captions=1,
        max_tokens=2,
        quarantined=0,
        mean=(0.0,) * 262,
        std=(1.0,) * 262,
        files={file: sha256(folder / file) for file in (file, captions)},
    )
    write_card(folder, card)
    return folder


def write_trial(folder: Path, data: Path, store: str) -> None:
    """What a trial leaves in its folder and in MLflow."""
    config = {
        "name": "x",
        "seed": 0,
        "data": {"max_frames": 41},
        "moe": {"experts": 4, "c_exp": 1.0, "selection": "dynamic"},
    }
    checkpoint.save(folder / "denoiser/best", tensors={}, documents={"config": config, "state": {"step": 2}})
    write_note(folder / "denoiser/run.json", {"data": str(data)})
    values = {
        "recorded": {"r_precision_top1": [0.75], "fid": [0.5]},
        "generated": {"r_precision_top1": [0.25], "fid": [3.0]},
        "raw": {"r_precision_top1": [0.5], "fid": [2.0]},
    }
    publish(Results(replications_frame(values), ABOUT), folder / "evaluation-1")
    with Run.start(store, "tests", "trial", params={}) as run:
        for step, speed in enumerate((1.0, 3.0, 8.0)):
            run.log_metrics({"loss/train": 1.0, "train/samples_per_second": speed, "unread": 1.0}, step)
    outcome = {
        "run": run.id,
        "evaluation": "evaluation-1",
        "parameters": {"trainable": 2_000_000, "active": 1_000_000},
        "seconds_training": 30.0,
        "seconds_evaluating": 10.0,
    }
    write_note(folder / "trial.json", outcome)


@pytest.fixture(scope="module")
def sweep(store, tmp_path_factory) -> Path:
    """The folder of a sweep of three trials: one done, one that failed, one that is not done."""
    folder = tmp_path_factory.mktemp("sweep")
    write_trial(folder / "trials/aaa", write_data(folder / "data"), store)
    with Run.start(store, "tests", "sweep", params={}) as run:
        pass
    trials = [
        {
            "key": "aaa",
            "name": "full-seed0",
            "points": ["full", "c-exp-1"],
            "seed": 0,
            "rows": [["2", "Ours"], ["2", "Again"]],
        },
        {"key": "bbb", "name": "bad-seed0", "points": ["bad"], "seed": 0, "rows": []},
        {"key": "ccc", "name": "late-seed0", "points": ["late"], "seed": 0, "rows": [["2", "Baseline"]]},
    ]
    rows = {"Baseline": {"fid": [5.0, 0.1]}, "Ours": {"fid": [4.0, 0.1]}, "Again": {"fid": [4.0, 0.1]}}
    note = {
        "name": "toy",
        "profile": "tiny",
        "run_id": run.id,
        "tracking_uri": store,
        "trials": trials,
        "tables": {"2": {"title": "Parts", "rows": rows}},
        "seconds_shared": {"vae": 1.0, "evaluator": 2.0},
        "failed": {"bad-seed0": "no such file"},
    }
    write_note(folder / "sweep.json", note)
    return folder


def test_a_report_is_written_and_recorded_and_replaces_an_earlier_one(sweep, store, tmp_path):
    out = tmp_path / "report"
    out.mkdir()
    (out / "over-moe.c_exp.png").write_text("of an earlier report")
    files = report(sweep, out)
    assert files == [out / name for name in ("report.html", "report.md", "tables.csv", "orders.csv")]
    names = {path.name for path in out.iterdir()}
    assert names == {"report.html", "report.md", "tables.csv", "orders.csv", "training.png", "cost.png"}
    assert list(tmp_path.iterdir()) == [out]
    note = json.loads((sweep / "sweep.json").read_text())
    assert {file.path for file in MlflowClient(store).list_artifacts(note["run_id"])} == names
    rows = list(csv.DictReader((out / "tables.csv").read_text().splitlines()))
    assert [(row["table"], row["row"], row["measure"], row["run_here"], row["published"]) for row in rows] == [
        ("2", "Baseline", "fid", "", "5.0"),
        ("2", "Ours", "fid", "2.0", "4.0"),
        ("2", "Again", "fid", "2.0", "4.0"),
        ("", "full, c-exp-1", "r_precision_top1", "0.5", ""),
        ("", "full, c-exp-1", "fid", "2.0", ""),
        ("settled", "full, c-exp-1", "r_precision_top1", "0.25", ""),
        ("settled", "full, c-exp-1", "fid", "3.0", ""),
    ]
    text = (out / "report.md").read_text()
    assert "Recorded motion by the same evaluator, run here: R top 1 0.750, FID 0.500." in text
    assert "- Failed: bad-seed0: no such file\n- Not done, or stopped early: late-seed0.\n" in text
    # Of 20 and 40 steps of features 5 and 10 latent frames, of two persons: 15 tokens; 3 samples per second.
    assert "| full-seed0 |   2,000,000 |          1,000,000 |            30 |         45 |              10 |" in text


def test_the_longest_motion_and_a_shorter_one_are_a_token_of_mld_each(sweep):
    config = {"network": "mld", "data": {"max_frames": 41}}
    trial = sweep / "trials/aaa"
    assert _tokens_per_sample(trial, config) == 2


def test_a_gallery_is_one_more_file_until_a_report_without_it(sweep, tmp_path, monkeypatch):
    joints = np.zeros((3, 2, 22, 3), np.float32) + np.linspace(0, 1.7, 22, dtype=np.float32)[:, None]
    motion = Motion(joints, np.zeros((3, 2, 21, 6), np.float32), 30, "a", SMPL22)
    asked = []

    def scenes(folder, trials):
        asked.append((folder, [trial["name"] for trial in trials]))
        return [Scene.of(motion)]

    monkeypatch.setattr("pipelines.report.report.gallery_scenes", scenes)
    out = tmp_path / "report"
    assert report(sweep, out, gallery=True)[-1] == out / "gallery.html"
    assert asked == [(sweep, ["full-seed0"])]
    assert "<title>toy: the same captions under all points</title>" in (out / "gallery.html").read_text("utf-8")
    report(sweep, out)
    assert not (out / "gallery.html").exists()
    assert len(asked) == 1


def test_a_sweep_of_which_nothing_is_done_has_no_report(tmp_path):
    with pytest.raises(UserError, match="holds no sweep"):
        report(tmp_path, tmp_path / "report")
    write_note(tmp_path / "sweep.json", {"run_id": "x", "tracking_uri": "y"})
    with pytest.raises(UserError, match="has not begun its trials yet"):
        report(tmp_path, tmp_path / "report")
    write_note(tmp_path / "sweep.json", NOTHING_DONE)
    with pytest.raises(UserError, match="no trial is done"):
        report(tmp_path, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_nothing_but_an_earlier_report_is_replaced(tmp_path):
    write_note(tmp_path / "sweep.json", NOTHING_DONE)
    for out in (tmp_path, tmp_path / "sweep.json"):
        with pytest.raises(UserError, match="holds something else than a report"):
            report(tmp_path, out)
    assert (tmp_path / "sweep.json").is_file()
