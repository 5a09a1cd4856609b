"""The training loop, in one, two and four processes; test_train.py has it under Ray Train."""

import math
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from logged_routing import routing_curves
from toy_shards import change_card

from intermoe import checkpoint
from intermoe.data.shards import MOTION_SCHEMA, DatasetFolder, write_rows
from intermoe.errors import UserError
from intermoe.training.config import TrainingConfig
from intermoe.training.objective import Means
from intermoe.training.outcome import Reading, StepOutcome
from intermoe.training.samples import SampleStream
from intermoe.training.step import learning_rate
from pipelines.train.worker import Worker

STEPS = 6
TARGETS = ("vae", "denoiser", "evaluator")
# The evaluator compares the samples of a micro-batch, so its number is part of what is learned.
SHARED = [(t, w, a) for t in TARGETS for w, a in ((2, 1), (4, 1), (1, 2), (2, 2)) if t != "evaluator" or a == 1]


def newest(out):
    folder = checkpoint.latest(out / "checkpoints")
    assert folder is not None
    return checkpoint.load(folder)


def assert_same_state(found, expected):
    """Bit for bit: weights, biases, counts, optimizer, and what is remembered between steps."""
    for document in ("state", "progress"):
        assert found.documents[document] == expected.documents[document]
    assert found.tensors.keys() == expected.tensors.keys()
    for part, tensors in expected.tensors.items():
        assert found.tensors[part].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(found.tensors[part][name], tensor), (part, name)


@pytest.fixture(scope="module")
def reference(run_workers, tiny, vae, tmp_path_factory):
    """For each target a training by one worker: what it logged and left."""
    done = {}
    for target in TARGETS:
        out = tmp_path_factory.mktemp(target) / "run"
        history = run_workers(target, tiny(target, STEPS), out, vae=vae / "best" if target == "denoiser" else None)
        done[target] = (history, out)
    return done


@pytest.mark.slow
@pytest.mark.parametrize(("target", "world", "accumulate"), SHARED)
def test_workers_and_micro_batches_change_nothing(
    reference, run_workers, tiny, vae, tmp_path, target, world, accumulate
):
    expected, expected_out = reference[target]
    values = tiny(target, STEPS, f"train.{target}.accumulate={accumulate}", f"workers.count={world}")
    found = run_workers(
        target, values, tmp_path / "run", world=world, vae=vae / "best" if target == "denoiser" else None
    )
    assert found.failure is None
    assert found.names() == expected.names()
    names = [name for name in expected.names() if "loss" in name or name.startswith("validation/")]
    assert len(names) == {"vae": 20, "denoiser": 7, "evaluator": 7}[target]
    for name in names:
        assert dict(found(name)) == pytest.approx(dict(expected(name)), rel=1e-5, abs=1e-7), name
    ours, theirs = routing_curves(tmp_path / "run"), routing_curves(expected_out)
    assert ours.keys() == theirs.keys()
    assert bool(ours) == (target == "denoiser")
    for name, points in theirs.items():
        summed = "entropy" in name
        assert ours[name] == [(s, pytest.approx(v) if summed else v) for s, v in points], name
    after, before = newest(tmp_path / "run"), newest(expected_out)
    for part, tensors in before.tensors.items():
        if part == "optimizer":
            continue
        for name, tensor in tensors.items():
            exact = part == "normaliser" or "bias_E" in name or "selected" in name
            # AdamW divides by the size of the gradient: where that is next to nothing, rounding is all there is.
            bounds = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-4}
            other = after.tensors[part][name]
            if name.endswith("in_proj_bias"):
                # The bias of the keys adds the same to all logits of a query: its gradient is nothing but rounding.
                other, tensor = (torch.cat([t.chunk(3)[0], t.chunk(3)[2]]) for t in (other, tensor))
            torch.testing.assert_close(other, tensor, **bounds, msg=f"{part} {name}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "moe",
    [
        "moe.selection=expert_choice",
        "moe.selection=token_choice moe.c_exp=2 moe.router=motion",
        "moe.selection=uniform moe.router=text",
        "moe.selection=dense",
        "moe.bias_init=calibrated moe.c_exp=1.5",
    ],
)
def test_every_paradigm_is_the_same_whoever_holds_the_samples(run_workers, tiny, vae, tmp_path, moe):
    """Two workers and one, with two micro-batches each: what a paradigm compares is the micro-batch of all workers."""
    runs, routings = [], []
    for world in (1, 2):
        values = tiny("denoiser", STEPS, "train.denoiser.accumulate=2", f"workers.count={world}", *moe.split())
        history = run_workers("denoiser", values, tmp_path / str(world), world=world, vae=vae / "best")
        runs.append((history, newest(tmp_path / str(world)).tensors["denoiser"]))
        routings.append(routing_curves(tmp_path / str(world)))
    (expected, before), (found, after) = runs
    assert found("loss/train") == [(step, pytest.approx(loss, rel=1e-5)) for step, loss in expected("loss/train")]
    assert found.names() == expected.names()
    theirs, ours = routings
    assert bool(theirs) == ("dense" not in moe)
    assert ours.keys() == theirs.keys()
    for name, points in theirs.items():
        counted = not any(word in name for word in ("entropy", "bias", "threshold"))
        assert ours[name] == [(s, v if counted else pytest.approx(v, abs=1e-5)) for s, v in points], name
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-4, atol=1e-4, msg=name)


