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


@pytest.mark.slow
def test_demo_makes_plausible_motion_in_time(tmp_path: Path) -> None:
    began = time.monotonic()
    tool = Path(sys.executable).with_name("intermoe")
    status, lines = run_in_terminal([tool, "demo"], tmp_path)
    minutes = (time.monotonic() - began) / 60
    text = "\n".join(lines)
    assert status == 0, text
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
    shares = {name: float(share) for name, share in re.findall(r"(\w+ \w+) +│ +([\d.]+)%", text)}
    assert shares.keys() == {"bone length", "foot height", "root speed"}
    assert all(share >= 90 for share in shares.values()), shares
    rows = json.loads((tmp_path / "demo/evaluation/results.json").read_text())["rows"]
    assert {row: len(measures["fid"]["replications"]) for row, measures in rows.items()} == {
        "recorded": 10,
        "reconstructed": 10,
        "reconstructed_raw": 10,
        "generated": 10,
        "raw": 10,
        "untrained": 2,
    }
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
    # Who acts, what is acted and how: near to recorded motion (measured: 0.96, 0.92 times, 12.6, 2.2 and 1.9 times).
    of_users = {name: measures["mean"] for name, measures in rows["generated"].items()}
    recorded = {name: measures["mean"] for name, measures in rows["recorded"].items()}
    assert of_users["identity"] > 0.9
    assert of_users["r_precision_top1"] > 0.8 * recorded["r_precision_top1"]
    assert of_users["fid"] < 18
    assert of_users["jerk_m_s3"] < 3 * recorded["jerk_m_s3"]
    assert of_users["foot_skating_cm_s"] < 2.5 * recorded["foot_skating_cm_s"]
    (demo,) = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"], "tags.mlflow.runName = 'demo'")
    text_of_run = demo.data.tags["mlflow.note.content"]
    assert text_of_run.startswith("The whole pipeline on Duet, small.\n\nEvaluation of `")
    assert text_of_run.count("![motions/") == 4
    videos = re.findall(r"^  (\S+\.mp4)$", text, re.MULTILINE)
    assert len(videos) == 4
    assert all((tmp_path / video).stat().st_size > 10_000 for video in videos)
    (page,) = re.findall(r"experts: (\S+\.html)$", text, re.MULTILINE)
    data = json.loads((tmp_path / page).read_text("utf-8").partition('id="motions">')[2].partition("</script>")[0])
    assert [scene["panels"][0]["routing"]["layers"] for scene in data["scenes"]] == [4, 4, 4, 4]
    assert "intermoe ui" in text
    # Nine on two idle cores; those of a test may be busy, or slower.
    assert minutes < 25
