"""Legend: B samples, L latent frames, P = 2 persons, Z latent numbers of a person-frame."""

from dataclasses import replace

import pytest
import torch
from small_model import small_model
from small_training import whole_latents
from toy_shards import write_shards

from intermoe.data.draws import Stream, normal
from intermoe.layers.precision import products_in
from intermoe.training.posteriors import PosteriorMemory
from intermoe.training.samples import Batch, SampleStream


@pytest.fixture
def model():
    return small_model()


@pytest.fixture
def encoded(model, monkeypatch) -> list[int]:
    """The number of motions of each call of the VAE."""
    calls, encode = [], model.vae.encode

    def count(x_BTF, mask_BT):
        calls.append(len(x_BTF) // 2)
        return encode(x_BTF, mask_BT)

    monkeypatch.setattr(model.vae, "encode", count)
    return calls


def stream(tmp_path, max_frames: int = 200) -> SampleStream:
    folder = write_shards(tmp_path / "shards", {"train": 3, "val": 2})
    return SampleStream(str(folder.path), "train", "interactions", seed=5, batch_size=6, max_frames=max_frames)


def noise_of(model, batch: Batch) -> torch.Tensor:
    return normal(batch["seed"].tolist(), (batch["features"].shape[1] // 4, 2, model.latent), Stream.LATENT)


def drawn(memory: PosteriorMemory, batch: Batch, noise_BLPZ: torch.Tensor) -> torch.Tensor:
    return memory.latents(batch, whole_latents(batch["frames"], 4 * noise_BLPZ.shape[1])[:, ::4], noise_BLPZ)


def rows_of(batch: Batch, rows: list[int]) -> Batch:
    return {name: column[rows] for name, column in batch.items()}


def test_they_are_what_the_vae_makes_of_the_batch(tmp_path, model):
    samples, memory = stream(tmp_path), PosteriorMemory(model)
    for step in range(3):
        batch = samples.batch(step)
        noise_BLPZ = noise_of(model, batch)
        with torch.no_grad():
            mask_BT = whole_latents(batch["frames"], batch["features"].shape[1])
            expected = model.encode(batch["features"], noise_BLPZ, mask_BT)
        assert (batch["frames"] < batch["features"].shape[1] - 4).any()  # so that there is padding
        torch.testing.assert_close(drawn(memory, batch, noise_BLPZ), expected, rtol=1e-4, atol=1e-5)


def test_without_noise_they_are_the_means(tmp_path, model):
    batch = stream(tmp_path).batch(0)
    mask_BT = whole_latents(batch["frames"], batch["features"].shape[1])
    with torch.no_grad():
        expected = model.encode(batch["features"], None, mask_BT)
    found = PosteriorMemory(model).latents(batch, mask_BT[:, ::4], None)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, drawn(PosteriorMemory(model), batch, noise_of(model, batch)), atol=0.1)


def test_they_are_exact_in_a_training_in_bf16(tmp_path, model):
    """What is kept is used in every epoch, its error too."""
    batch = stream(tmp_path).batch(0)
    noise_BLPZ = noise_of(model, batch)
    expected = drawn(PosteriorMemory(model), batch, noise_BLPZ)
    with products_in("bf16", torch.device("cpu")):
        assert torch.equal(drawn(PosteriorMemory(model), batch, noise_BLPZ), expected)


def test_a_recording_is_encoded_once_in_each_of_its_forms(tmp_path, model, encoded):
    samples, memory = stream(tmp_path), PosteriorMemory(model)
    forms = set()
    for step in range(20):
        batch = samples.batch(step)
        drawn(memory, batch, noise_of(model, batch))
        forms |= set(batch["form"].tolist())
    assert forms == set(range(12))  # three recordings: as they are, swapped, mirrored and both
    assert encoded == [1] * 12


def test_a_motion_has_the_same_bits_beside_others_and_after_an_interruption(tmp_path, model):
    batch = stream(tmp_path).batch(0)
    noise_BLPZ, memory = noise_of(model, batch), PosteriorMemory(model)
    together = drawn(memory, batch, noise_BLPZ)
    assert drawn(memory, batch, noise_BLPZ).equal(together)
    for rows in ([0], [3, 1], [5, 4, 2]):
        alone = drawn(PosteriorMemory(model), rows_of(batch, rows), noise_BLPZ[rows])
        assert alone.equal(together[rows])


def test_without_features_the_latents_are_the_same_and_only_new_forms_are_read(tmp_path, model):
    samples = stream(tmp_path)
    lean, asked = replace(samples, features=False), []

    def form_features(form: int) -> torch.Tensor:
        asked.append(form)
        return lean.form_features(form)

    memory, other = PosteriorMemory(model, form_features), PosteriorMemory(model)
    for step in range(20):
        batch = samples.batch(step)
        noise_BLPZ = noise_of(model, batch)
        assert drawn(memory, lean.batch(step), noise_BLPZ).equal(drawn(other, batch, noise_BLPZ))
    assert sorted(asked) == list(range(12))


def test_forms_are_told_apart_by_what_they_hold(tmp_path):
    samples, motions = stream(tmp_path), {}
    for step in range(6):
        batch = samples.batch(step)
        for features, frames, form in zip(batch["features"], batch["frames"], batch["form"].tolist(), strict=True):
            assert motions.setdefault(form, features[:frames]).equal(features[:frames])
    assert len(motions) > 8


def test_crops_and_what_is_held_out_are_not_kept(tmp_path, model, encoded):
    cropped, whole = stream(tmp_path, max_frames=40), stream(tmp_path)
    (held_out,) = whole.held_out("val").held_out_batches()
    memory = PosteriorMemory(model)
    for batch in (cropped.batch(0), held_out):
        assert set(batch["form"].tolist()) == {-1}
        first, again = (drawn(memory, batch, noise_of(model, batch)) for _ in range(2))
        assert first.equal(again)
    assert len(encoded) == 2 * (6 + 2)


def test_no_more_is_kept_than_there_is_room_for(tmp_path, model, encoded):
    batch = rows_of(stream(tmp_path).batch(0), [0])
    memory = PosteriorMemory(model, num_bytes=100)
    first, again = (drawn(memory, batch, noise_of(model, batch)) for _ in range(2))
    assert encoded == [1, 1]
    assert first.equal(again)
