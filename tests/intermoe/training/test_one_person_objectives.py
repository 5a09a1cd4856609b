"""The objectives of one person's VAEs and denoisers against what they say they are, written out sample by sample.

Legend: B samples, T frames, L latent frames, P = 1 person, Z latent numbers, F features, K text tokens, W text width.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from one_person import NETWORKS, PREDICTIONS, one_person_model, write_solo_shards
from torch import Tensor

from intermoe.body.heading_features import heading_joints
from intermoe.body.skeletons import HUMANML22
from intermoe.data.draws import Stream, normal, uniform
from intermoe.data.shards import DatasetFolder
from intermoe.model import InterMoE
from intermoe.moe.selection import selections
from intermoe.training.config import DenoiserTrainingConfig, VaeTrainingConfig
from intermoe.training.denoiser import DenoiserObjective
from intermoe.training.objective import HOST_FRAMES
from intermoe.training.posteriors import PosteriorMemory
from intermoe.training.samples import Arrays, Batch, SampleStream
from intermoe.training.vae import VaeObjective

WITH_VAE = ("mld", "salad")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> DatasetFolder:
    return write_solo_shards(tmp_path_factory.mktemp("solo") / "shards", {"train": 6, "val": 3})


def denoiser_objective(network: str, selection: str = "dynamic", **options: Any) -> DenoiserObjective:
    diffusion = {"condition_drop": 0.5, **PREDICTIONS[network]}
    model = one_person_model(network, selection=selection, **diffusion)
    return DenoiserObjective(model, DenoiserTrainingConfig(epochs=1, batch_size=6), **options).eval()


def vae_objective(network: str) -> VaeObjective:
    config = VaeTrainingConfig(epochs=1, batch_size=6, window=32)
    return VaeObjective(one_person_model(network), config)


def batch_of(objective: DenoiserObjective | VaeObjective, folder: DatasetFolder, step: int = 0) -> Batch:
    """A batch with features, of motions of several lengths, one of which ends within a latent frame."""
    batch = replace(objective.stream(folder, seed=3), features=True).batch(step)
    lengths = (batch["frames"].max() - torch.tensor([0, 5, 9, 10, 14, 15])).clamp(min=16)
    batch["frames"] = torch.minimum(batch["frames"], lengths)
    # As the sample itself would have been, were it shorter; of forms nothing is known.
    beyond_BT = torch.arange(batch["features"].shape[1]) >= batch["frames"][:, None]
    batch["features"][beyond_BT] = 0.0
    if "form" in batch:
        batch["form"][:] = -1
    return batch


def whole(model: InterMoE, frames: int) -> int:
    """Of so many frames those that count."""
    return {"mdm": frames, "mld": frames, "salad": frames // 4 * 4}[model.config.network]


def test_denoisers_learn_one_sample_after_the_other(folder: DatasetFolder) -> None:
    for network in NETWORKS:
        objective = denoiser_objective(network)
        model, batch = objective.model, batch_of(objective, folder)
        expected, count, dropped = 0.0, 0, 0
        for row, (seed, frames) in enumerate(zip(batch["seed"].tolist(), batch["frames"].tolist(), strict=True)):
            frames = whole(model, frames)
            latents = {"mdm": frames, "mld": 1, "salad": frames // 4}[network]
            shape = (latents, 1, model.latent)
            x_1TPF = batch["features"][row : row + 1, :frames]
            t, keep = (float(number) for number in uniform([seed], 2, Stream.TIMESTEP)[0])
            x_BTF = ((x_1TPF - model.normaliser.mean_F) / model.normaliser.std_F)[:, :, 0]
            with torch.no_grad():
                if model.vae is None:
                    clean = x_BTF[:, :, None]
                else:
                    noise = normal([seed], shape, Stream.LATENT)
                    clean = model.vae.encode(x_BTF).of_persons(1, noise)
                tokens = int(batch["mask"][row].sum())
                states = batch["states"][row : row + 1, :tokens]
                condition = states if network == "salad" else states[:, int(batch["eot"][row])]
                alpha = model.diffusion.alpha_bar_S[int(t * 100)].sqrt().float()
                eps, sigma = normal([seed], shape, Stream.DIFFUSION), (1 - alpha**2).sqrt()
                found = model.denoiser(
                    alpha * clean + sigma * eps,
                    torch.tensor([int(t * 100)]),
                    condition * (keep >= 0.5),
                    torch.ones(1, latents, dtype=torch.bool),
                )
            right = {"mdm": clean, "mld": eps, "salad": alpha * eps - sigma * clean}[network]
            expected += float((found - right).square().mean(-1).sum())
            count += latents
            dropped += keep < 0.5
        assert 0 < dropped < 6
        with torch.no_grad():
            assert float(objective(batch)["diffusion"]) == pytest.approx(expected, rel=1e-4), network
        assert int(objective.count(batch)) == count


@pytest.mark.parametrize("selection", ["dense", "dynamic"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("runs_ahead", [False, True])
def test_frames_beyond_the_valid_change_neither_loss_nor_gradient(
    folder: DatasetFolder, network: str, selection: str, runs_ahead: bool
) -> None:
    objective = denoiser_objective(network, selection, runs_ahead=runs_ahead).train()
    batch = batch_of(objective, folder)
    before = gradients(objective, batch)
    for row, frames in enumerate(batch["frames"].tolist()):
        batch["features"][row, whole(objective.model, frames) :] = 70.0
        if network != "mld":
            batch["diffusion_noise"][row, whole(objective.model, frames) // objective.model.stride :] = 7.0
    assert_same(gradients(objective, batch), before)


@pytest.mark.parametrize("network", WITH_VAE)
def test_frames_beyond_the_valid_change_nothing_for_a_vae(folder: DatasetFolder, network: str) -> None:
    objective = vae_objective(network).train()
    batch = batch_of(objective, folder)
    before = gradients(objective, batch)
    for row, frames in enumerate(batch["frames"].tolist()):
        batch["features"][row, whole(objective.model, frames) :] = 70.0
    assert_same(gradients(objective, batch), before)
    objective.eval()
    measured = objective.measure(batch)
    for row, frames in enumerate(batch["frames"].tolist()):
        batch["features"][row, whole(objective.model, frames) :] = 0.0
    assert_same(objective.measure(batch), measured)


@pytest.mark.parametrize("network", WITH_VAE)
def test_a_vae_is_trained_on_draws_of_its_posterior(folder: DatasetFolder, network: str) -> None:
    """Losses and gradients, each motion alone and at its own length, without a mask."""
    objective = vae_objective(network).train()
    model, batch = objective.model, batch_of(objective, folder)
    found = gradients(objective, batch)
    objective.zero_grad()
    groups = ("joints",) if network == "mld" else ("position", "rotation", "velocity")
    sums = dict.fromkeys(("reconstruction", *groups, "kl"), torch.zeros(()))
    for row, (seed, frames) in enumerate(zip(batch["seed"].tolist(), batch["frames"].tolist(), strict=True)):
        frames = whole(model, frames)
        true_TF = batch["features"][row, :frames]
        x_TF = (true_TF - model.normaliser.mean_F) / model.normaliser.std_F
        vae: Any = model.vae
        posterior = vae.encode(x_TF[None])
        mean, logvar = posterior.mean_BLNC, posterior.logvar_BLNC
        noise = normal([seed], tuple(mean.shape[1:]), Stream.LATENT)
        z = mean + (logvar / 2).exp() * noise
        mask_1T = torch.ones(1, frames, dtype=torch.bool)
        y_TF = (vae.decode(z, mask_1T) if network == "mld" else vae.decode(z))[0]
        made_TF = y_TF * model.normaliser.std_F + model.normaliser.mean_F
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
        joints = [heading_joints(features_TF, HUMANML22) for features_TF in (made_TF, true_TF)]
        # Sums of means over what is counted: frames for MLD, latent frames for SALAD.
        if network == "mld":
            of_sample = {
                "reconstruction": frames * smooth(y_TF - x_TF),
                "joints": frames * smooth(joints[0] - joints[1]),
                "kl": frames * kl.mean(),
            }
        else:
            error_TF = y_TF - x_TF
            of_sample = {
                "reconstruction": frames / 4 * smooth(error_TF),
                "position": frames / 4 * smooth(error_TF[:, 4:67]),
                "rotation": frames / 4 * smooth(error_TF[:, 67:193]),
                "velocity": frames / 4 * smooth(error_TF[:, 193:259]),
                "kl": frames / 4 * kl.mean(),
            }
        for name, value in of_sample.items():
            sums[name] = sums[name] + value
    for name, total in sums.items():
        assert float(found[name]) == pytest.approx(float(total.detach()), rel=1e-4), name
    # As published; the losses that are ours have no weight by default.
    assert {name for name, weight in objective.weights.items() if weight} == sums.keys()
    torch.stack([objective.weights[name] * total for name, total in sums.items()]).sum().backward()
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            scale = float(found[name].abs().max())
            torch.testing.assert_close(parameter.grad, found[name], rtol=1e-3, atol=1e-4 * scale, msg=name)


def smooth(error: Tensor) -> Tensor:
    """The mean of |e|, rounded off below 1."""
    return torch.where(error.abs() < 1, error.square() / 2, error.abs() - 0.5).mean()


def gradients(objective: DenoiserObjective | VaeObjective, batch: Batch) -> dict[str, Tensor]:
    """The losses and, by name, their gradients together."""
    objective.zero_grad()
    losses = objective(batch)
    torch.stack([objective.weights[name] * total for name, total in losses.items()]).sum().backward()
    found = {name: total.detach().clone() for name, total in losses.items()}
    return found | {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6 * scale, msg=name)


@pytest.mark.parametrize("selection", ["dense", "dynamic"])
@pytest.mark.parametrize("network", NETWORKS)
def test_running_ahead_and_lean_batches_give_the_same_loss(folder: DatasetFolder, network: str, selection: str) -> None:
    plain, ahead = (denoiser_objective(network, selection, runs_ahead=ahead) for ahead in (False, True))
    stream = plain.stream(folder, seed=3)
    lengths = folder.index("train").frames
    assert stream.features == (int(lengths.max()) > 61)
    batch = replace(stream, features=True).batch(1)
    with torch.no_grad():
        expected = plain(batch)["diffusion"]
        found = ahead(batch | {HOST_FRAMES: batch["frames"].clone()})["diffusion"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("network", WITH_VAE)
def test_posteriors_have_the_same_bits_beside_others_and_without_features(folder: DatasetFolder, network: str) -> None:
    model = one_person_model(network, max_frames=201)
    whole_stream = SampleStream(
        str(folder.path),
        "train",
        "interactions",
        seed=5,
        batch_size=6,
        max_frames=201,
        drawn=(Stream.LATENT,),
        latent=model.latent,
        frames_per_latent=model.stride,
    )
    assert whole_stream.is_whole
    batch, lean = whole_stream.batch(0), replace(whole_stream, features=False)
    assert "features" not in lean.batch(0)
    mask_BT = torch.arange(batch["features"].shape[1]) < model.whole_frames(batch["frames"])[:, None]
    mask_BL, noise = model.latent_mask(mask_BT), batch["latent_noise"]
    memory = PosteriorMemory(model)
    together = memory.latents(batch, mask_BL, noise)
    assert memory.latents(batch, mask_BL, noise).equal(together)
    assert PosteriorMemory(model, lean.form_features).latents(lean.batch(0), mask_BL, noise).equal(together)
    with torch.no_grad():
        torch.testing.assert_close(together, model.encode(batch["features"], noise, mask_BT), rtol=1e-4, atol=1e-4)
    for rows in ([0], [3, 1], [5, 4, 2]):
        some = {name: column[rows] for name, column in batch.items()}
        assert PosteriorMemory(model).latents(some, mask_BL[rows], noise[rows]).equal(together[rows])
    assert set(batch["form"].tolist()) == {4 * row for row in range(6)}


@pytest.mark.parametrize("network", NETWORKS)
def test_what_experts_took_is_counted_over_all_tokens(folder: DatasetFolder, network: str) -> None:
    objective = denoiser_objective(network).train()
    batch = batch_of(objective, folder)
    objective(batch)
    rows = 7 if network == "salad" else 1
    layers = selections(objective.model.denoiser)
    assert len(layers) == 3
    assert {int(layer.valid) for layer in layers} == {rows * int(objective.count(batch))}
    objective.after_step(lambda counts: counts)
    assert len(objective.pop_diagnostics().routing) == 3


# The stream


@pytest.mark.parametrize(
    ("network", "kind"), [*((network, "denoiser") for network in NETWORKS), ("mld", "vae"), ("salad", "vae")]
)
def test_no_sample_takes_more_bytes_than_is_said(folder: DatasetFolder, network: str, kind: str) -> None:
    objective = denoiser_objective(network) if kind == "denoiser" else vae_objective(network)
    assert_bounded(objective.stream(folder))


@pytest.mark.parametrize("network", NETWORKS)
def test_no_sample_without_features_takes_more_bytes_than_is_said(folder: DatasetFolder, network: str) -> None:
    model = one_person_model(network, max_frames=201)
    stream = DenoiserObjective(model, DenoiserTrainingConfig(epochs=1, batch_size=6)).stream(folder)
    assert stream.is_whole
    assert not stream.features
    assert_bounded(stream)


def assert_bounded(stream: SampleStream) -> None:
    """What a worker's memory is planned with is neither less than samples take, nor much more."""
    sizes = [array_bytes(stream.arrays(step, rank=0, world=1)) for step in range(4)]
    assert 2 * stream.bytes_per_sample < max(sizes) <= 6 * stream.bytes_per_sample


def array_bytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())


@pytest.mark.parametrize("network", NETWORKS)
def test_every_held_out_motion_comes_once_as_it_was_recorded(folder: DatasetFolder, network: str) -> None:
    stream = denoiser_objective(network).stream(folder).held_out("val")
    for world in (1, 2):
        batches = [b for rank in range(world) for b in stream.held_out_batches(rank=rank, world=world)]
        assert sorted(item for batch in batches for item in batch["item"].tolist()) == [0, 1, 2]
        for batch in batches:
            for row, item in enumerate(batch["item"].tolist()):
                recording = folder.recording("val", item)
                frames = min(recording.frames, 61) - 1
                assert int(batch["frames"][row]) == frames
                taken = batch["features"][row, :frames].numpy()
                starts = range(len(recording.features_TPF) - frames + 1)
                assert any((recording.features_TPF[s : s + frames] == taken).all() for s in starts)
                assert int(batch["caption"][row]) in recording.captions