def test_every_step_is_logged_once_and_all_is_finite(reference):
    for target, (history, _) in reference.items():
        for name in history.names():
            points = history(name)
            first = "validation" in name
            assert [step for step, _ in points] == ([0, STEPS] if first else list(range(1, STEPS + 1))), (target, name)
            assert all(math.isfinite(value) for _, value in points)
        waiting = [value for _, value in history("train/share_waiting_for_data")]
        assert all(0 <= value <= 1 for value in waiting)
        for (_, seconds), (_, samples) in zip(
            history("train/seconds_per_step"), history("train/samples_per_second"), strict=True
        ):
            assert seconds * samples == pytest.approx(8)


def test_the_logged_loss_is_the_weighted_sum(reference, tiny):
    weights = tiny("vae", STEPS).train.vae.loss.model_dump()
    history = reference["vae"][0]
    parts = {name: dict(history(f"loss/train_{name}")) for name in weights}
    for step, loss in history("loss/train"):
        assert loss == pytest.approx(sum(weight * parts[name][step] for name, weight in weights.items()), rel=1e-6)


def test_the_biases_move_by_sigma_and_end_in_the_checkpoint(reference):
    _, out = reference["denoiser"]
    curves, saved = routing_curves(out), newest(out).tensors["denoiser"]
    for layer in range(2):
        bias_E = saved[f"layers.{layer}.feed_forward.selection.bias_E"]
        for expert in range(4):
            points = [-0.5] + [value for _, value in curves[f"layer{layer}/bias{expert}"]]
            for before, after, (_, load) in zip(points, points[1:], curves[f"layer{layer}/load{expert}"], strict=False):
                assert after - before == pytest.approx(0.01 * np.sign(0.25 - load), abs=1e-6)
            assert bias_E[expert].item() == pytest.approx(points[-1])
        assert not saved[f"layers.{layer}.feed_forward.selection.selected_E"].any()


