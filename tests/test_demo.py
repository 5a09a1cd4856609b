"""The demo as a newcomer runs it, and what it promises of the motions it makes."""

import json
import re
import sys
import time
from itertools import groupby
from pathlib import Path

import pytest
from mlflow import MlflowClient
from terminal import run_in_terminal

# The whole demo but for its size: 60 recordings, a VAE and a denoiser of some steps, an evaluation of a few motions.
SMALL = """
from pathlib import Path
from pipelines.demo import demo
demo(Path("demo"), count=60, overrides={
    "workers.count": 1,
    "train.vae.epochs": 1,
    "train.denoiser.epochs": 2,
    "train.evaluator.epochs": 1,
    "evaluation.pool": 4,
    "evaluation.batch_size": 6,
    "evaluation.diversity_pairs": 4,
    "evaluation.multimodality": {"captions": 2, "samples": 2, "pairs": 1},
})
"""


def check_what_is_shown_and_made(folder: Path, lines: list[str]) -> None:
    """Of a demo in a terminal."""
    text = "\n".join(lines)
    # One display at a time, each below its heading: nested ones overwrite each other's lines.
    shown = [match[0].strip() for line in lines if (match := re.match(r"\[\d/6\]|[a-z ]+(?= ━)", line))]
    # A line that Ray itself writes while a bar is shown leaves a copy of the bar above it.
    assert [name for name, _ in groupby(shown)] == [
        *("[1/6]", "make", "read", "encode", "write"),
        *("[2/6]", "train vae"),
        *("[3/6]", "train denoiser"),
        *("[4/6]", "denoise", "write"),
        *("[5/6]", "train evaluator"),
        *("[6/6]", "evaluate"),
    ]
    shares = re.findall(r"(\w+ \w+) +│ +([\d.]+)%", text)
    assert [name for name, _ in shares] == ["bone length", "foot height", "root speed"]
    rows = json.loads((folder / "demo/evaluation/results.json").read_text())["rows"]
    assert {row: len(measures["fid"]["replications"]) for row, measures in rows.items()} == {
        "recorded": 10,
        "reconstructed": 10,
        "reconstructed_raw": 10,
        "generated": 10,
        "raw": 10,
        "untrained": 2,
    }
    (demo,) = MlflowClient(f"sqlite:///{folder}/mlflow.db").search_runs(["1"], "tags.mlflow.runName = 'demo'")
    text_of_run = demo.data.tags["mlflow.note.content"]
    assert text_of_run.startswith("The whole pipeline on Duet, small.\n\nEvaluation of `")
    assert text_of_run.count("![motions/") == 4
    videos = re.findall(r"^  (\S+\.mp4)$", text, re.MULTILINE)
    assert len(videos) == 4
    assert all((folder / video).stat().st_size > 10_000 for video in videos)
    (page,) = re.findall(r"experts: (\S+\.html)$", text, re.MULTILINE)
    data = json.loads((folder / page).read_text("utf-8").partition('id="motions">')[2].partition("</script>")[0])
    assert [scene["panels"][0]["routing"]["layers"] for scene in data["scenes"]] == [4, 4, 4, 4]
    assert "intermoe ui" in text


@pytest.mark.slow
@pytest.mark.ray
def test_a_small_demo_shows_and_makes_everything(tmp_path: Path) -> None:
    status, lines = run_in_terminal([sys.executable, "-c", SMALL], tmp_path)
    assert status == 0, "\n".join(lines)
    check_what_is_shown_and_made(tmp_path, lines)


@pytest.mark.faults
def test_the_demo_makes_plausible_motion_in_time(tmp_path: Path) -> None:
    """As a newcomer runs it; some ten minutes."""
    began = time.monotonic()
    status, lines = run_in_terminal([Path(sys.executable).with_name("intermoe"), "demo"], tmp_path)
    minutes = (time.monotonic() - began) / 60
    text = "\n".join(lines)
    assert status == 0, text
    check_what_is_shown_and_made(tmp_path, lines)
    shares = {name: float(share) for name, share in re.findall(r"(\w+ \w+) +│ +([\d.]+)%", text)}
    assert all(share >= 90 for share in shares.values()), shares
    rows = json.loads((tmp_path / "demo/evaluation/results.json").read_text())["rows"]
    fid = {row: measures["fid"]["mean"] for row, measures in rows.items()}
    assert fid["untrained"] - fid["recorded"] >= 10 * (fid["raw"] - fid["recorded"])
    # Settling takes nothing away: what users get is as near to recorded motion as what the network makes.
    assert fid["generated"] < 1.1 * fid["raw"]
    assert fid["reconstructed"] < 1.1 * fid["reconstructed_raw"] < fid["raw"]
    # What users get keeps its bones, and trembles less than what the network makes.
    bones, jerk = ({row: rows[row][name]["mean"] for row in rows} for name in ("bone_length_deviation_cm", "jerk_m_s3"))
    assert bones["generated"] < 0.001 < bones["raw"]
    assert jerk["generated"] < 0.25 * jerk["raw"]
    assert rows["recorded"]["identity"]["mean"] >= 0.98
    assert 0.4 < rows["recorded"]["identity_shuffled"]["mean"] < 0.6
    # Who acts, what is acted and how: near to recorded motion (measured: 0.95, 1.0 times, 12.0, 1.7 and 1.7 times).
    of_users = {name: measures["mean"] for name, measures in rows["generated"].items()}
    recorded = {name: measures["mean"] for name, measures in rows["recorded"].items()}
    assert of_users["identity"] > 0.9
    assert of_users["r_precision_top1"] > 0.9 * recorded["r_precision_top1"]
    assert of_users["fid"] < 15
    assert of_users["jerk_m_s3"] < 3 * recorded["jerk_m_s3"]
    assert of_users["hands_met"] > 0.8
    assert of_users["foot_skating_cm_s"] < 2 * recorded["foot_skating_cm_s"]
    # Nine to twelve on two idle cores; those of a test may be busy, or slower.
    assert minutes < 25
