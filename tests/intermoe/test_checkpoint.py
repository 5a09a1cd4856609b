"""Checkpoint folders: exact, whole or absent, and clear about damage."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from intermoe import checkpoint, files
from intermoe.checkpoint import (
    DamagedCheckpoint,
    latest,
    load,
    load_optimizer,
    optimizer_tensors,
    prune,
    save,
    step_folder,
)
from intermoe.errors import UserError


def write(folder, value=1.0, **options):
    save(folder, tensors={"weights": {"w": torch.full((3,), value)}}, documents={"config": {"width": 3}}, **options)


def bits(tensor):
    return tensor.reshape(-1).view(torch.uint8).tolist()


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_returns_what_was_saved_bit_for_bit(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "weights": {"a.weight": torch.randn(4, 5, generator=generator), "half": torch.randn(3).bfloat16()},
        "state": {"count": torch.tensor([2**62, -1]), "none": torch.empty(0, 7), "step": torch.tensor(5.0)},
        "vae": {},
    }
    tensors["weights"]["odd"] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    documents = {
        "config": {"seed": 1, "name": "Zürich", "nested": {"x": [1, None]}},
        "state": {"lr": 0.1 + 0.2, "n": 2**70},
    }
    save(tmp_path / "a" / "model", tensors=tensors, documents=documents)
    loaded = load(tmp_path / "a" / "model")
    assert loaded.documents == documents
    assert {part: set(names) for part, names in loaded.tensors.items()} == {p: set(n) for p, n in tensors.items()}
    for part, names in tensors.items():
        for name, tensor in names.items():
            assert loaded.tensors[part][name].dtype == tensor.dtype
            assert loaded.tensors[part][name].shape == tensor.shape
            assert bits(loaded.tensors[part][name]) == bits(tensor)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["model"]


def test_tied_and_strided_tensors_are_stored_by_value(tmp_path):
    embedding = nn.Embedding(5, 4)
    head = nn.Linear(4, 5, bias=False)
    head.weight = embedding.weight
    model = nn.ModuleDict({"embedding": embedding, "head": head})
    grid = torch.arange(12.0).reshape(3, 4)
    extra = {"transposed": grid.T, "column": grid[:, 1], "expanded": grid[:1].expand(3, 4), "view": grid[1:]}
    save(tmp_path / "m", tensors={"weights": {**model.state_dict(), **extra}}, documents={})
    loaded = load(tmp_path / "m").tensors["weights"]
    for name, tensor in extra.items():
        assert torch.equal(loaded.pop(name), tensor)
    model.load_state_dict(loaded)
    assert model["head"].weight is model["embedding"].weight


def test_manifest_lists_sha256_of_every_file(tmp_path):
    write(tmp_path / "m")
    listed = json.loads((tmp_path / "m" / "manifest.json").read_text())["files"]
    files = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir() if path.name != "manifest.json"}
    assert {name: entry["sha256"] for name, entry in listed.items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items()
    }
    assert set(files) == {"weights.safetensors", "config.json"}


def flip_a_bit(folder):
    file = folder / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def name_outside(folder):
    (folder.parent / "secret.json").write_text("{}")
    entry = {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    (folder / "manifest.json").write_text(json.dumps({"files": {"../secret.json": entry}}))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no such folder": shutil.rmtree,
    "has no manifest.json": lambda folder: (folder / "manifest.json").unlink(),
    "manifest.json cannot be read": lambda folder: (folder / "manifest.json").write_text("{"),
    "weights.safetensors is missing": lambda folder: (folder / "weights.safetensors").unlink(),
    "config.json is not": lambda folder: (folder / "config.json").write_text("{}"),
    "weights.safetensors does not match its checksum": flip_a_bit,
    "manifest.json lists '../secret.json'": name_outside,
}


@pytest.mark.parametrize("message", DAMAGES)
def test_damage_is_told_in_one_line(tmp_path, message):
    write(tmp_path / "m")
    DAMAGES[message](tmp_path / "m")
    with pytest.raises(UserError) as error:
        load(tmp_path / "m")
    assert message in one_line(error)
    assert str(tmp_path / "m") in one_line(error)


@pytest.mark.parametrize(
    "content", ["[]", "3", '{"files": 3}', '{"files": {"config.json": 3}}', '{"files": {"a.json": {}}}']
)
def test_a_manifest_of_another_form_is_damage(tmp_path, content):
    write(tmp_path / "m")
    (tmp_path / "m" / "manifest.json").write_text(content)
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "m")


@pytest.mark.parametrize("name", ["../evil", "manifest", "", ".hidden", "a/b", "a.b"])
def test_unfit_names_are_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(ValueError, match="cannot name"):
        save(tmp_path / "m", tensors={}, documents={name: {}})
    assert list(tmp_path.iterdir()) == []


def test_json_that_would_not_return_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"state.json"):
        save(tmp_path / "m", tensors={}, documents={"state": {"best": float("nan")}})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path):
    write(tmp_path / "m", 1.0)
    with pytest.raises(UserError, match="exists already"):
        write(tmp_path / "m", 2.0)
    assert load(tmp_path / "m").tensors["weights"]["w"][0] == 1
    write(tmp_path / "m", 2.0, replace=True)
    assert load(tmp_path / "m").tensors["weights"]["w"][0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("call", range(1, 13))
def test_a_failure_at_any_moment_leaves_nothing_new(tmp_path, monkeypatch, call):
    """Two files and a manifest: every write, flush and move in turn fails; what bore the name stays as it was."""
    write(tmp_path / "old", 1.0)
    calls = iter(range(1, 100))

    def failing(function):
        def wrapped(*args, **kwargs):
            if next(calls) == call:
                raise OSError(28, "No space left on device")
            return function(*args, **kwargs)

        return wrapped

    for module, name in ((checkpoint, "save_file"), (Path, "write_text"), (files, "flush"), (Path, "rename")):
        monkeypatch.setattr(module, name, failing(getattr(module, name)))
    for name, replace in (("old", True), ("new", False)):
        calls = iter(range(1, 100))
        with pytest.raises(UserError, match="No space left"):
            write(tmp_path / name, 2.0, replace=replace)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert load(tmp_path / "old").tensors["weights"]["w"][0] == 1


def test_the_old_folder_returns_when_the_new_one_cannot_be_moved_in(tmp_path, monkeypatch):
    write(tmp_path / "m", 1.0)
    rename = Path.rename
    moves = []

    def failing(path, target):
        moves.append(path)
        if len(moves) == 2:
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(UserError, match="Input/output error"):
        write(tmp_path / "m", 2.0, replace=True)
    assert len(moves) == 3
    assert load(tmp_path / "m").tensors["weights"]["w"][0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_all_files_are_as_readable_as_the_folder(tmp_path):
    write(tmp_path / "m")
    modes = {path.stat().st_mode & 0o666 for path in ((tmp_path / "m"), *(tmp_path / "m").iterdir())}
    assert len(modes) == 1


def test_a_killed_writer_leaves_only_whole_checkpoints(tmp_path):
    script = (
        "import sys, torch; from pathlib import Path; from intermoe.checkpoint import save, step_folder\n"
        "for step in range(100000):\n"
        "    tensors = {part: {'w': torch.full((20000,), float(step))} for part in ('a', 'b', 'c')}\n"
        "    save(step_folder(Path(sys.argv[1]), step), tensors=tensors, documents={'state': {'step': step}})\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    deadline = time.monotonic() + 60
    while not step_folder(tmp_path, 20).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    folders = sorted(tmp_path.glob("step-*"))
    assert len(folders) > 20
    for folder in folders:
        loaded = load(folder)
        assert {float(part["w"].sum()) for part in loaded.tensors.values()} == {
            20000.0 * loaded.documents["state"]["step"]
        }
    assert latest(tmp_path) == folders[-1]
    prune(tmp_path, keep=2)
    assert sorted(tmp_path.iterdir()) == folders[-2:]


def test_latest_falls_back_to_the_newest_undamaged(tmp_path):
    assert latest(tmp_path / "nowhere") is None
    assert latest(tmp_path) is None
    for step in (9, 10, 100):
        write(step_folder(tmp_path, step))
    (tmp_path / "step-00000200").mkdir()
    (tmp_path / ".step-00000300.0123456789abcdef0123456789abcdef").mkdir()
    (tmp_path / "step-last").mkdir()
    assert latest(tmp_path) == tmp_path / "step-00000100"
    flip_a_bit(tmp_path / "step-00000100")
    reported: list[UserError] = []
    assert latest(tmp_path, report=reported.append) == tmp_path / "step-00000010"
    damage = "weights.safetensors does not match its checksum in manifest.json: the checkpoint is damaged"
    assert [str(error) for error in reported] == [f"{tmp_path}/step-00000100: {damage}"]
    with pytest.raises(UserError) as caught:
        latest(tmp_path, holding=["optimizer.safetensors"])
    assert str(caught.value) == (
        f"{tmp_path}: no checkpoint of 3 is whole; {tmp_path}/step-00000100: {damage} "
        "(allowed: delete this folder to begin again from step 0)"
    )


def test_a_manifest_that_has_lost_a_line_is_damage(tmp_path):
    write(tmp_path / "model")
    manifest = tmp_path / "model/manifest.json"
    files = json.loads(manifest.read_text())["files"]
    manifest.write_text(json.dumps({"files": {name: files[name] for name in files if name != "config.json"}}))
    with pytest.raises(UserError) as caught:
        load(tmp_path / "model")
    assert str(caught.value) == (
        f"{tmp_path}/model: manifest.json does not list config.json: the checkpoint is damaged"
    )


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"files": {"config.json": {"bytes": 1e999, "sha256": ""}}}', "\udcff"]
)
def test_a_manifest_that_is_none_is_damage(tmp_path, content):
    write(tmp_path / "model")
    (tmp_path / "model/manifest.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DamagedCheckpoint) as caught:
        load(tmp_path / "model")
    assert str(caught.value) == f"{tmp_path}/model: manifest.json cannot be read: the checkpoint is damaged"


def test_a_pipe_in_place_of_a_manifest_is_not_waited_for(tmp_path):
    write(tmp_path / "model")
    (tmp_path / "model/manifest.json").unlink()
    os.mkfifo(tmp_path / "model/manifest.json")
    with pytest.raises(DamagedCheckpoint) as caught:
        load(tmp_path / "model")
    assert str(caught.value) == f"{tmp_path}/model: manifest.json cannot be read: not a regular file"


def test_a_document_nested_without_end_is_told(tmp_path):
    write(tmp_path / "model")
    document, manifest = tmp_path / "model/config.json", tmp_path / "model/manifest.json"
    document.write_text("[" * 100_000)
    listed = json.loads(manifest.read_text())["files"]
    listed["config.json"] = {"bytes": 100_000, "sha256": hashlib.sha256(document.read_bytes()).hexdigest()}
    manifest.write_text(json.dumps({"files": listed}))
    with pytest.raises(UserError, match=r"model: config\.json cannot be read: maximum recursion depth exceeded"):
        load(tmp_path / "model")


def test_prune_keeps_complete_ones_and_clears_leftovers(tmp_path):
    for step in (1, 2, 3, 4):
        write(step_folder(tmp_path, step))
    (tmp_path / "step-00000004" / "config.json").unlink()
    (tmp_path / ".step-00000003.0123456789abcdef0123456789abcdef").mkdir()
    (tmp_path / ".notes").mkdir()
    prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes", "step-00000002", "step-00000003"]
    with pytest.raises(ValueError, match="at least one"):
        prune(tmp_path, keep=0)
    prune(tmp_path / "nowhere", keep=1)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 2)
        self.unused = nn.Parameter(torch.zeros(3))

    def forward(self, x_B6):
        return self.second(torch.tanh(self.first(x_B6)))


def build():
    torch.manual_seed(0)
    model = Model()
    decayed = [model.second.weight, model.first.weight]
    rest = [model.unused, model.first.bias, model.second.bias]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, lr=0.01)


def train(model, optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        loss = model(torch.randn(16, 6, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_resumed_training_is_bitwise_the_uninterrupted(tmp_path):
    model, optimizer = build()
    train(model, optimizer, range(10))

    half, half_optimizer = build()
    train(half, half_optimizer, range(5))
    state = optimizer_tensors(half_optimizer, half.named_parameters())
    assert {name.partition(".")[0] for name in state} == {"step", "exp_avg", "exp_avg_sq"}
    assert "exp_avg.first.weight" in state
    save(tmp_path / "m", tensors={"weights": half.state_dict(), "state": state}, documents={})

    saved = load(tmp_path / "m")
    resumed, resumed_optimizer = build()
    resumed.load_state_dict(saved.tensors["weights"])
    load_optimizer(resumed_optimizer, resumed.named_parameters(), saved.tensors["state"])
    train(resumed, resumed_optimizer, range(5, 10))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name])
    one = optimizer_tensors(optimizer, model.named_parameters())
    other = optimizer_tensors(resumed_optimizer, resumed.named_parameters())
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert saved.tensors["state"]["step.first.weight"] == 5, "training on must not change what was loaded"


def test_optimizer_state_that_does_not_fit_is_refused():
    model, optimizer = build()
    with pytest.raises(UserError, match=r"'third\.weight'"):
        load_optimizer(optimizer, model.named_parameters(), {"exp_avg.third.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"shape \[2\] \(allowed: \[8\]\)"):
        load_optimizer(optimizer, model.named_parameters(), {"exp_avg.first.bias": torch.zeros(2)})


def test_documents_are_read_without_the_tensors(tmp_path):
    write(tmp_path / "model")
    (tmp_path / "model" / "weights.safetensors").write_bytes(
        b"\0" * (tmp_path / "model/weights.safetensors").stat().st_size
    )
    assert checkpoint.documents(tmp_path / "model") == {"config": {"width": 3}}
    with pytest.raises(UserError, match="does not match its checksum"):
        load(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace("3", "4"))
    with pytest.raises(UserError, match=r"config\.json does not match its checksum"):
        checkpoint.documents(tmp_path / "model")