@pytest.mark.parametrize(
    ("target", "world", "moe"),
    [
        ("vae", 1, ()),
        ("denoiser", 1, ()),
        ("denoiser", 2, ("moe.selection=expert_choice",)),
        ("denoiser", 4, ("moe.bias_init=calibrated",)),
    ],
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(run_workers, tiny, vae, tmp_path, target, world, moe):
    # With dropout, so that every kind of randomness is there; logging falls between two checkpoints.
    words = ("vae.dropout=0.2", "denoiser.dropout=0.2", f"workers.count={world}", f"train.{target}.log_every=3", *moe)
    every = (f"train.{target}.checkpoint_every=2", f"train.{target}.validate_every=4")
    values, options = tiny(target, 7, *words, *every), {"world": world}
    if target == "denoiser":
        options["vae"] = vae / "best"
        values = values.model_copy(update={"vae": tiny("vae", 1).vae})
    whole = run_workers(target, values, tmp_path / "whole", **options)
    for stop in (1, 5):  # before the first checkpoint; after the second, with a step since
        run_workers(target, values, tmp_path / "parts", stop=stop, **options)
    parts = run_workers(target, values, tmp_path / "parts", **options)
    assert_same_state(newest(tmp_path / "parts"), newest(tmp_path / "whole"))
    best = [checkpoint.load(tmp_path / name / "best") for name in ("parts", "whole")]
    assert best[0].documents["state"] == best[1].documents["state"]
    timed = {"train/seconds_per_step", "train/samples_per_second", "train/share_waiting_for_data"}
    assert parts.names() == whole.names()
    for name in whole.names():
        assert [step for step, _ in parts(name)] == [step for step, _ in whole(name)], name
        assert name in timed or parts(name) == whole(name), name
    assert [step for step, _ in whole("loss/train")] == [3, 6, 7]
    assert [step for step, _ in whole(f"loss/validation_{'diffusion' if target == 'denoiser' else 'kl'}")] == [0, 4, 7]


def flip_a_bit(folder):
    file = folder / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(run_workers, tiny, tmp_path):
    values = tiny("vae", 6, "train.vae.checkpoint_every=2")
    run_workers("vae", values, tmp_path / "whole")
    run_workers("vae", values, tmp_path / "parts", stop=5)
    folder = checkpoint.step_folder(tmp_path / "parts/checkpoints", 4)
    flip_a_bit(folder)
    history = run_workers("vae", values, tmp_path / "parts")
    assert_same_state(newest(tmp_path / "parts"), newest(tmp_path / "whole"))
    assert history.failure is None
    assert history.tags["intermoe.damaged"] == (
        f"{folder}: optimizer.safetensors does not match its checksum in manifest.json: the checkpoint is damaged"
    )


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_again(run_workers, tiny, tmp_path):
    values = tiny("vae", 6, "train.vae.checkpoint_every=2")
    run_workers("vae", values, tmp_path / "run", stop=5)
    root = tmp_path / "run/checkpoints"
    folders = sorted(root.iterdir())
    (folders[0] / "manifest.json").unlink()
    flip_a_bit(folders[1])
    history = run_workers("vae", values, tmp_path / "run")
    assert history.failure == (
        f"{root}: no checkpoint of 2 is whole; {folders[1]}: optimizer.safetensors does not match its checksum in "
        "manifest.json: the checkpoint is damaged (allowed: delete this folder to begin again from step 0)"
    )
    # Those of the first attempt alone; the point after its last checkpoint may have gone with it.
    assert [step for step, _ in history("loss/train")] in ([1, 2, 3, 4], [1, 2, 3, 4, 5])
    assert sorted(root.iterdir()) == folders


def test_a_finished_run_has_nothing_left_to_do(run_workers, tiny, tmp_path):
    values = tiny("vae", 2)
    first = run_workers("vae", values, tmp_path / "run")
    before, points = newest(tmp_path / "run"), first("loss/train")
    again = run_workers("vae", values, tmp_path / "run")
    assert_same_state(newest(tmp_path / "run"), before)
    assert again("loss/train") == points


def test_only_the_newest_checkpoints_and_the_best_are_kept(run_workers, tiny, tmp_path):
    often = ("train.vae.checkpoint_every=1", "train.vae.validate_every=1", "train.vae.keep=2")
    (tmp_path / "run" / f".best.{'0' * 32}").mkdir(parents=True)  # left by a worker that was killed
    history = run_workers("vae", tiny("vae", 5, *often), tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["best", "checkpoints"]
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["step-00000004", "step-00000005"]
    error = dict(history("validation/position_error_cm"))
    error.pop(0)
    saved = checkpoint.load(tmp_path / "run" / "best")
    assert saved.documents["state"]["step"] == min(error, key=lambda step: error[step])
    assert set(saved.tensors) == {"normaliser", "vae"}


@pytest.fixture
def poisoned(shards, tmp_path):
    """The data set with one recording of the training split not a number; the folder and the recording's id."""
    copy = tmp_path / "poisoned"
    (copy / "motions").mkdir(parents=True)
    for file in shards.rglob("*"):
        if file.is_file() and file.name != "train-00000.parquet":
            (copy / file.relative_to(shards)).parent.mkdir(exist_ok=True)
            (copy / file.relative_to(shards)).write_bytes(file.read_bytes())
    rows = pq.read_table(shards / "motions/train-00000.parquet").to_pylist()
    rows[3]["position"][rows[3]["frames"] // 2 * 132 + 7] = math.nan
    for row in rows:
        row |= {name: np.array(row[name], np.float32) for name in ("position", "rotation")}
    name = "motions/train-00000.parquet"
    files = DatasetFolder.open(shards).card.files
    change_card(copy, files=files | {name: write_rows(copy / name, MOTION_SCHEMA, rows)})
    return copy, rows[3]["id"]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "world"), [("vae", 2), ("denoiser", 1), ("denoiser", 2)])
def test_a_loss_that_is_not_a_number_ends_the_run_and_names_the_sample(
    run_workers, tiny, vae, poisoned, tmp_path, target, world
):
    dataset, name = poisoned
    often = (f"train.{target}.checkpoint_every=1", f"train.{target}.validate_every=1", f"workers.count={world}")
    values = tiny(target, 60, *often)
    of = SampleStream(str(dataset), "train", "windows", 0, 8, 60, 16)
    if target != "vae":
        by_length = values.train.denoiser.group_by_length
        of = SampleStream(str(dataset), "train", "interactions", 0, 8, 60, by_length=by_length)
    batches = (of.arrays(step, rank=0, world=1) for step in range(60))
    bad = next(
        (step, [of.sample_id(i) for i, x in zip(b["item"], b["features"], strict=True) if np.isnan(x).any()])
        for step, b in enumerate(batches)
        if np.isnan(b["features"]).any()
    )
    out = tmp_path / "run"
    options = {"vae": vae / "best"} if target == "denoiser" else {}
    history = run_workers(target, values, out, world=world, dataset=dataset, **options)
    assert history.failure.startswith(f"step {bad[0] + 1}: the loss or its gradient is not finite; samples ")
    assert history.failure.split("samples ")[1].split(", ") == sorted(bad[1])
    assert all(sample.split("/")[0] == name for sample in bad[1])
    assert [step for step, _ in history("loss/train")] == list(range(1, bad[0] + 1))
    if bad[0]:
        assert newest(out).documents["state"]["step"] == bad[0]
        assert checkpoint.load(out / "best").documents["state"]["step"] <= bad[0]
        for tensors in newest(out).tensors.values():
            assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    else:
        assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("epochs", "warmup", "steps_per_epoch"), [(10, 2, 7.5), (3, 0, 10.0), (2, 5, 4.25), (1, 0.1, 3)]
)
def test_the_learning_rate_rises_in_a_line_and_falls_by_a_cosine(epochs, warmup, steps_per_epoch):
    config = TrainingConfig(epochs=epochs, batch_size=1, learning_rate=0.25, warmup_epochs=warmup)
    total = math.ceil(epochs * steps_per_epoch)
    found = [learning_rate(config, step, steps_per_epoch, total) for step in range(total)]
    warm = min(warmup * steps_per_epoch, total)
    for step, rate in enumerate(found):
        if step + 1 <= warm:
            assert rate == pytest.approx(0.25 * (step + 1) / warm)
        else:
            assert rate == pytest.approx(0.125 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))))
    assert min(found) > 0
    assert max(found) <= 0.25
    peak = found.index(max(found))
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)


