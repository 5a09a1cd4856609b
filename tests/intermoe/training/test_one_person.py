"""The objectives of one person's VAEs and denoisers against what they say they are, written out motion by motion.

Legend: B samples, T frames, L latent frames, P = 1 person, Z latent numbers, F features, K text tokens, W text width.
"""

from collections.abc import Iterable
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
from intermoe.training.samples import Batch, SampleStream
from intermoe.training.vae import VaeObjective

WITH_VAE = ("mld", "salad")
# What follows a motion is of this size, so that whoever looks at it is found out.
_LOUD = 70.0
# No motion is longer.
_LONGEST = 201


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> DatasetFolder:
    return write_solo_shards(tmp_path_factory.mktemp("solo") / "shards", {"train": 6, "val": 3})


def denoiser_objective(network: str, selection: str = "dynamic", **options: Any) -> DenoiserObjective:
    max_frames = options.pop("max_frames", 61)
    diffusion = {"condition_drop": 0.5, **PREDICTIONS[network]}
    model = one_person_model(network, selection=selection, max_frames=max_frames, **diffusion)
    return DenoiserObjective(model, DenoiserTrainingConfig(epochs=1, batch_size=6), **options).train()


def vae_objective(network: str) -> VaeObjective:
    config = VaeTrainingConfig(epochs=1, batch_size=6, window=32)
    return VaeObjective(one_person_model(network), config).train()


def whole(model: InterMoE, frames: int) -> int:
    """Of so many frames those that count."""
    return frames // 4 * 4 if model.config.network == "salad" else frames


def loud_batch(objective: DenoiserObjective | VaeObjective, folder: DatasetFolder) -> Batch:
    """Motions of several lengths, some of which end within a latent frame; what follows motions and texts is loud."""
    model, batch = objective.model, replace(objective.stream(folder, seed=3), features=True).batch(0)
    lengths = (batch["frames"].max() - torch.tensor([0, 5, 9, 10, 14, 15])).clamp(min=16)
    batch["frames"] = torch.minimum(batch["frames"], lengths)
    for row, frames in enumerate(batch["frames"].tolist()):
        batch["features"][row, whole(model, frames) :] = _LOUD
        if model.config.network != "mld":
            for name in {"diffusion_noise", "latent_noise"} & batch.keys():
                batch[name][row, whole(model, frames) // model.stride :] = _LOUD
    if isinstance(objective, DenoiserObjective):
        batch["form"][:] = -1  # such motions are not in the data set
        batch["states"] = torch.cat([batch["states"], torch.full((6, 4, 384), _LOUD)], dim=1)
        batch["mask"] = torch.cat([batch["mask"], torch.zeros(6, 4, dtype=torch.bool)], dim=1)
    return batch


def motions(model: InterMoE, batch: Batch) -> Iterable[tuple[int, int, Tensor]]:
    """Of each its seed, how many of its frames count, and these."""
    for row, (seed, frames) in enumerate(zip(batch["seed"].tolist(), batch["frames"].tolist(), strict=True)):
        yield seed, whole(model, frames), batch["features"][row : row + 1, : whole(model, frames)]


def gradients(objective: DenoiserObjective | VaeObjective, total: Tensor) -> dict[str, Tensor]:
    """By the names of what has one."""
    objective.zero_grad()
    total.backward()
    return {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}


def assert_learned_alike(found: dict[str, Tensor], expected: dict[str, Tensor], model: InterMoE, part: str) -> None:
    """Gradients are the same, of all of a part of the model and of nothing else."""
    assert found.keys() == expected.keys()
    assert found.keys() == {f"model.{part}.{name}" for name, _ in model.get_submodule(part).named_parameters()}
    for name, gradient in expected.items():
        assert gradient.any(), name
        atol = 1e-4 * float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=atol, msg=name)


# Denoisers


