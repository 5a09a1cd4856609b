"""Legend: B samples of a step, T frames, P = 2 persons, F features, K text tokens, W text width."""

from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from intermoe.body.features import joints_from_features, mirror_motion, motion_features
from intermoe.body.skeletons import SMPL22
from intermoe.data.draws import Stream, draw, order
from intermoe.data.shards import DatasetFolder
from intermoe.evaluation.identity import KINDS, actors
from intermoe.text.captions import mirror_caption, named_first, swap_caption
from intermoe.training.samples import SampleStream
from pipelines.train import feed

pytestmark = pytest.mark.usefixtures("ray_session")
STEPS = 7


@pytest.fixture(scope="module", params=["interactions", "windows"])
def config(request, shards):
    return SampleStream(
        dataset=str(shards),
        split="train",
        kind=request.param,
        seed=3,
        batch_size=8,
        max_frames=60,
        window=16,
        drawn=(Stream.LATENT, Stream.TIMESTEP, Stream.DIFFUSION),
        latent=2,
    )


@pytest.fixture(scope="module")
def whole(config):
    """The batches of one worker: more than an epoch of interactions."""
    return list(feed.batches(config, 0, STEPS, rank=0, world=1))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0, equal_nan=True)


def share(batch, rank, world, length):
    """A worker's rows of the global batch, cut to its own longest sample."""
    rows = {name: column.chunk(world)[rank] for name, column in batch.items()}
    assert not rows["features"][:, length:].any()
    cut = {"features": length, "latent_noise": length // 4, "diffusion_noise": length // 4}
    return {name: column[:, : cut[name]] if name in cut else column for name, column in rows.items()}


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_the_workers_hold_the_global_batch_bit_for_bit_whatever_their_number(config, whole, world):
    streams = [list(feed.batches(config, 0, 3, rank=rank, world=world)) for rank in range(world)]
    for parts, expected in zip(zip(*streams, strict=True), whole[:3], strict=True):
        for rank, part in enumerate(parts):
            assert_same(part, share(expected, rank, world, part["features"].shape[1]))
        assert max(part["features"].shape[1] for part in parts) == expected["features"].shape[1]


def test_starting_later_skips_batches(config, whole):
    for found, expected in zip(feed.batches(config, 5, STEPS, rank=0, world=1), whole[5:], strict=True):
        assert_same(found, expected)


def test_plans_follow_each_other_without_a_seam(config, whole, monkeypatch):
    monkeypatch.setattr(feed, "_STEPS_PER_PLAN", 3)
    for found, expected in zip(feed.batches(config, 1, STEPS, rank=0, world=1), whole[1:], strict=True):
        assert_same(found, expected)


def test_another_seed_gives_other_batches(config, whole):
    (other,) = feed.batches(replace(config, seed=4), 0, 1, rank=0, world=1)
    assert other["item"].tolist() != whole[0]["item"].tolist()
    assert not set(other["seed"].tolist()) & {seed for batch in whole for seed in batch["seed"].tolist()}


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("batch_size", [8, 64, 512, 4096])
def test_a_plan_stays_within_its_bytes_down_to_one_step(config, batch_size, world):
    stream = replace(config, batch_size=batch_size, max_frames=300, window=64)
    step = batch_size // world * stream.bytes_per_sample
    steps = feed.steps_per_plan(stream, world)
    assert 1 <= steps <= 128
    assert steps * step <= 256 * 2**20 or steps == 1
    assert (steps + 1) * step > 256 * 2**20 or steps == 128, "a plan is as large as it may be"


@pytest.mark.parametrize(
    ("threads", "pinned", "tasks"),
    [(1, False, 1), (2, False, 1), (4, False, 1), (8, False, 2), (1, True, 2), (2, True, 2), (8, True, 8)],
)
def test_a_worker_on_cpus_leaves_them_to_its_steps_and_one_with_a_gpu_gives_them_to_the_feed(
    monkeypatch, threads, pinned, tasks
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert feed.tasks_at_once(pinned=pinned) == tasks


def test_no_steps_no_batches(config):
    assert list(feed.batches(config, 4, 4, rank=0, world=1)) == []


def test_every_epoch_visits_every_sample_once(shards):
    config = SampleStream(str(shards), "train", "interactions", seed=3, batch_size=8, max_frames=60)
    items = config.num_samples
    steps = -(-2 * items // 8)
    seen = [item for batch in feed.batches(config, 0, steps, rank=0, world=1) for item in batch["item"].tolist()]
    assert sorted(seen[:items]) == sorted(seen[items : 2 * items]) == list(range(items))
    assert seen[:items] != seen[items : 2 * items]


def naive(config, shards, epoch, item):
    """One sample, worked out alone from the shard, the draw and the published functions for single motions."""
    folder = DatasetFolder.open(shards)
    index = folder.index("train")
    person = start = None
    row = item
    if config.kind == "windows":
        places = [
            (row, person, start)
            for row, frames in enumerate(index.frames.tolist())
            for start in range(0, max(1, min(frames, 60) - 1 - 16 + 1), 10)
            for person in (0, 1)
        ]
        row, person, start = places[item]
    name = str(index.ids[row])
    drawn = draw(config.seed, epoch, name if person is None else f"{name}/{person}/{start}")
    motion = folder.recording("train", row)
    frames = len(motion.position_TPJ3)
    first = int(drawn.crop * (max(0, frames - 60) + 1))
    position = torch.tensor(motion.position_TPJ3[first : first + 60])
    rotation = torch.tensor(motion.rotation_TPR6[first : first + 60])
    if drawn.swap:
        position, rotation = position[:, [1, 0]], rotation[:, [1, 0]]
    if drawn.mirror:
        position, rotation = mirror_motion(position, rotation, SMPL22)
    features_BTPF, _ = motion_features(position[None], rotation[None], torch.tensor([len(position)]), SMPL22)
    features = features_BTPF[0]
    if person is not None:
        return drawn, features[start : start + 16, person], None
    texts = [folder.caption(caption).text for caption in motion.captions]
    text = texts[int(drawn.caption * len(texts))]
    text = swap_caption(text) if drawn.swap else text
    return drawn, features, mirror_caption(text) if drawn.mirror else text


def test_values_are_those_of_each_sample_alone(config, whole, shards):
    folder, items = DatasetFolder.open(shards), config.num_samples
    states = {row.text: row for row in map(folder.caption, range(folder.card.captions))}
    seen = Counter()
    for step, batch in enumerate(whole):
        for place, item in enumerate(batch["item"].tolist()):
            epoch, position = divmod(step * 8 + place, items)
            assert item == order(config.seed, epoch, items)[position]
            drawn, features, text = naive(config, shards, epoch, item)
            assert batch["seed"][place] == drawn.seed
            frames = int(batch["frames"][place])
            assert frames == len(features)
            np.testing.assert_allclose(batch["features"][place, :frames], features, atol=2e-6)
            assert not batch["features"][place, frames:].any()
            seen[(drawn.mirror, drawn.swap, drawn.crop > 0.5)] += 1
            if text is not None:
                row = states[text]
                tokens = len(row.state_KW)
                np.testing.assert_array_equal(batch["states"][place, :tokens], row.state_KW)
                assert not batch["states"][place, tokens:].any()
                assert batch["mask"][place].tolist() == [k < tokens for k in range(folder.card.max_tokens)]
                assert batch["eot"][place] == row.eot
    assert len(seen) == 8  # every kind of draw was looked at


def test_shapes_and_types(config, whole):
    for batch in whole:
        assert batch["features"].shape[1] % 4 == 0
        assert batch["features"].shape[1] - batch["frames"].max() < 4
        assert {name: tensor.dtype for name, tensor in batch.items()} == {
            "seed": torch.int64,
            "item": torch.int64,
            "features": torch.float32,
            "frames": torch.int64,
            "latent_noise": torch.float32,
            "diffusion_noise": torch.float32,
            "timestep": torch.float64,
        } | (
            {
                "states": torch.float32,
                "mask": torch.bool,
                "eot": torch.int64,
                "caption": torch.int64,
                "form": torch.int64,
            }
            if config.kind == "interactions"
            else {}
        )
        batch["features"] += 0  # not read-only


@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_covers_every_sample_once_and_draws_nothing(config, shards, world):
    held_out = replace(config, batch_size=6).held_out("val")
    batches = [batch for rank in range(world) for batch in held_out.held_out_batches(rank=rank, world=world)]
    items = [item for batch in batches for item in batch["item"].tolist()]
    assert sorted(items) == list(range(held_out.num_samples))
    assert all(len(batch["item"]) <= 6 // world for batch in batches)
    folder = DatasetFolder.open(shards)
    for batch in batches:
        for place, item in enumerate(batch["item"].tolist()):
            name, *window = held_out.sample_id(item).split("/")
            row = folder.index("val").ids.tolist().index(name)
            motion = folder.recording("val", row)
            features_BTPF, _ = motion_features(
                torch.tensor(motion.position_TPJ3[None, :60]),
                torch.tensor(motion.rotation_TPR6[None, :60]),
                torch.tensor([min(60, len(motion.position_TPJ3))]),
                SMPL22,
            )
            expected = features_BTPF[0]
            if window:
                person, start = map(int, window)
                expected = expected[start : start + 16, person]
            frames = int(batch["frames"][place])
            np.testing.assert_allclose(batch["features"][place, :frames], expected, atol=2e-6)


def test_validation_noise_is_the_same_every_time_and_differs_between_samples(config):
    held_out = config.held_out("val")
    first, second = (
        {
            item: seed
            for rank in range(world)
            for batch in held_out.held_out_batches(rank=rank, world=world)
            for item, seed in zip(batch["item"].tolist(), batch["seed"].tolist(), strict=True)
        }
        for world in (1, 2)
    )
    assert first == second
    assert len(set(first.values())) == len(first)


def test_a_stream_may_be_left(config, whole):
    for found, expected in zip(islice(feed.batches(config, 0, STEPS, rank=0, world=1), 2), whole, strict=False):
        assert_same(found, expected)


def test_nothing_is_printed(config, capfd):
    list(feed.batches(config, 0, 2, rank=0, world=1))
    assert capfd.readouterr() == ("", "")


def test_the_person_whom_the_caption_names_first_is_the_first(config, shards):
    """In training and in validation, whatever was drawn; the motion has its persons in that order too."""
    if config.kind == "windows":
        pytest.skip("a window has no caption")
    folder = DatasetFolder.open(shards)
    named = replace(config, persons="named", max_frames=200)
    held_out = named.held_out("train").held_out_batches(rank=0, world=1)
    exchanged = Counter()
    for batch in [*feed.batches(named, 0, 3, rank=0, world=1), *held_out]:
        for place, item in enumerate(batch["item"].tolist()):
            text = folder.caption(int(batch["caption"][place])).text
            assert named_first(text) == 0
            recording = folder.recording("train", item)
            features = batch["features"][place, : int(batch["frames"][place])]
            acting = actors(joints_from_features(features, SMPL22).numpy())[KINDS.index(recording.label["kind"])]
            swapped = int(batch["caption"][place]) in (*recording.swapped, *recording.swapped_mirrored)
            assert acting == recording.label["actor"] ^ swapped
            exchanged[swapped] += 1
    assert min(exchanged.values()) > 5