def test_the_logged_learning_rate_is_that_of_the_step(reference, tiny, shards):
    for target, (history, _) in reference.items():
        config = getattr(tiny(target, STEPS).train, target)
        items = SampleStream(str(shards), "train", "interactions", 0, 8, 60).num_samples
        if target == "vae":
            items = SampleStream(str(shards), "train", "windows", 0, 8, 60, 16).num_samples
        for step, rate in history("train/learning_rate"):
            assert rate == pytest.approx(learning_rate(config, step - 1, items / 8, STEPS))


@pytest.mark.slow
def test_the_text_head_may_learn_more_slowly(run_workers, tiny, vae, tmp_path):
    """AdamW's first step is as long as the learning rate, whatever the gradient: the lengths tell the rates."""
    moved = {}
    for rate in (1.0, 0.1):
        out = tmp_path / str(rate)
        words = (f"train.denoiser.text_rate={rate}", "train.denoiser.checkpoint_every=1", "train.denoiser.keep=9")
        run_workers("denoiser", tiny("denoiser", 2, *words), out, vae=vae / "best")
        first, second = (checkpoint.load(out / "checkpoints" / f"step-{step:08d}").tensors for step in (1, 2))
        moved[rate] = {
            part: max(
                float((second[part][name].double() - first[part][name].double()).abs().max())
                for name in first[part]
                if "selection" not in name
            )
            for part in ("text_head", "denoiser")
        }
    assert moved[0.1]["text_head"] == pytest.approx(0.1 * moved[1.0]["text_head"], rel=0.35)
    assert moved[0.1]["denoiser"] > 0.5 * moved[1.0]["denoiser"]