def squared_error_alone(model: InterMoE, batch: Batch, row: int, seed: int, x_1TPF: Tensor) -> tuple[Tensor, bool]:
    """The error of one motion, by the formulas of diffusion, and whether its text was dropped."""
    network, frames = model.config.network, x_1TPF.shape[1]
    latents = {"mdm": frames, "mld": 1, "salad": frames // 4}[network]
    shape = (latents, 1, model.latent)
    t, keep = (float(number) for number in uniform([seed], 2, Stream.TIMESTEP)[0])
    x_BTF = ((x_1TPF - model.normaliser.mean_F) / model.normaliser.std_F)[:, :, 0]
    with torch.no_grad():
        vae: Any = model.vae
        clean = (
            x_BTF[:, :, None] if vae is None else vae.encode(x_BTF).of_persons(1, normal([seed], shape, Stream.LATENT))
        )
    states = batch["states"][row : row + 1, : int(batch["mask"][row].sum())]
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
    return (found - right).square().mean(-1).sum(), keep < 0.5


@pytest.mark.parametrize("selection", ["dense", "dynamic"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_denoiser_learns_what_each_motion_alone_would_teach_it(
    folder: DatasetFolder, network: str, selection: str
) -> None:
    """Neither company nor what lies behind motion and text counts, whether or not the host waits for the device."""
    objective = denoiser_objective(network, selection, runs_ahead=False)
    model, batch = objective.model, loud_batch(objective, folder)
    alone = [
        squared_error_alone(model, batch, row, seed, x_1TPF)
        for row, (seed, _, x_1TPF) in enumerate(motions(model, batch))
    ]
    assert 0 < sum(dropped for _, dropped in alone) < 6
    total = sum((error for error, _ in alone), torch.zeros(()))
    expected = gradients(objective, total)
    ahead = denoiser_objective(network, selection, runs_ahead=True)
    for other, given in ((objective, batch), (ahead, batch | {HOST_FRAMES: batch["frames"].clone()})):
        losses = other(given)
        assert list(losses) == ["diffusion"]
        torch.testing.assert_close(losses["diffusion"], total, rtol=1e-4, atol=0)
        assert_learned_alike(gradients(other, losses["diffusion"]), expected, model, "denoiser")
        counted = sum(frames for _, frames, _ in motions(model, batch)) // model.stride
        assert int(other.count(given)) == (6 if network == "mld" else counted)


@pytest.mark.parametrize("network", NETWORKS)
def test_what_experts_took_is_counted_over_all_tokens(folder: DatasetFolder, network: str) -> None:
    objective = denoiser_objective(network)
    batch = loud_batch(objective, folder)
    objective(batch)
    layers = selections(objective.model.denoiser)
    assert len(layers) == 3
    rows = 7 if network == "salad" else 1
    assert {int(layer.valid) for layer in layers} == {rows * int(objective.count(batch))}
    objective.after_step(lambda counts: counts)
    assert len(objective.pop_diagnostics().routing) == 3


@torch.no_grad()
@pytest.mark.parametrize("network", NETWORKS)
def test_batches_of_whole_motions_need_no_features(folder: DatasetFolder, network: str) -> None:
    objective, again = (denoiser_objective(network, max_frames=_LONGEST, runs_ahead=False) for _ in range(2))
    stream = objective.stream(folder, seed=3)
    batch = stream.batch(0)
    assert "features" not in batch
    expected = objective(replace(stream, features=True).batch(0))
    again.stream(folder, seed=3)
    for name, total in again(batch).items():
        torch.testing.assert_close(total, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("network", WITH_VAE)
def test_latents_that_are_kept_have_the_same_bits_beside_others_and_without_features(
    folder: DatasetFolder, network: str
) -> None:
    objective = denoiser_objective(network, max_frames=_LONGEST)
    model, lean = objective.model, objective.stream(folder, seed=5)
    batch, without = replace(lean, features=True).batch(0), lean.batch(0)
    mask_BT = torch.arange(batch["features"].shape[1]) < model.whole_frames(batch["frames"])[:, None]
    mask_BL, noise = model.latent_mask(mask_BT), batch["latent_noise"]
    memory = PosteriorMemory(model)
    together = memory.latents(batch, mask_BL, noise)
    assert memory.latents(batch, mask_BL, noise).equal(together)
    assert PosteriorMemory(model, lean.form_features).latents(without, mask_BL, noise).equal(together)
    with torch.no_grad():
        torch.testing.assert_close(together, model.encode(batch["features"], noise, mask_BT), rtol=1e-4, atol=1e-4)
    for rows in ([0], [3, 1], [5, 4, 2]):
        some = {name: column[rows] for name, column in batch.items()}
        assert PosteriorMemory(model).latents(some, mask_BL[rows], noise[rows]).equal(together[rows])
    assert set(batch["form"].tolist()) == {4 * row for row in range(6)}


# VAEs


def vae_losses_alone(model: InterMoE, true_TF: Tensor, noise: float | Tensor) -> dict[str, Tensor]:
    """Of one motion, without a mask: means over what is counted, frames for MLD and latent frames for SALAD, summed."""
    vae, is_mld = model.require_vae(), model.config.network == "mld"
    x_TF = (true_TF - model.normaliser.mean_F) / model.normaliser.std_F
    posterior = vae.encode(x_TF[None])
    mean, logvar = posterior.mean_BLNC, posterior.logvar_BLNC
    z = mean + (logvar / 2).exp() * noise
    y_TF = (vae.decode(z, torch.ones(1, len(x_TF), dtype=torch.bool)) if is_mld else vae.decode(z))[0]
    error_TF = y_TF - x_TF
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
    made_TF = y_TF * model.normaliser.std_F + model.normaliser.mean_F
    error_TJ3 = heading_joints(made_TF, HUMANML22) - heading_joints(true_TF, HUMANML22)
    means = {
        "reconstruction": smooth(error_TF),
        "kl": kl.mean(),
        "position_error_cm": 100 * error_TJ3.norm(dim=-1).mean(),
    }
    if is_mld:
        means["joints"] = smooth(error_TJ3)
    else:
        columns = {"position": slice(4, 67), "rotation": slice(67, 193), "velocity": slice(193, 259)}
        means |= {name: smooth(error_TF[:, part]) for name, part in columns.items()}
    return {name: len(x_TF) / (1 if is_mld else 4) * value for name, value in means.items()}


def smooth(error: Tensor) -> Tensor:
    """The mean of |e|, rounded off below 1."""
    return torch.where(error.abs() < 1, error.square() / 2, error.abs() - 0.5).mean()


@pytest.mark.parametrize("network", WITH_VAE)
def test_a_vae_learns_what_each_motion_alone_would_teach_it(folder: DatasetFolder, network: str) -> None:
    """From draws of its posterior; what is measured is made of the means."""
    objective = vae_objective(network)
    model, batch = objective.model, loud_batch(objective, folder)
    shape = {"mld": lambda frames: (1, 1, 32), "salad": lambda frames: (frames // 4, 7, 4)}[network]
    drawn, of_means = (
        [
            vae_losses_alone(model, x_1TF[0], size * normal([seed], shape(frames), Stream.LATENT))
            for seed, frames, x_1TF in motions(model, batch)
        ]
        for size in (1.0, 0.0)
    )
    weights, losses = objective.weights, objective(batch)
    # As published; the losses that are ours have no weight by default.
    expected = {name: torch.stack([of_one[name] for of_one in drawn]).sum() for name in drawn[0] if name in weights}
    assert {name for name, weight in weights.items() if weight} == expected.keys()
    for name, total in expected.items():
        torch.testing.assert_close(losses[name], total, rtol=1e-4, atol=0, msg=name)
    total, by_hand = (
        torch.stack([weights[name] * total for name, total in values.items()]).sum() for values in (losses, expected)
    )
    assert_learned_alike(gradients(objective, total), gradients(objective, by_hand), model, "vae")
    measured = objective.eval().measure(batch)
    for name in of_means[0]:
        assert float(measured[name]) == pytest.approx(
            sum(float(of_one[name].detach()) for of_one in of_means), rel=1e-4
        ), name


# Streams


@pytest.mark.parametrize("network", NETWORKS)
def test_samples_take_about_as_many_bytes_as_is_said(folder: DatasetFolder, network: str) -> None:
    """A worker's memory is planned with that: a batch takes no more, and its longest motions not much less."""
    lean = denoiser_objective(network, max_frames=_LONGEST).stream(folder)
    assert lean.is_whole
    assert not lean.features
    streams: list[SampleStream] = [lean, denoiser_objective(network).stream(folder)]
    if network in WITH_VAE:
        streams.append(vae_objective(network).stream(folder))
    for stream in streams:
        batches = [stream.arrays(step, rank=0, world=1) for step in range(4)]
        largest = max(sum(array.nbytes for array in arrays.values()) for arrays in batches)
        assert 2 * stream.bytes_per_sample < largest <= 6 * stream.bytes_per_sample


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
