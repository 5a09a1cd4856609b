"""Legend: B samples, T frames, P = 2 persons, F features."""

from dataclasses import replace

import pytest
import torch
from toy_shards import write_shards

from intermoe.data.shards import DataConfig
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


@pytest.mark.parametrize(("kind", "max_frames"), [("interactions", 40), ("interactions", 38), ("windows", 40)])
def test_the_bytes_of_a_sample_are_those_of_its_arrays(tmp_path, kind, max_frames):
    samples = replace(stream(tmp_path), kind=kind, max_frames=max_frames, window=16)
    arrays = samples.arrays(0, rank=0, world=1)
    assert sum(array.nbytes for array in arrays.values()) == 3 * samples.bytes_per_sample
