import subprocess
import sys

import numpy as np
import pytest
import torch

from intermoe.data.draws import (
    Draw,
    Stream,
    batch_items,
    draw,
    held_out_draw,
    normal,
    order,
    prompt_seed,
    replication_order,
    replication_pairs,
    share_of,
    step_seed,
    uniform,
)

# Legend: B samples, the shape of one sample's noise behind it.


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_workers_shares_in_the_order_of_their_ranks_are_the_global_batch(world):
    for step in range(7):
        whole = batch_items(3, step, 8, 21)
        shares = [share_of(batch_items(3, step, 8, 21), rank=rank, world=world) for rank in range(world)]
        assert [len(share) for share in shares] == [8 // world] * world
        assert [pair for share in shares for pair in share] == whole


@pytest.mark.parametrize("world", [1, 2, 4])
def test_micro_batches_hold_the_same_samples_whatever_the_number_of_workers(world):
    for step in range(3):
        whole = batch_items(3, step, 16, 21)
        shares = [
            share_of(batch_items(3, step, 16, 21), rank=rank, world=world, micro_batches=2) for rank in range(world)
        ]
        half = 8 // world
        for part, expected in enumerate((whole[:8], whole[8:])):
            assert [pair for share in shares for pair in share[part * half : (part + 1) * half]] == expected


def test_every_sample_comes_once_an_epoch_and_every_batch_is_full():
    stream = [pair for step in range(21) for pair in batch_items(5, step, 8, 21)]
    assert len(stream) == 21 * 8
    for epoch in range(8):
        here = stream[21 * epoch : 21 * (epoch + 1)]
        assert {number for number, _ in here} == {epoch}
        assert sorted(item for _, item in here) == list(range(21))
        assert [item for _, item in here] == order(5, epoch, 21).tolist()


def test_by_length_eight_batches_exchange_their_samples():
    lengths, within = np.random.default_rng(0).integers(30, 300, 50), []
    for group in range(6):
        steps = range(8 * group, 8 * group + 8)
        drawn = [pair for step in steps for pair in batch_items(5, step, 4, 50)]
        batches = [batch_items(5, step, 4, 50, lengths) for step in steps]
        assert sorted(pair for batch in batches for pair in batch) == sorted(drawn)
        # The first epoch's by length, then the next one's.
        dealt = sorted(drawn, key=lambda pair: (pair[0], lengths[pair[1]]))
        places = [next(place for place in range(8) if dealt[4 * place] == batch[0]) for batch in batches]
        assert [dealt[4 * place : 4 * place + 4] for place in places] == batches
        assert sorted(places) == list(range(8))
        within.append(tuple(places))
    # The shortest do not come first, nor in the same place every time.
    assert len(set(within)) == 6


def test_by_length_a_sample_comes_twice_into_a_batch_only_where_an_epoch_ends():
    lengths = np.random.default_rng(1).integers(30, 300, 40)
    for step in range(200):
        batch = batch_items(0, step, 16, 40, lengths)
        if len({epoch for epoch, _ in batch}) == 1:
            assert len({item for _, item in batch}) == 16


def test_by_length_of_few_samples_nothing_changes():
    assert batch_items(0, 3, 16, 20, lengths=range(20)) == sorted(
        batch_items(0, 3, 16, 20), key=lambda pair: (pair[0], pair[1])
    )


def test_a_batch_larger_than_the_data_set_spans_epochs():
    batch = batch_items(0, 0, 10, 4)
    assert [epoch for epoch, _ in batch] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert sorted(item for _, item in batch[4:8]) == [0, 1, 2, 3]


def test_the_order_depends_on_seed_and_epoch():
    orders = {tuple(order(seed, epoch, 50).tolist()) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    assert order(1, 2, 50).tolist() == order(1, 2, 50).tolist()


def test_a_draw_is_a_function_of_seed_epoch_and_id_alone():
    first = draw(1, 2, "a")
    for other in ("b", "c"):
        draw(1, 2, other)
    np.random.default_rng(0).random(5)
    assert draw(1, 2, "a") == first
    assert len({draw(seed, epoch, name) for seed in (0, 1) for epoch in (0, 1) for name in "ab"}) == 8


def test_another_process_draws_the_same():
    code = "from intermoe.data.draws import *; print(draw(1, 2, 'a'), order(1, 2, 6).tolist(), prompt_seed(1, 'a', 0))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == f"{draw(1, 2, 'a')} {order(1, 2, 6).tolist()} {prompt_seed(1, 'a', 0)}"


def test_draws_are_spread_evenly_and_do_not_hang_together():
    drawn = [draw(0, epoch, f"id{number}") for epoch in range(20) for number in range(200)]
    columns = np.array([[one.crop, one.swap, one.mirror, one.caption, one.seed / 2**62] for one in drawn], dtype=float)
    assert columns.min() >= 0
    assert columns.max(axis=0)[[0, 3, 4]].max() < 1
    # Mean and standard deviation of a uniform number, or of a coin; 4000 draws: four standard errors are 0.032.
    np.testing.assert_allclose(columns.mean(axis=0), 0.5, atol=0.032)
    np.testing.assert_allclose(columns.std(axis=0), [12**-0.5, 0.5, 0.5, 12**-0.5, 12**-0.5], atol=0.01)
    np.testing.assert_allclose(np.corrcoef(columns.T), np.eye(5), atol=0.064)
    assert len({one.seed for one in drawn}) == len(drawn)


def test_held_out_samples_are_not_augmented_and_keep_their_noise():
    one, same, other = (held_out_draw(0, name) for name in "aab")
    assert one == same == Draw(crop=0.0, swap=False, mirror=False, caption=0.0, seed=one.seed)
    assert other.seed != one.seed != held_out_draw(1, "a").seed


def test_seeds_of_steps_and_prompts_differ_wherever_an_argument_does():
    assert len({step_seed(s, k, r) for s in (0, 1) for k in (0, 1, 2) for r in (0, 1)}) == 12
    assert len({prompt_seed(s, p, r) for s in (0, 1) for p in ("bow", "bow.", "") for r in (0, 1)}) == 12
    assert prompt_seed(0, "bow", 1) == prompt_seed(0, "bow", 1)


def test_streams_keep_their_numbers():
    """They are part of every seed: another number would be another training, another motion, another table."""
    assert {stream.name: stream.value for stream in Stream} == {"LATENT": 0, "TIMESTEP": 1, "DIFFUSION": 2, "STEP": 3}
    for stream in Stream:
        expected = np.random.default_rng([int(stream), 7]).standard_normal((2, 3), dtype=np.float32)
        assert np.array_equal(normal([7], (2, 3), stream)[0].numpy(), expected)
    assert np.array_equal(replication_order(5, 2, 9), np.random.default_rng([5, 2]).permutation(9))
    assert replication_pairs(5, 2).random() == np.random.default_rng([5, 2, 1]).random()


def test_shorter_noise_is_the_beginning_of_longer_noise():
    long = normal([7, 8], (9, 2, 5), Stream.LATENT)
    for frames in (1, 4, 8):
        assert torch.equal(normal([7, 8], (frames, 2, 5), Stream.LATENT), long[:, :frames])


def test_noise_is_a_function_of_the_samples_own_seed():
    batch = normal([3, 5, 3], (2, 4), Stream.TIMESTEP)
    assert batch.dtype == torch.float32
    assert torch.equal(batch[:1], normal([3], (2, 4), Stream.TIMESTEP))
    assert torch.equal(batch[0], batch[2])
    assert not torch.equal(batch[0], batch[1])
    assert not torch.equal(batch, normal([3, 5, 3], (2, 4), Stream.DIFFUSION))
    assert torch.equal(uniform([3, 5], 4, Stream.TIMESTEP)[1:], uniform([5], 4, Stream.TIMESTEP))


def test_noise_is_standard_normal_and_uniform_numbers_are_uniform():
    noise = normal(range(100), (10, 20), Stream.LATENT).double()
    assert noise.mean().abs() < 0.03
    assert (noise.std() - 1).abs() < 0.02
    assert (noise.pow(4).mean() - 3).abs() < 0.2
    # Same seeds, another stream, and the same position in another sample: independent.
    assert (
        torch.corrcoef(torch.stack([noise.flatten(), normal(range(100), (10, 20), Stream.TIMESTEP).flatten()]))[0, 1]
        < 0.03
    )
    numbers = uniform(range(4000), 2, Stream.TIMESTEP)
    assert 0 <= numbers.min() < 0.01 < 0.99 < numbers.max() < 1
    assert torch.allclose(numbers.mean(0), torch.tensor(0.5, dtype=torch.float64), atol=0.02)
