"""Training steps of the networks of one person: neither padding nor company changes what a motion counts.

Legend: B batch, T frames, P = 1 person, F features, L latent frames, Z latent numbers, K text tokens, W text width.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from one_person import NETWORKS, one_person_model, write_solo_shards

from intermoe.data.shards import DatasetFolder
from intermoe.training.config import DenoiserTrainingConfig, VaeTrainingConfig
from intermoe.training.denoiser import DenoiserObjective
from intermoe.training.samples import Batch
from intermoe.training.vae import VaeObjective

PREDICTIONS: dict[str, dict[str, Any]] = {
    "mdm": {"prediction": "x0"},
    "mld": {"schedule": "scaled_linear", "prediction": "noise"},
    "salad": {"schedule": "scaled_linear", "prediction": "v"},
}
# Padded frames are noise of this size.
_LOUD = 30.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> DatasetFolder:
    return write_solo_shards(tmp_path_factory.mktemp("solo") / "shards", {"train": 6})


def objective_of(network: str, selection: str = "dynamic", *, runs_ahead: bool = True) -> DenoiserObjective:
    """Where the host runs ahead, a whole batch is encoded at once, as on a GPU."""
    model = one_person_model(network, selection=selection, **PREDICTIONS[network])
    return DenoiserObjective(model, DenoiserTrainingConfig(epochs=1, batch_size=6), runs_ahead=runs_ahead).eval()


def batch_of(objective: DenoiserObjective | VaeObjective, folder: DatasetFolder) -> Batch:
    """Motions of different lengths, of which one is no multiple of the stride."""
    batch = replace(objective.stream(folder, seed=3), features=True).batch(0)
    batch["frames"] = torch.tensor([33, 60, 41, 18, 27, 52]).minimum(batch["frames"])
    return batch


def row(batch: Batch, number: int) -> Batch:
    """One of its samples, padded no more than it has to be."""
    return {name: column[number : number + 1] for name, column in batch.items()}


def total_and_gradient(objective: DenoiserObjective, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    total = sum(objective(batch).values(), torch.zeros(()))
    parameters = list(objective.model.denoiser.parameters())
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return total.detach(), [x if x is not None else torch.zeros_like(p) for x, p in zip(found, parameters, strict=True)]


@pytest.mark.parametrize("selection", ["dense", "dynamic"])
@pytest.mark.parametrize("network", NETWORKS)
def test_what_lies_behind_a_motion_changes_nothing(folder: DatasetFolder, network: str, selection: str) -> None:
    objective = objective_of(network, selection)
    batch = batch_of(objective, folder)
    expected, gradients = total_and_gradient(objective, batch)
    loud = {name: column.clone() for name, column in batch.items()}
    for number, frames in enumerate(batch["frames"].tolist()):
        loud["features"][number, frames:] = _LOUD * torch.randn_like(loud["features"][number, frames:])
        for name in ("diffusion_noise", "latent_noise"):
            if name in loud:
                latents = objective.model.whole_latents(frames)
                loud[name][number, latents:] = _LOUD * torch.randn_like(loud[name][number, latents:])
    loud["states"] = torch.cat([batch["states"], torch.randn(6, 4, 384)], dim=1)
    loud["mask"] = torch.cat([batch["mask"], torch.zeros(6, 4, dtype=torch.bool)], dim=1)
    found, found_gradients = total_and_gradient(objective, loud)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(found_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()) + 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("selection", ["dense", "dynamic"])
@pytest.mark.parametrize("network", NETWORKS)
def test_company_changes_nothing(folder: DatasetFolder, network: str, selection: str) -> None:
    objective = objective_of(network, selection)
    batch = batch_of(objective, folder)
    alone = [objective(row(batch, number)) for number in range(6)]
    for name, total in objective(batch).items():
        torch.testing.assert_close(sum(sums[name] for sums in alone), total, rtol=1e-5, atol=1e-5)
    frames = batch["frames"]
    latents = {"mdm": int(frames.sum()), "mld": 6, "salad": int((frames // 4).sum())}
    assert int(objective.count(batch)) == latents[network]


@torch.no_grad()
@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_that_waits_for_nothing_has_the_same_loss(folder: DatasetFolder, network: str) -> None:
    ahead, waiting = objective_of(network), objective_of(network, runs_ahead=False)
    batch = batch_of(ahead, folder)
    for name, total in waiting(batch).items():
        torch.testing.assert_close(ahead(batch)[name], total, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("network", NETWORKS)
def test_batches_without_features_have_the_same_loss(folder: DatasetFolder, network: str) -> None:
    """Of recordings that are never cropped, whose latents are kept."""
    longest = int(folder.index("train").frames.max())
    model = one_person_model(network, max_frames=longest, **PREDICTIONS[network])
    objective = DenoiserObjective(model, DenoiserTrainingConfig(epochs=1, batch_size=6), runs_ahead=False).eval()
    stream = objective.stream(folder, seed=3)
    assert not stream.features
    batch = stream.batch(0)
    whole = replace(stream, features=True).batch(0)
    assert "features" not in batch
    expected = objective(whole)
    again = DenoiserObjective(model, objective.config, runs_ahead=False).eval()
    again.stream(folder, seed=3)
    for name, total in again(batch).items():
        torch.testing.assert_close(total, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("network", ["mld", "salad"])
def test_padding_of_a_vae_changes_nothing_and_all_of_it_learns(folder: DatasetFolder, network: str) -> None:
    objective = VaeObjective(one_person_model(network), VaeTrainingConfig(epochs=1, batch_size=6, window=32)).train()
    batch = batch_of(objective, folder)
    loud = {name: column.clone() for name, column in batch.items()}
    for number, frames in enumerate(batch["frames"].tolist()):
        loud["features"][number, frames:] = _LOUD
    found = objective(loud)
    for name, total in objective(batch).items():
        torch.testing.assert_close(found[name], total, rtol=1e-5, atol=1e-5)
    sum(objective.weights[name] * total for name, total in found.items()).backward()
    parameters = objective.model.require_vae().named_parameters()
    assert [name for name, p in parameters if p.grad is None or not p.grad.any()] == []
