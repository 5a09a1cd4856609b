"""A full disk is one line with the file's name and leaves nothing half-written; with room the same command works."""

import pytest
import torch
import yaml
from small_model import save_model, small_model

from intermoe import checkpoint
from intermoe.datasets.duet import write_duet
from intermoe.datasets.interhuman import InterHumanReader
from intermoe.errors import UserError
from intermoe.files import sha256
from pipelines.cli import main
from pipelines.preprocess.preprocess import make_shards


# In the layout of Inter-X, the second disk is full while the files of the splits are written.
@pytest.mark.slow
@pytest.mark.parametrize(("layout", "kib"), [("interhuman", 3000), ("interx", 1000), ("interx", 4000)])
def test_recordings(disk, layout, kib):
    disk.resize(kib)
    with pytest.raises(UserError) as caught:
        write_duet(disk.root / "duet", count=20, seed=0, layout=layout)
    assert str(caught.value) == f"{disk.root}/duet: cannot be written: No space left on device"
    assert disk.files() == []
    disk.resize(60_000)
    write_duet(disk.root / "duet", count=20, seed=0, layout=layout)


@pytest.mark.parametrize(("kib", "file"), [(400, "weights.safetensors"), (1250, "config.json")])
def test_a_checkpoint(disk, kib, file):
    tensors, documents = {"weights": {"w": torch.ones(300_000)}}, {"config": {"text": ["a" * 100] * 5000}}
    disk.resize(kib)
    with pytest.raises(UserError, match="cannot be written: No space left on device") as caught:
        checkpoint.save(disk.root / "best", tensors=tensors, documents=documents)
    assert str(caught.value).startswith(f"{disk.root}/best/{file}: ")
    assert disk.files() == []
    disk.resize(60_000)
    checkpoint.save(disk.root / "best", tensors=tensors, documents=documents)
    assert checkpoint.load(disk.root / "best").documents == documents


@pytest.mark.slow
def test_motions(disk, tmp_path, capsys):
    save_model(tmp_path / "model/best", small_model())
    command = ["generate", "They bow.", "--model", str(tmp_path / "model"), "--seconds", "1", "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    capsys.readouterr()
    disk.resize(150)
    assert main([*command, str(disk.root / "motions")]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert line.startswith(f"error: {disk.root}/motions/00_they-bow")
    assert line.endswith(": cannot be written: No space left on device")
    assert disk.files() == []
    disk.resize(60_000)
    assert main([*command, str(disk.root / "motions")]) == 0
    whole = {file.name: file for file in (tmp_path / "whole").iterdir()}
    assert disk.files() == sorted(f"motions/{name}" for name in whole)
    for name, file in whole.items():
        if file.suffix != ".mp4":  # its encoder has several threads, whose order shows in the bytes
            assert (disk.root / "motions" / name).read_bytes() == file.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kib", [100, 2000, 5000])
def test_shards(ray_session, disk, tmp_path, kib):
    write_duet(tmp_path / "raw", count=12, seed=1)
    reader = InterHumanReader(tmp_path / "raw")
    whole = make_shards(reader, name="tiny", out=tmp_path / "whole", encoder="minilm")
    disk.resize(kib)
    with pytest.raises(UserError, match="cannot be written: No space left on device") as caught:
        make_shards(reader, name="tiny", out=disk.root / "shards", encoder="minilm")
    assert str(caught.value).startswith(f"{disk.root}/shards/")
    assert disk.files() == []
    disk.resize(60_000)
    assert make_shards(reader, name="tiny", out=disk.root / "shards", encoder="minilm") == whole


@pytest.mark.slow
def test_a_training(shards, tiny, run_workers, store, disk, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    values = tiny("vae", 6, "train.vae.checkpoint_every=2", "workers.count=1")
    run_workers("vae", values, tmp_path / "whole")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values.model_dump(mode="json")))
    command = ["train", "vae", "--config", str(tmp_path / "tiny.yaml"), "--data", str(shards), "--out"]
    disk.resize(80)
    assert main([*command, str(disk.root / "run")]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert line.startswith(f"error: {disk.root}/run/")
    assert "cannot be written: No space left on device" in line
    disk.resize(60_000)
    assert main([*command, str(disk.root / "run"), "--resume"]) == 0
    for name in ("best", "checkpoints/step-00000006"):
        files = [file for file in (tmp_path / "whole" / name).iterdir() if file.suffix == ".safetensors"]
        assert files
        for file in files:
            assert sha256(disk.root / "run" / name / file.name) == sha256(file)
