"""What holds for the networks of one person as for those of two, from a recording to a generated motion.

Legend: B batch, T frames, P = 1 person, J joints, F features, L latent frames, Z latent numbers, K text tokens.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_person import (
    CONFIG,
    NETWORKS,
    PREDICTIONS,
    motion_features,
    one_person_config,
    one_person_model,
    write_solo_shards,
)
from small_model import save_model

from intermoe.body.features import joints_from_features
from intermoe.body.features import motion_features as features_of
from intermoe.body.heading_features import heading_joints
from intermoe.body.skeletons import HUMANML22
from intermoe.data.batches import interactions
from intermoe.data.draws import Stream, draw, normal
from intermoe.data.feature_moments import Moments
from intermoe.data.rows import RecordedMotion
from intermoe.data.shards import DatasetFolder
from intermoe.diffusion.guidance import guided
from intermoe.errors import UserError
from intermoe.evaluation.measures import of_each_motion
from intermoe.generation import unsettled_motion
from intermoe.model import InterMoE
from intermoe.model_config import ModelConfig
from intermoe.moe.routing_map import recorded_routing
from intermoe.networks.mld_vae import mld_vae_loss_counts, mld_vae_losses
from intermoe.networks.vae_losses import vae_loss_counts, vae_losses
from intermoe.training.config import DenoiserTrainingConfig, VaeTrainingConfig
from intermoe.training.denoiser import DenoiserObjective
from intermoe.training.samples import Batch, SampleStream
from intermoe.training.vae import VaeObjective

UNIFORM = (
    "moe.selection = uniform deals out the frames of a motion, of which network = mld has one "
    "(allowed: dynamic, token_choice, expert_choice, dense)"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> DatasetFolder:
    return write_solo_shards(tmp_path_factory.mktemp("solo") / "shards", {"train": 6, "val": 2, "test": 3})


def stream(objective: DenoiserObjective | VaeObjective, folder: DatasetFolder) -> SampleStream:
    return replace(objective.stream(folder, seed=3), features=True)


def rows(batch: Batch, start: int, end: int) -> Batch:
    return {name: column[start:end] for name, column in batch.items()}


# The data


def test_rows_come_back_as_they_were_written_and_have_words(folder: DatasetFolder) -> None:
    recording = folder.recording("train", 2)
    np.testing.assert_array_equal(recording.features_TPF, motion_features(2))
    assert recording.frames == len(motion_features(2)) + 1
    assert recording.position_TPJ3.size == recording.rotation_TPR6.size == 0
    words = folder.words()
    assert words == [folder.caption(row).words for row in range(folder.card.captions)]
    assert all("/" in sentence for sentence in words)


def test_a_crop_is_a_slice_of_rows_neither_swapped_nor_mirrored(folder: DatasetFolder) -> None:
    recording = folder.recording("train", 0)
    drawn = next(d for seed in range(50) if (d := draw(seed, 0, "a")).swap and d.mirror and d.crop > 0.3)
    allowed = drawn.allowed(HUMANML22)
    assert (allowed.swap, allowed.mirror, allowed.crop, allowed.seed) == (False, False, drawn.crop, drawn.seed)
    batch = interactions([recording], [allowed], HUMANML22, max_frames=30, multiple=8)
    start = int(drawn.crop * (recording.frames - 30 + 1))
    assert start > 0
    np.testing.assert_array_equal(batch.features_BTPF[0, :29], recording.features_TPF[start : start + 29])
    assert batch.features_BTPF.shape[1] == 32
    assert not batch.features_BTPF[0, 29:].any()


def test_the_moments_are_those_of_the_rows(folder: DatasetFolder) -> None:
    x_NF = np.concatenate([folder.recording("train", row).features_TPF[:, 0] for row in range(6)]).astype(np.float64)
    np.testing.assert_allclose(folder.card.mean, x_NF.mean(0), atol=1e-5)
    np.testing.assert_allclose(folder.card.std, x_NF.std(0), atol=1e-4)
    motion = RecordedMotion(features_TPF=motion_features(0))
    assert Moments.of(motion, HUMANML22).count == len(motion_features(0))


def test_a_card_of_another_rate_is_refused(folder: DatasetFolder, tmp_path: Path) -> None:
    values = folder.card.model_dump(mode="json") | {"fps": 30}
    with pytest.raises(UserError, match=re.escape("fps = 30, but humanml22 is recorded at 20")):
        type(folder.card).parse(values, where=tmp_path)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_sample_takes_no_more_bytes_than_is_said(folder: DatasetFolder, network: str) -> None:
    objective = DenoiserObjective(one_person_model(network), DenoiserTrainingConfig(epochs=1, batch_size=4))
    samples = stream(objective, folder)
    arrays = samples.arrays(0, rank=0, world=1)
    assert sum(array.nbytes for array in arrays.values()) <= 4 * samples.bytes_per_sample
    assert arrays["diffusion_noise"].shape[2] == 1


# Training


@pytest.mark.parametrize("selection", ["dense", "dynamic"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_loss_is_the_same_however_a_batch_is_dealt(folder: DatasetFolder, network: str, selection: str) -> None:
    model = one_person_model(network, selection=selection, condition_drop=0.5, **PREDICTIONS[network])
    objective = DenoiserObjective(model, DenoiserTrainingConfig(epochs=1, batch_size=6)).eval()
    batch = stream(objective, folder).batch(0)
    whole, count = objective(batch), objective.count(batch)
    parts = [rows(batch, 0, 2), rows(batch, 2, 6)]
    assert int(count) == sum(int(objective.count(part)) for part in parts) > 0
    for name, total in whole.items():
        torch.testing.assert_close(sum(objective(part)[name] for part in parts), total, rtol=1e-5, atol=1e-5)
        assert float(total) > 0


@pytest.mark.parametrize("network", NETWORKS)
def test_every_part_that_is_trained_gets_a_gradient(folder: DatasetFolder, network: str) -> None:
    model = one_person_model(network, selection="dynamic", **PREDICTIONS[network])
    objective = DenoiserObjective(model, DenoiserTrainingConfig(epochs=1, batch_size=6)).train()
    sum(objective(stream(objective, folder).batch(0)).values()).backward()
    without = [name for name, p in model.denoiser.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    if model.vae is not None:
        assert all(p.grad is None for p in model.vae.parameters())


@pytest.mark.parametrize("network", ["mld", "salad"])
def test_the_loss_of_a_vae_is_the_same_however_a_batch_is_dealt(folder: DatasetFolder, network: str) -> None:
    model = one_person_model(network)
    objective = VaeObjective(model, VaeTrainingConfig(epochs=1, batch_size=6, window=32)).eval()
    batch = stream(objective, folder).batch(0)
    whole, count = objective.measure(batch), objective.count(batch)
    parts = [rows(batch, 0, 2), rows(batch, 2, 6)]
    assert int(count) == sum(int(objective.count(part)) for part in parts)
    for name, total in whole.items():
        torch.testing.assert_close(sum(objective.measure(part)[name] for part in parts), total, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", ["mld", "salad"])
def test_the_losses_of_a_vae_are_those_of_its_kind(folder: DatasetFolder, network: str) -> None:
    model = one_person_model(network)
    objective = VaeObjective(model, VaeTrainingConfig(epochs=1, batch_size=6, window=32)).eval()
    batch = stream(objective, folder).batch(0)
    stride = 1 if network == "mld" else 4
    mask_BT = torch.arange(batch["features"].shape[1]) < (batch["frames"] // stride * stride)[:, None]
    x_BTF = model.normaliser.normalise(batch["features"]).where(mask_BT[..., None], 0)
    vae: Any = model.require_vae()
    posterior = vae.encode(x_BTF, mask_BT)
    of_data: dict[str, Any] = {"normaliser": model.normaliser, "skeleton": HUMANML22}
    if network == "mld":
        found_BTF = vae.decode(posterior.mean_BLNC, mask_BT)
        sums = mld_vae_losses(x_BTF, found_BTF, posterior, mask_BT, **of_data)
        counts = mld_vae_loss_counts(mask_BT, HUMANML22, model.config.mld_vae)
    else:
        found_BTF = vae.decode(posterior.mean_BLNC, mask_BT[:, ::4])
        sums = vae_losses(x_BTF, found_BTF, posterior, mask_BT, **of_data, rounded_below=1.0)
        counts = vae_loss_counts(mask_BT, HUMANML22, model.config.vae)
    for name, total in objective(batch).items():
        torch.testing.assert_close(total / objective.count(batch), sums[name] / counts[name], rtol=1e-5, atol=1e-6)
    error = 0.0
    for row, frames in enumerate((batch["frames"] // stride * stride).tolist()):
        found, true = (
            heading_joints(model.normaliser.denormalise(x_TF[:frames]), HUMANML22)
            for x_TF in (found_BTF[row], x_BTF[row])
        )
        error += 100 * float((found - true).norm(dim=-1).mean(-1).sum())
    measured = objective.measure(batch)["position_error_cm"] / objective.count(batch)
    assert float(measured) == pytest.approx(error / int(mask_BT.sum()), rel=1e-4)


@pytest.mark.parametrize("network", ["mld", "salad"])
def test_latents_that_are_kept_are_those_of_the_encoder(folder: DatasetFolder, network: str) -> None:
    model = one_person_model(network)
    objective = DenoiserObjective(model, DenoiserTrainingConfig(epochs=1, batch_size=6), runs_ahead=False)
    batch = stream(objective, folder).batch(0)
    mask_BT = torch.arange(batch["features"].shape[1]) < model.whole_frames(batch["frames"])[:, None]
    noise_BLPZ = batch["latent_noise"]
    kept_BLPZ = objective._posteriors.latents(batch, model.latent_mask(mask_BT), noise_BLPZ)
    whole_BLPZ = model.encode(batch["features"], noise_BLPZ, mask_BT)
    torch.testing.assert_close(kept_BLPZ, whole_BLPZ, rtol=1e-4, atol=1e-5)


# Generation


@pytest.mark.parametrize("selection", ["dense", "dynamic"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_prompt_alone_and_in_a_batch_gives_the_same_motion(network: str, selection: str) -> None:
    model = one_person_model(network, selection=selection, **PREDICTIONS[network])
    alone = model.generate("a person walks.", seconds=2.05, seed=4)
    first, _ = model.generate(["a person walks.", "a man waves with the left hand and turns."], seconds=2.05, seed=4)
    assert alone.joints.shape == (41, 1, 22, 3)
    assert (alone.fps, alone.seconds) == (20, 2.05)
    np.testing.assert_allclose(alone.joints, first.joints, atol=1e-4)
    other = model.generate("a man waves with the left hand and turns.", seconds=2.05, seed=4)
    assert np.abs(alone.joints - other.joints).max() > 1e-3


@pytest.mark.parametrize("network", NETWORKS)
def test_a_motion_has_nothing_of_longer_company(network: str) -> None:
    """By the networks' own output: latents and features of two lengths at once."""
    model = one_person_model(network, selection="dynamic", **PREDICTIONS[network])
    conditions = model.read_prompts(["a person walks.", "a man kicks."])
    both = model.generate_batch(conditions, frames_B=torch.tensor([33, 59]), seeds=[1, 2])
    alone = model.generate_batch(model.read_prompts(["a person walks."]), frames_B=torch.tensor([33]), seeds=[1])
    torch.testing.assert_close(both.features_BTPF[0, :33], alone.features_BTPF[0], rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("network", ["mld", "salad"])
def test_latents_are_decoded_to_as_many_frames_as_were_asked_for(network: str) -> None:
    model = one_person_model(network, **PREDICTIONS[network])
    conditions = model.read_prompts(["a person walks.", "a man kicks."])
    frames, seeds = [33, 59], [1, 2]
    batch = model.generate_batch(conditions, frames_B=torch.tensor(frames), seeds=seeds)
    latents = [1, 1] if network == "mld" else [9, 15]
    mask_BL = torch.arange(max(latents)) < torch.tensor(latents)[:, None]
    noise_BLPZ = normal(seeds, (max(latents), 1, model.latent), Stream.LATENT) * mask_BL[..., None, None]
    latent_BLPZ = model.sample(noise_BLPZ, model.condition(conditions.text), mask_BL=mask_BL, seeds=seeds)
    vae: Any = model.require_vae()
    for row, count in enumerate(frames):
        latent_1LNC = latent_BLPZ[row, : latents[row], 0].unflatten(-1, (vae.num_latent_joints, -1))[None]
        # One motion, without padding: SALAD's as many frames as its latents hold, MLD's as many as there are to be.
        x_1TF = vae.decode(latent_1LNC, torch.ones(1, count, dtype=torch.bool) if network == "mld" else None)
        expected_TF = model.normaliser.denormalise(x_1TF)[0, :count]
        torch.testing.assert_close(batch.features_BTPF[row, :count, 0], expected_TF, rtol=1e-4, atol=1e-4)
        assert not batch.joints_BTPJ3[row, count:].any()


def test_a_known_motion_is_for_two() -> None:
    model = one_person_model("mdm")
    motion = model.generate("a person walks.", seconds=2.0)
    with pytest.raises(UserError) as caught:
        model.generate("a person sits down.", after=motion)
    assert str(caught.value) == "after: a motion that is known (allowed: a model of two persons)"
    steps: list[int] = []
    with pytest.raises(UserError) as caught:
        model.generate_sequence(["a person walks.", "a person sits down."], on_step=lambda done, _: steps.append(done))
    assert str(caught.value) == "generate: 2 prompts in a row (allowed: a model of two persons)"
    assert steps == []
    one = model.generate_sequence(["a person walks."], seconds=2.0, seed=3)
    np.testing.assert_array_equal(one.joints, model.generate("a person walks.", seconds=2.0, seed=3).joints)


@torch.no_grad()
@pytest.mark.parametrize("network", NETWORKS)
def test_guidance_is_between_the_text_and_none(network: str) -> None:
    model = one_person_model(network, selection="dynamic", **PREDICTIONS[network])
    condition = model.condition(model.read_prompts(["a person walks.", "a man kicks with the left leg."]).text)
    assert condition.dim() == (3 if network == "salad" else 2)
    mask_BL = torch.tensor([[True], [True]]) if network == "mld" else torch.arange(12) < torch.tensor([[12], [7]])
    noised_BLPZ, t_B = torch.randn(*mask_BL.shape, 1, model.latent), torch.full((2,), 50)
    found_BLPZ = guided(
        model.denoiser.of_batch(mask_BL), condition, mask_BL, model.diffusion.config.model_copy(update={"guidance": 3})
    )(noised_BLPZ, 50)
    of_text, of_none = (
        model.denoiser(noised_BLPZ, t_B, which, mask_BL) for which in (condition, torch.zeros_like(condition))
    )
    assert (of_text - of_none).abs().max() > 1e-3
    torch.testing.assert_close(found_BLPZ, 3 * of_text - 2 * of_none, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", NETWORKS)
def test_what_experts_worked_on_is_told_moment_by_moment(network: str) -> None:
    model = one_person_model(network, selection="dynamic", **PREDICTIONS[network])
    with recorded_routing(model.denoiser, model.stride) as recorder:
        model.generate(["a person walks.", "a man kicks."], seconds=1.5)
    first, second = recorder.maps()
    tokens, moments = {"mdm": (1, 30), "mld": (1, 1), "salad": (7, 8)}[network]
    for routing in (first, second):
        assert routing.gate_QMPLE.shape[1:] == (3, tokens, moments, 4)
        assert len(routing.tokens) == tokens
        assert (routing.gate_QMPLE > 0).any()


def test_bvh_of_one_person_is_the_file_that_was_asked_for(tmp_path: Path) -> None:
    motion = unsettled_motion(torch.from_numpy(motion_features(1)), "a walk.", HUMANML22)
    assert motion.save(tmp_path / "walk.bvh") == [tmp_path / "walk.bvh"]
    for suffix in (".npz", ".glb", ".png", ".html"):
        assert motion.save(tmp_path / f"walk{suffix}") == [tmp_path / f"walk{suffix}"]
    again = type(motion).load(tmp_path / "walk.npz")
    np.testing.assert_array_equal(again.joints, motion.joints)
    true_TJ3 = heading_joints(torch.from_numpy(motion_features(1)[:, 0]), HUMANML22)
    np.testing.assert_allclose(motion.joints[:, 0], true_TJ3, atol=1e-6)


# Evaluation


def test_features_of_settled_joints_are_those_of_the_joints_at_their_own_length() -> None:
    joints_BTPJ3 = torch.zeros(2, 60, 1, 22, 3)
    lengths = [60, 41]
    for row, frames in enumerate(lengths):
        joints_TJ3 = heading_joints(torch.from_numpy(motion_features(row)[:60, 0]), HUMANML22)
        joints_BTPJ3[row, :frames, 0] = joints_TJ3[:frames]
    rotations_BTPR6 = torch.zeros(2, 60, 1, 21, 6)
    features_BTPF, frames_B = features_of(joints_BTPJ3, rotations_BTPR6, torch.tensor(lengths), HUMANML22)
    assert frames_B.tolist() == [59, 40]
    alone_BTPF, _ = features_of(joints_BTPJ3[1:, :41], rotations_BTPR6[1:, :41], None, HUMANML22)
    torch.testing.assert_close(features_BTPF[1, :40], alone_BTPF[0])
    assert not features_BTPF[1, 40:].any()
    again_TJ3 = joints_from_features(features_BTPF[0].transpose(0, 1), HUMANML22)[0]
    torch.testing.assert_close(again_TJ3[:, 1:] - again_TJ3[:, :1], _turned_alike(joints_BTPJ3[0, :59, 0], again_TJ3))


def _turned_alike(true_TJ3: torch.Tensor, found_TJ3: torch.Tensor) -> torch.Tensor:
    """Bones of the true motion, turned about y as a whole onto those that were found."""
    true, found = (x[:, 1:] - x[:, :1] for x in (true_TJ3, found_TJ3))
    cross = (true[..., 2] * found[..., 0] - true[..., 0] * found[..., 2]).sum()
    angle = torch.atan2(cross, (true[..., [0, 2]] * found[..., [0, 2]]).sum())
    x, y, z = true.unbind(-1)
    return torch.stack([angle.cos() * x + angle.sin() * z, y, angle.cos() * z - angle.sin() * x], dim=-1)


def test_what_is_measured_of_two_persons_is_not_known_of_one() -> None:
    joints_TPJ3 = unsettled_motion(torch.from_numpy(motion_features(1)), "a walk.", HUMANML22).joints
    values = {name: take(joints_TPJ3, HUMANML22) for name, take in of_each_motion().items()}
    unknown = {name for name, value in values.items() if np.isnan(value)}
    assert unknown == {"interpenetration_cm", "hands_met", "hands_apart_cm"}
    # As many frames per second as HumanML3D has, not as InterHuman.
    moved_TJ3 = np.diff(joints_TPJ3[:, 0].astype(np.float64), n=3, axis=0)
    assert values["jerk_m_s3"] == pytest.approx(np.linalg.norm(moved_TJ3, axis=-1).mean() * 20**3)


# Configurations


@pytest.mark.parametrize(
    ("network", "changes", "message"),
    [
        (
            "intermoe",
            {},
            "network = intermoe is for 2 persons, data.skeleton = humanml22 is not (allowed: smpl22, smplx55)",
        ),
        (
            "mdm",
            {"data.skeleton": "smpl22"},
            "network = mdm is for 1 person, data.skeleton = smpl22 is not (allowed: humanml22)",
        ),
        ("mdm", {"data.persons": "named"}, "data.persons = named is of two persons, ONE (allowed: drawn)"),
        (
            "mdm",
            {"diffusion.hand_contact_loss": 0.1},
            "diffusion.hand_contact_loss = 0.1 is of two persons, ONE (allowed: 0)",
        ),
        ("salad", {"diffusion.error": "decoded"}, "diffusion.error = decoded is of two persons, ONE (allowed: latent)"),
        (
            "mdm",
            {"diffusion.error": "decoded"},
            "diffusion.error = decoded needs a VAE, which network = mdm has not (allowed: latent)",
        ),
        (
            "mdm",
            {"denoiser.person_embedding": True},
            "denoiser.person_embedding = True is of two persons, ONE (allowed: False)",
        ),
        ("salad", {"denoiser.layers": 4}, "denoiser.layers = 4 with network = salad (allowed: odd)"),
        ("mld", {"denoiser.layers": 4}, "denoiser.layers = 4 with network = mld (allowed: odd)"),
        ("mld", {"mld_vae.layers": 4}, "mld_vae: layers = 4 is not odd"),
        ("mld", {"denoiser.width": 64}, "denoiser.width = 64 with network = mld (allowed: 32, as mld_vae.width)"),
        ("mld", {"mld_vae.places": 50}, "mld_vae.places = 50 (allowed: data.max_frames + 2 = 63 or more)"),
        ("mld", {"moe.selection": "uniform"}, UNIFORM),
        (
            "mld",
            {"moe.pool": "sequence"},
            "moe.pool = sequence holds one token with network = mld (allowed: worker, global)",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(network: str, changes: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {**CONFIG, "network": network}
    for key, value in changes.items():
        part, name = key.split(".")
        values[part] = values[part] | {name: value}
    with pytest.raises(UserError) as caught:
        ModelConfig.parse(values, where="a.yaml")
    assert str(caught.value) == "a.yaml: " + message.replace("ONE", f"network = {network} of one")


def test_the_networks_say_what_they_work_on() -> None:
    assert [one_person_config(network).frames_per_latent for network in NETWORKS] == [1, 61, 4]
    assert [one_person_config(network).has_vae for network in NETWORKS] == [False, True, True]
    assert one_person_config("mdm").parts == ("normaliser", "denoiser")


@pytest.mark.parametrize("network", NETWORKS)
def test_a_model_comes_back_from_its_checkpoint(network: str, tmp_path: Path) -> None:
    model = one_person_model(network, selection="dynamic", **PREDICTIONS[network])
    again = InterMoE.load(save_model(tmp_path / "model", model))
    again._encoder = model._encoder
    one, other = (which.generate("a person walks.", seconds=1.5, seed=2) for which in (model, again))
    np.testing.assert_array_equal(one.joints, other.joints)
