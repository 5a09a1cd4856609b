"""Legend: B samples, T frames, P = 2 persons, F features."""

from dataclasses import replace

import pytest
import torch
from toy_shards import write_shards

from intermoe.data.draws import Stream, normal, uniform
from intermoe.data.shards import DataConfig, DatasetFolder
from intermoe.training.config import TrainingConfig
from intermoe.training.samples import SampleStream, interaction_stream


def stream(tmp_path, **changes) -> SampleStream:
    folder = write_shards(tmp_path / "shards", {"train": 6, "val": 3})
    return SampleStream(str(folder.path), "train", "interactions", seed=5, batch_size=3, max_frames=40, **changes)


def test_a_held_out_stream_draws_nothing(tmp_path):
    """A sample is the same in every epoch, as in validation; one that is trained on is not."""
    trained_on = stream(tmp_path)
    held_out = trained_on.held_out("val")
    first, second = held_out.batch(0), held_out.batch(1)
    order = [first["item"].tolist().index(item) for item in second["item"].tolist()]
    for name in ("features", "seed", "caption"):
        assert torch.equal(first[name][order], second[name]), name
    (validation,) = held_out.held_out_batches()
    order = [first["item"].tolist().index(item) for item in validation["item"].tolist()]
    assert torch.equal(first["features"][order], validation["features"])
    seeds = [trained_on.batch(step)["seed"] for step in range(4)]
    assert len(torch.cat(seeds).unique()) == 12


def test_a_stream_of_interactions_takes_its_sizes_from_the_configs(tmp_path):
    whole = stream(tmp_path)
    training = TrainingConfig(epochs=1, batch_size=3, accumulate=3)
    taken = interaction_stream(whole.dataset, training, DataConfig(max_frames=40), 5)
    assert (taken.micro_batches, taken.num_samples, taken.steps_per_epoch) == (3, 6, 2.0)
    assert taken.batch(0)["item"].tolist() == whole.batch(0)["item"].tolist()


@pytest.mark.parametrize("drawn", [(), (Stream.LATENT,), (Stream.LATENT, Stream.TIMESTEP, Stream.DIFFUSION)])
@pytest.mark.parametrize(("kind", "max_frames"), [("interactions", 40), ("interactions", 38), ("windows", 40)])
def test_the_bytes_of_a_sample_are_those_of_its_arrays(tmp_path, kind, max_frames, drawn):
    samples = replace(stream(tmp_path, drawn=drawn, latent=7), kind=kind, max_frames=max_frames, window=16)
    arrays = samples.arrays(0, rank=0, world=1)
    assert sum(array.nbytes for array in arrays.values()) == 3 * samples.bytes_per_sample


def test_a_batch_of_short_samples_takes_no_more_than_its_longest(tmp_path):
    samples = replace(stream(tmp_path), max_frames=300)
    for step in range(3):
        arrays = samples.arrays(step, rank=0, world=1)
        assert 0 <= arrays["features"].shape[1] - arrays["frames"].max() < 4
        assert sum(array.nbytes for array in arrays.values()) < 3 * samples.bytes_per_sample


@pytest.mark.parametrize("kind", ["interactions", "windows"])
def test_what_a_step_draws_comes_with_the_batch_each_from_the_seed_of_its_sample(tmp_path, kind):
    """In training and in validation; of the longest sample's length, of which a shorter one uses the beginning."""
    plain = replace(stream(tmp_path), kind=kind, window=16)
    samples = replace(plain, drawn=(Stream.LATENT, Stream.TIMESTEP, Stream.DIFFUSION), latent=7)
    batches = [(plain.batch(step), samples.batch(step)) for step in range(2)]
    held_out = (each.held_out("val").held_out_batches() for each in (plain, samples))
    for without, batch in [*batches, *zip(*held_out, strict=True)]:
        assert batch.keys() - without.keys() == {"latent_noise", "diffusion_noise", "timestep"}
        assert all(batch[name].equal(without[name]) for name in without)
        latents = batch["features"].shape[1] // 4
        shape = (latents, 2, 7) if kind == "interactions" else (latents, 7)
        for row, seed in enumerate(batch["seed"].tolist()):
            assert batch["latent_noise"][row].equal(normal([seed], shape, Stream.LATENT)[0])
            assert batch["diffusion_noise"][row].equal(normal([seed], shape, Stream.DIFFUSION)[0])
            assert batch["timestep"][row].equal(uniform([seed], 2, Stream.TIMESTEP)[0])


@pytest.mark.parametrize("persons", ["drawn", "named"])
def test_without_features_a_batch_is_the_same_and_its_forms_give_them(tmp_path, persons):
    whole = replace(
        stream(tmp_path, drawn=(Stream.LATENT, Stream.TIMESTEP, Stream.DIFFUSION), latent=7),
        max_frames=200,
        persons=persons,
    )
    lean = replace(whole, features=False)
    for step in range(5):
        batch, without = whole.batch(step), lean.batch(step)
        assert batch.keys() - without.keys() == {"features"}
        assert all(batch[name].equal(without[name]) for name in without)
        for features, frames, form in zip(batch["features"], batch["frames"], batch["form"].tolist(), strict=True):
            assert lean.form_features(form)[0, :frames].equal(features[:frames])
    assert lean.bytes_per_sample == whole.bytes_per_sample - 4 * 200 * 2 * 262


def test_validation_has_its_features_in_any_case(tmp_path):
    lean = replace(stream(tmp_path), max_frames=200, features=False)
    (batch,) = lean.held_out("val").held_out_batches()
    assert batch["features"].any()


def test_a_stream_is_whole_where_nothing_is_cropped_and_motions_come_again(tmp_path):
    cropped = stream(tmp_path)
    longest = int(DatasetFolder.open(cropped.dataset).index("train").frames.max())
    whole = replace(cropped, max_frames=longest)
    assert whole.is_whole
    assert not replace(cropped, max_frames=longest - 1).is_whole
    assert not replace(whole, kind="windows").is_whole
    assert not whole.held_out("train").is_whole
