"""Inter-X through every command: 55 joints instead of 22, and two people who are not Duet's."""

import json
from pathlib import Path

import numpy as np
import pytest
from interx_files import ProcessedFolder, standing_pose
from word_files import write_word_files

from intermoe.data.shards import DatasetFolder
from pipelines.cli import main

SMALL = [
    *("vae.width=8", "vae.latent=4", "vae.blocks=1", "moe.experts=4", "moe.hidden=16"),
    *("denoiser.width=32", "denoiser.layers=2", "denoiser.heads=4"),
    *("denoiser.text_layers=1", "denoiser.text_hidden=32", "denoiser.text_heads=4"),
    *("data.encoder=minilm", "data.max_frames=60", "workers.count=1", "diffusion.sampler_steps=5"),
    *("evaluator.t2m.word_width=8", "evaluator.t2m.movement_width=16", "evaluator.t2m.motion_hidden=16"),
    *("evaluator.t2m.text_hidden=16", "evaluator.t2m.embedding=8", "diffusion.hand_contact_loss=0.1"),
]
SHORT = ["epochs=1", "batch_size=4", "warmup_epochs=0"]
EVALUATION = ["replications=2", "pool=2", "batch_size=2", "diversity_pairs=2"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_every_command_works_on_interx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = ProcessedFolder(tmp_path / "Inter-X/processed_data")
    for number in range(12):
        split = "train" if number < 8 else "val" if number < 10 else "test"
        folder.add(f"G{number:03d}T000A002R000", *standing_pose(60, seed=number), split=split)
    folder.add("G099T000A000R000", *standing_pose(60), text="They bow.")
    assert main(["preprocess", "interx", "--root", "Inter-X", "--out", "data"]) == 0
    card = DatasetFolder.open(tmp_path / "data").card
    assert (card.skeleton, card.recordings, card.quarantined) == ("smplx55", {"train": 8, "val": 2, "test": 2}, 1)
    write_word_files(tmp_path / "glove", width=8, stem="hhi_vab")
    for target, *more in (("vae",), ("denoiser", "--vae", "vae"), ("evaluator", "--word-vectors", "glove")):
        settings = [*SMALL, *(f"train.{target}.{value}" for value in SHORT)]
        words = ["train", target, "--config", "interx", "--data", "data", "--out", target, *more, *settings]
        assert main(words) == 0, target
    words = ["evaluate", "--model", "denoiser", "--evaluator", "evaluator", "--data", "data", "--out", "table"]
    multimodality = ["evaluation.multimodality.captions=0"]
    assert main([*words, *(f"evaluation.{value}" for value in EVALUATION), *multimodality]) == 0
    rows = json.loads((tmp_path / "table/results.json").read_text())["rows"]
    assert np.isfinite(rows["generated"]["fid"]["mean"])
    assert "identity" not in rows["generated"]
    assert main(["generate", "They bow.", "--model", "denoiser", "--seconds", "1", "--out", "motions", "--amass"]) == 0
    kinds = sorted("".join(file.suffixes) for file in (tmp_path / "motions").iterdir())
    assert [kind for kind in kinds if kind.endswith(".npz")] == [".amass.npz", ".amass.npz", ".npz"]