def test_a_checkpoint_is_due_at_once_when_a_node_is_to_be_taken_away_and_often_from_then_on():
    notes, leaving = [], [False]
    board = SimpleNamespace(note=SimpleNamespace(remote=lambda line, key: notes.append(line)))
    worker: Any = Worker.__new__(Worker)
    worker.rank, worker.board, worker.key, worker.leaving = 0, board, "run", lambda: leaving[0]
    worker._is_warned, worker.config = False, SimpleNamespace(checkpoint_minutes=10.0)
    now = time.monotonic()
    assert [worker._is_time(step, now - 60 * minutes) for step, minutes in ((1, 1), (2, 10))] == [False, True]
    leaving[0] = True
    assert [worker._is_time(step, now - seconds) for step, seconds in ((3, 0), (4, 1), (5, 20))] == [True, False, True]
    assert notes == ["a node is to be taken away: checkpoint at step 3"]
    worker.rank, worker._is_warned = 1, False
    assert not worker._is_time(6, now)


def test_a_window_averages_over_latent_frames():
    window = Means()
    window.add({"a": 2.0, "b": 1.0}, 4)
    window.add({"a": 4.0, "b": 0.0}, 8)
    assert window.means() == {"a": 0.5, "b": pytest.approx(1 / 12)}


def test_of_steps_that_are_read_together_the_first_that_is_not_finite_ends_the_run():
    worker: Any = Worker.__new__(Worker)
    given_up: list[tuple[int, Any]] = []
    worker.window, worker._give_up = Means(), lambda *what: given_up.append(what)
    batches = [{"item": torch.tensor([number])} for number in range(4)]
    losses = (1.0, 3.0, math.nan, math.inf)
    worker._unread = [
        StepOutcome(7 + number, batches[number], {"a": 1.0}, settle=lambda: None, reading=Reading({"a": loss}, 2, 0.5))
        for number, loss in enumerate(losses)
    ]
    assert not worker._note_steps()
    assert given_up == [(10, batches[2])], "counted from 1, as the steps that are done"
    assert worker.window.means() == {"a": 1.0}
    assert worker._note_steps(), "each is noted once"


def test_optimizer_state_of_another_network_is_refused(run_workers, tiny, tmp_path, shards):
    out = tmp_path / "run"
    run_workers("vae", tiny("vae", 1), out)
    saved = newest(out)
    optimizer = dict(saved.tensors["optimizer"])
    optimizer["exp_avg.stranger"] = torch.zeros(1)
    checkpoint.save(
        checkpoint.step_folder(out / "checkpoints", 2),
        tensors=saved.tensors | {"optimizer": optimizer},
        documents=saved.documents,
    )
    with pytest.raises(UserError, match="stranger"):
        run_workers("vae", tiny("vae", 1), out)
    assert DatasetFolder.open(shards).card.name == "tiny"


@pytest.mark.slow
@pytest.mark.parametrize(("experts", "c_exp"), [(4, 0.8), (8, 1.0), (16, 2.0)])
def test_a_token_meets_as_many_experts_as_c_exp_says(run_workers, tiny, vae, tmp_path, experts, c_exp):
    words = (f"moe.experts={experts}", f"moe.c_exp={c_exp}", "moe.bias_init=calibrated", "moe.load_momentum=0.9")
    values = tiny("denoiser", 240, *words, "moe.sigma=0.01", "train.denoiser.log_every=40")
    history = run_workers("denoiser", values, tmp_path / "run", vae=vae / "best")
    points = [value for _, value in history("moe/experts_per_token")]
    curves = routing_curves(tmp_path / "run")
    assert points[-1] == pytest.approx(c_exp, rel=0.05)
    assert sum(points[-3:]) / 3 == pytest.approx(c_exp, rel=0.05)
    for layer in range(2):
        assert curves[f"layer{layer}/experts_per_token"][-1][1] == pytest.approx(c_exp, rel=0.1)
