"""Legend: B batch, T frames, L latent frames, P = 2 persons, J joints, F features, Z numbers of a latent."""

import math
from dataclasses import replace
from itertools import islice, product

import numpy as np
import pytest
import torch
from small_training import whole_latents

from intermoe.body.features import joints_from_features
from intermoe.body.skeletons import SMPL22
from intermoe.data.draws import Stream, normal, uniform
from intermoe.data.shards import DatasetFolder
from intermoe.model import InterMoE
from intermoe.model_config import VAE_PARTS
from intermoe.networks.decoder_metric import decoder_metric
from intermoe.text.encoders import TextStates
from intermoe.training.denoiser import DenoiserObjective
from intermoe.training.geometric import geometric_sums
from intermoe.training.objective import Diagnostics
from intermoe.training.vae import VaeObjective
from pipelines.site import Site
from pipelines.train.objectives import build

RIVALS = {
    "intergen": ["network=intergen", "moe.selection=dense"],
    "timotion": ["network=timotion"],
}
PAPERS = ("diffusion.target=sample", "diffusion.error=latent", "diffusion.hand_contact_loss=0")


@pytest.fixture(scope="module", params=["vae", "denoiser", "evaluator", *RIVALS])
def target(request):
    return request.param


@pytest.fixture(scope="module")
def make(shards, tiny):
    def make(target, *overrides):
        if target in RIVALS:
            overrides = (*RIVALS[target], "diffusion.error=latent", *overrides)
            target = "denoiser"
        values, folder = tiny(target, 4, *overrides), DatasetFolder.open(shards)
        if target == "denoiser":  # with a VAE that nobody has trained
            model = InterMoE.initial(values, folder.normaliser(), seed=values.seed)
            return DenoiserObjective(model, values.train.denoiser)
        return build(target, values, folder, vae=None, site=Site(""))

    return make


@pytest.fixture
def objective(make, target):
    return make(target)


@pytest.fixture
def batch(objective, shards):
    """Samples of the validation split, not all of the same length."""
    held_out = objective.stream(DatasetFolder.open(shards)).held_out("val")
    (batch,) = islice(held_out.held_out_batches(rank=0, world=1), 1)
    batch["frames"][0] -= 5  # as if it were shorter, by a number of frames that ends within a latent frame
    return batch


def alone(batch, row):
    return {name: tensor[row : row + 1] for name, tensor in batch.items()}


def test_all_workers_begin_with_the_same_weights(make, target):
    first, second, other = make(target), make(target), make(target, "seed=1")
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor)
    assert any(not torch.equal(other.state_dict()[name], tensor) for name, tensor in first.state_dict().items())


def test_features_are_normalised_as_the_card_says(objective, shards):
    card = DatasetFolder.open(shards).card
    mean_F, std_F = (np.array(moment, np.float32) for moment in (card.mean, card.std))
    np.testing.assert_array_equal(objective.model.normaliser.mean_F, mean_F)
    np.testing.assert_array_equal(objective.model.normaliser.std_F, np.where(std_F < 1e-3, 1, std_F))


def test_losses_are_sums_over_the_samples_whoever_holds_them(objective, target, batch):
    if target == "evaluator":
        pytest.skip("its loss compares the samples of a batch")
    objective.train()
    whole = objective(batch)
    parts = [objective(alone(batch, row)) for row in range(len(batch["item"]))]
    assert whole.keys() == parts[0].keys() == dict(objective.weights).keys()
    for name, total in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), total, rtol=1e-5, atol=1e-6)
    counts = sum(objective.count(alone(batch, row)) for row in range(len(batch["item"])))
    assert objective.count(batch) == counts


def test_frames_beyond_the_last_latent_frame_change_nothing(objective, target, batch):
    if target == "evaluator":
        pytest.skip("it has no latent frames")
    objective.train()
    before = {name: total.clone() for name, total in objective(batch).items()}
    stride = objective.model.stride
    for row, frames in enumerate(batch["frames"].tolist()):
        batch["features"][row, frames // stride * stride :] = 7.0
    for name, total in objective(batch).items():
        torch.testing.assert_close(total, before[name], rtol=1e-6, atol=0)


def test_only_what_is_trained_has_gradients(objective, target, batch):
    objective.train()
    sum(objective(batch).values()).backward()
    for name, parameter in objective.named_parameters():
        trained = target == "evaluator" or name.startswith("model.vae.") == (target == "vae")
        assert parameter.requires_grad == trained, name
        assert (parameter.grad is not None) == trained, name


def test_what_a_checkpoint_holds(objective, target):
    held = {"vae": VAE_PARTS, "denoiser": (*VAE_PARTS, "text_head", "denoiser"), "evaluator": ("evaluator",)}
    held |= dict.fromkeys(RIVALS, ("normaliser", "text_head", "denoiser"))
    assert objective.saved == held[target]
    assert set(objective.saved) <= objective.model.parts().keys()


def test_measuring_gives_the_same_every_time(objective, batch):
    objective.eval()
    first, second = (objective.validate([batch], lambda value: [value]) for _ in range(2))
    assert objective.watched in first
    assert first == second


def test_position_error_is_the_mean_distance_of_joints_in_centimetres(make, shards):
    objective = make("vae").eval()
    held_out = objective.stream(DatasetFolder.open(shards)).held_out("val")
    batch = next(held_out.held_out_batches(rank=0, world=1))
    batch["frames"][1] -= 3
    mean_F, std_F = (x.double().numpy() for x in (objective.model.normaliser.mean_F, objective.model.normaliser.std_F))
    distances = []
    for row, frames in enumerate(batch["frames"].tolist()):
        valid = frames // 4 * 4
        true_TF = batch["features"][row, :valid].double().numpy()
        x_1TF = torch.tensor((true_TF - mean_F) / std_F, dtype=torch.float32)[None]
        with torch.no_grad():
            found_1TF = objective.model.vae.decode(objective.model.vae.encode(x_1TF).mean_BLNC)
        found_TF = found_1TF[0].double().numpy() * std_F + mean_F
        for frame in range(valid):
            for joint in range(22):
                place = slice(3 * joint, 3 * joint + 3)
                distances.append(100 * math.dist(found_TF[frame, place], true_TF[frame, place]))
    error = objective.validate([batch], lambda value: [value])["position_error_cm"]
    assert error == pytest.approx(np.mean(distances), rel=1e-5)
    assert 1 < error < 1000


def test_the_weights_of_the_losses_are_those_of_the_config(make):
    words = [f"train.vae.loss.{name}={value}" for name, value in (("kl", 0.25), ("velocity", 3.0))]
    objective = make("vae", *words)
    assert isinstance(objective, VaeObjective)
    assert objective.weights == objective.config.loss.model_dump()
    assert (objective.weights["kl"], objective.weights["velocity"]) == (0.25, 3.0)


def test_vae_losses_are_means_of_numbers_times_latent_frames(make, shards):
    objective = make("vae").eval()
    batch = next(objective.stream(DatasetFolder.open(shards)).held_out("val").held_out_batches(rank=0, world=1))
    x_BTF = objective.model.normaliser.normalise(batch["features"])
    with torch.no_grad():
        posterior = objective.model.vae.encode(x_BTF)
        error_BTF = objective.model.vae.decode(posterior.mean_BLNC) - x_BTF
        found = objective(batch)
    assert (batch["frames"] == 16).all()  # so that means need no mask
    latents = 4 * len(batch["frames"])
    near_BTF = torch.where(error_BTF.abs() < 0.1, error_BTF.square() / 0.2, error_BTF.abs() - 0.05)
    assert float(found["reconstruction"]) == pytest.approx(float(near_BTF.mean()) * latents, rel=1e-5)
    assert float(found["rotation"]) == pytest.approx(float(near_BTF[..., 132:258].mean()) * latents, rel=1e-5)
    assert float(found["kl"]) == pytest.approx(float(posterior.kl().mean()) * latents, rel=1e-5)


def test_the_vae_samples_in_training_and_takes_the_mean_in_validation(make, shards):
    objective = make("vae").train()
    batch = next(objective.stream(DatasetFolder.open(shards)).held_out("val").held_out_batches(rank=0, world=1))
    sampled, again = objective(batch), objective(batch)
    assert torch.equal(sampled["reconstruction"], again["reconstruction"])
    elsewhere = batch | {"latent_noise": batch["latent_noise"] + 1}
    other = objective(elsewhere)
    assert not torch.equal(sampled["reconstruction"], other["reconstruction"])
    objective.eval()
    assert torch.equal(objective(batch)["reconstruction"], objective(elsewhere)["reconstruction"])


def test_the_vaes_noise_is_that_of_the_seeds(make, shards):
    objective = make("vae").train()
    batch = next(objective.stream(DatasetFolder.open(shards)).held_out("val").held_out_batches(rank=0, world=1))
    x_BTF = objective.model.normaliser.normalise(batch["features"])
    with torch.no_grad():
        posterior = objective.model.vae.encode(x_BTF)
        noise_BLNC = normal(batch["seed"].tolist(), tuple(posterior.mean_BLNC.shape[1:]), Stream.LATENT)
        error_BTF = objective.model.vae.decode(posterior.sample(noise_BLNC)) - x_BTF
        reconstruction = objective(batch)["reconstruction"]
    near_BTF = torch.where(error_BTF.abs() < 0.1, error_BTF.square() / 0.2, error_BTF.abs() - 0.05)
    assert (batch["frames"] == 16).all()  # so that the mean needs no mask
    assert float(reconstruction) == pytest.approx(float(near_BTF.mean()) * 4 * len(batch["frames"]), rel=1e-5)


def test_the_denoiser_learns_the_clean_latents_of_one_sample_after_the_other(make, shards):
    objective = make("denoiser", "diffusion.condition_drop=0.5", *PAPERS).eval()
    model = objective.model
    with torch.no_grad():
        # As it begins, it answers zero to everything.
        model.denoiser.out.weight.normal_(generator=torch.Generator().manual_seed(0))
    batch = next(objective.stream(DatasetFolder.open(shards)).held_out("val").held_out_batches(rank=0, world=1))
    expected, dropped = 0.0, 0
    for row, seed in enumerate(batch["seed"].tolist()):
        latents = int(batch["frames"][row]) // 4
        one = alone(batch, row)
        with torch.no_grad():
            clean = model.encode(one["features"][:, : 4 * latents], normal([seed], (latents, 2, 28), Stream.LATENT))
            t, keep = (float(number) for number in uniform([seed], 2, Stream.TIMESTEP)[0])
            condition = model.condition(TextStates(one["states"], one["mask"], one["eot"])) * (keep >= 0.5)
            step = torch.tensor([int(t * 1000)])
            noisy = model.diffusion.q_sample(clean, step, normal([seed], (latents, 2, 28), Stream.DIFFUSION))
            found = model.denoiser(noisy, step, condition, torch.ones(1, latents, dtype=torch.bool))
        dropped += keep < 0.5
        expected += float((found - clean).square().mean(-1).sum())
    assert 0 < dropped < len(batch["seed"]) or len(batch["seed"]) < 3
    assert objective(batch)["diffusion"].item() == pytest.approx(expected, rel=1e-4)
    assert objective.count(batch) == 2 * (batch["frames"] // 4).sum()


def test_changes_from_frame_to_frame_are_a_loss_only_where_they_have_a_weight(make, shards):
    batch = next(make("denoiser", *PAPERS).stream(DatasetFolder.open(shards)).held_out("val").held_out_batches())
    plain, weighed = (make("denoiser", f"diffusion.difference_loss={weight}", *PAPERS).eval() for weight in (0, 3))
    assert (plain.weights, weighed.weights) == ({"diffusion": 1.0}, {"diffusion": 1.0, "difference": 3.0})
    with torch.no_grad():
        assert list(plain(batch)) == ["diffusion"]
        sums = weighed(batch)
        # As it begins, the network answers zero to everything: what is left are the changes of the latents.
        frames = batch["features"].shape[1] // 4 * 4
        mask_BT = whole_latents(batch["frames"], frames)
        latent_BLPZ = weighed.model.encode(batch["features"][:, :frames], batch["latent_noise"], mask_BT)
    changes = [
        latent_BLPZ[row, : int(count) // 4].diff(dim=0).square().mean(-1).sum()
        for row, count in enumerate(batch["frames"])
    ]
    assert float(sums["difference"]) == pytest.approx(float(torch.stack(changes).sum()), rel=1e-4)


def test_the_denoiser_learns_means_by_what_their_motion_is_worth(make, shards):
    objective = make(
        "denoiser", "diffusion.target=mean", "diffusion.error=decoded", "diffusion.hand_contact_loss=0"
    ).eval()
    folder = DatasetFolder.open(shards)
    stream = objective.stream(folder)
    batch = next(stream.held_out("val").held_out_batches())
    assert "latent_noise" not in batch
    with torch.no_grad():
        sums = objective(batch)
        some = replace(stream, features=True, batch_size=min(64, stream.num_samples), by_length=False)
        first = some.batch(0)
        mask_BT = whole_latents(first["frames"], first["features"].shape[1])
        latent_BLPZ = objective.model.encode(first["features"], mask_BT=mask_BT)
        root_ZZ = decoder_metric(objective.model, latent_BLPZ, mask_BT[:, ::4], seed=0)
        # As it begins, the network answers zero to everything: what is left are the means and their changes.
        expected = {"diffusion": 0.0, "difference": 0.0}
        for row, frames in enumerate(batch["frames"].tolist()):
            clean_LPZ = objective.model.encode(batch["features"][row : row + 1, : frames // 4 * 4])[0]
            expected["diffusion"] += float((clean_LPZ @ root_ZZ).square().mean(-1).sum())
            expected["difference"] += float((clean_LPZ.diff(dim=0) @ root_ZZ).square().mean(-1).sum())
    assert {name: float(total) for name, total in sums.items()} == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("features", [True, False])
def test_the_denoiser_learns_which_hands_touch(make, shards, features):
    objective = make("denoiser", "diffusion.hand_contact_loss=0.2", "data.max_frames=300").eval()
    stream = replace(objective.stream(DatasetFolder.open(shards)), features=features)
    batch, whole = stream.batch(0), replace(stream, features=True).batch(0)
    assert ("features" in batch) == features
    assert objective.weights["hand_contact"] == 0.2
    with torch.no_grad():
        found = float(objective(batch)["hand_contact"])
    # As it begins, the network answers the same everywhere: 1 in 21 that hands touch, and 10 cm apart.
    expected, touching, chance = 0.0, 0, 1 / (1 + math.exp(3))
    for row, frames in enumerate(whole["frames"].tolist()):
        joints_TPJ3 = joints_from_features(whole["features"][row], SMPL22)
        for first in range(0, frames // 4 * 4, 4):
            for own, other in product((20, 21), repeat=2):
                apart_T3 = joints_TPJ3[first : first + 4, 0, own] - joints_TPJ3[first : first + 4, 1, other]
                metres = float(apart_T3.norm(dim=-1).min())
                near = metres < 0.2
                touching += near
                loss = -math.log(chance) + abs(metres / 0.2 - 0.5) if near else -math.log(1 - chance)
                expected += 2 * loss / 4
    assert touching > 0
    assert found == pytest.approx(expected, rel=1e-4)


def test_decoded_errors_need_a_stream_first(make, shards):
    batch = next(make("denoiser").stream(DatasetFolder.open(shards)).held_out("val").held_out_batches())
    with pytest.raises(
        RuntimeError, match=r"^errors are to be decoded ones: stream\(\) or learn_metric\(\) comes first$"
    ):
        make("denoiser", "diffusion.error=decoded")(batch)


@pytest.mark.parametrize("max_frames", [60, 300])
def test_the_denoiser_leaves_features_out_where_nothing_is_cropped(make, shards, max_frames):
    objective = make("denoiser", f"data.max_frames={max_frames}")
    folder = DatasetFolder.open(shards)
    stream = objective.stream(folder)
    batch = stream.batch(0)
    assert ("features" in batch) == stream.features == (max_frames == 60)
    loss = objective.eval()(batch)["diffusion"]
    with_features = make("denoiser", f"data.max_frames={max_frames}").eval()
    with_features.stream(folder)
    assert loss.equal(with_features(replace(stream, features=True).batch(0))["diffusion"])


def test_the_load_of_the_experts_is_what_they_took(make, shards):
    objective = make("denoiser").train()
    batch = next(objective.stream(DatasetFolder.open(shards)).held_out("val").held_out_batches(rank=0, world=1))
    objective(batch)
    layers = [layer.feed_forward.selection for layer in objective.model.denoiser.layers]
    taken = [layer.selected_E.tolist() for layer in layers]
    tokens = int(objective.count(batch))
    assert [int(layer.valid) for layer in layers] == [tokens, tokens]
    objective.after_step(lambda counts: counts)
    diagnostics = objective.pop_diagnostics()
    for layer, routing, taken_E in zip(layers, diagnostics.routing, taken, strict=True):
        assert routing.load_E == pytest.approx([count / tokens for count in taken_E])
        assert (routing.learned_name, routing.learned_E) == ("bias", pytest.approx(layer.bias_E.tolist()))
        assert routing.experts_per_token == pytest.approx(sum(taken_E) / tokens)
        assert routing.imbalance == pytest.approx(np.std(taken_E) / np.mean(taken_E))
    assert diagnostics.values == {
        name: pytest.approx(np.mean([getattr(routing, name) for routing in diagnostics.routing]))
        for name in ("experts_per_token", "unselected", "router_entropy", "imbalance")
    }


def test_without_experts_there_is_nothing_to_show(make, shards):
    objective = make("denoiser", "moe.selection=dense").train()
    objective(next(objective.stream(DatasetFolder.open(shards)).held_out("val").held_out_batches(rank=0, world=1)))
    objective.after_step(lambda counts: counts)
    assert objective.pop_diagnostics() == Diagnostics()


def test_the_evaluators_loss_is_the_mean_cross_entropy_of_both_ways(make, shards):
    objective = make("evaluator").eval()
    held_out = objective.stream(DatasetFolder.open(shards)).held_out("train")
    batch = next(held_out.held_out_batches(rank=0, world=1))
    with torch.no_grad():
        text = TextStates(batch["states"], batch["mask"], batch["eot"])
        text_BE = objective.model.embed_text(text).double().numpy()
        motion_BE = objective.model.embed_motion(batch["features"], batch["frames"]).double().numpy()
    scale = float(objective.model.scale.detach())
    np.testing.assert_allclose(np.linalg.norm(text_BE, axis=1), scale, rtol=1e-5)
    total = 0.0
    for i in range(8):
        to_motion = [math.exp(text_BE[i] @ motion_BE[j]) for j in range(8)]
        to_text = [math.exp(text_BE[j] @ motion_BE[i]) for j in range(8)]
        total -= 0.5 * math.log(to_motion[i] / sum(to_motion)) + 0.5 * math.log(to_text[i] / sum(to_text))
    assert float(objective(batch)["contrast"].detach()) == pytest.approx(total, rel=1e-5)
    assert int(objective.count(batch)) == 8


def test_retrieval_is_measured_over_all_workers_in_the_order_of_the_data(make, shards):
    objective = make("evaluator").eval()
    held_out = objective.stream(DatasetFolder.open(shards)).held_out("train")
    batches = list(held_out.held_out_batches(rank=0, world=1))
    whole = objective.validate(batches, lambda value: [value])
    halves = [list(held_out.held_out_batches(rank=rank, world=2)) for rank in (0, 1)]
    other = []
    objective.validate(halves[1], lambda value: other.append(value) or [value])
    found = objective.validate(halves[0], lambda value: [value, *other])
    assert found == pytest.approx(whole, rel=1e-5)
    assert 0 < found["retrieval_error"] < 1
    tops = [found[f"r_precision_top{top}"] for top in (1, 2, 3)]
    assert found["retrieval_error"] == pytest.approx(1 - sum(tops) / 3)


LOSSES_OF_ALL = {
    "velocity": 3.0,
    "foot_contact": 2.0,
    "bone_length": 1.0,
    "distance_map": 4.0,
    "affinity": 5.0,
    "orientation": 0.5,
}


@pytest.mark.parametrize("network", ["denoiser", "intergen", "timotion"])
def test_losses_of_the_motion_are_those_of_what_the_prediction_decodes_to(make, shards, network):
    """Per frame of both persons, weighed by the timestep, whatever a latent frame is."""
    words = [f"train.denoiser.loss.{name}={weight}" for name, weight in LOSSES_OF_ALL.items()]
    objective = make(network, "diffusion.target=mean", "diffusion.error=latent", *words).eval()
    batch = next(objective.stream(DatasetFolder.open(shards)).held_out("val").held_out_batches())
    model = objective.model
    stride, steps = model.stride, model.diffusion.config.steps
    batch["timestep"][:, 0] = torch.linspace(0.1, 0.95, len(batch["timestep"]))
    t_B = (batch["timestep"][:, 0] * steps).long()
    mask_BT = whole_latents(batch["frames"], stride * batch["diffusion_noise"].shape[1], stride)
    mask_BL = mask_BT[:, ::stride]
    clean_BLPZ = model.encode(batch["features"], mask_BT=mask_BT)
    condition_BW = model.condition(TextStates(batch["states"], batch["mask"], batch["eot"]))
    kept_B = batch["timestep"][:, 1] >= model.diffusion.config.condition_drop
    noisy_BLPZ = model.diffusion.q_sample(clean_BLPZ, t_B, batch["diffusion_noise"])
    found_BLPZ = model.denoiser(noisy_BLPZ, t_B, condition_BW * kept_B[:, None], mask_BL)
    weight_B = (t_B <= 0.7 * steps) * steps / (0.7 * steps + 1)
    expected = geometric_sums(model.decode(found_BLPZ), model.decode(clean_BLPZ), mask_BT, weight_B, SMPL22)
    found = objective(batch)
    assert dict(objective.weights).items() >= LOSSES_OF_ALL.items()
    for name in LOSSES_OF_ALL:
        # As a mean over frames, not over latent frames.
        mean = found[name] / objective.count(batch)
        torch.testing.assert_close(mean, expected[name] / (2 * mask_BT.sum()), rtol=1e-4, atol=1e-7, msg=name)
    assert found["velocity"] > 0


def test_each_network_has_its_own_losses_unless_others_are_asked_for(make):
    own = {name: set(make(name).weights) for name in ("denoiser", "intergen", "timotion")}
    assert own["intergen"] == own["timotion"] == own["denoiser"] | set(LOSSES_OF_ALL)
    asked = make("intergen", "train.denoiser.loss.velocity=1", "train.denoiser.loss.affinity=0")
    assert set(asked.weights) == own["intergen"] - {"affinity"}
    assert (asked.weights["velocity"], asked.weights["foot_contact"]) == (1.0, 30.0)


@pytest.mark.parametrize(("prediction", "schedule"), [("v", "cosine"), ("noise", "scaled_linear")])
def test_the_loss_is_that_of_what_is_predicted_and_the_other_losses_are_of_what_it_stands_for(
    make, shards, prediction, schedule
):
    words = [f"diffusion.prediction={prediction}", f"diffusion.schedule={schedule}", "diffusion.target=mean"]
    objective = make("denoiser", "diffusion.error=latent", "diffusion.difference_loss=2", *words).eval()
    batch = next(objective.stream(DatasetFolder.open(shards)).held_out("val").held_out_batches())
    diffusion, mask_BL = objective.model.diffusion, whole_latents(batch["frames"], 60)[:, ::4]
    t_B = (batch["timestep"][:, 0] * diffusion.config.steps).long()
    clean_BLPZ = objective.model.encode(batch["features"], mask_BT=mask_BL.repeat_interleave(4, dim=1))
    noise_BLPZ = batch["diffusion_noise"]
    alpha_B111 = diffusion.alpha_bar_S[t_B].sqrt().view(-1, 1, 1, 1).float()
    sigma_B111 = (1 - alpha_B111**2).sqrt()
    right_BLPZ = noise_BLPZ if prediction == "noise" else alpha_B111 * noise_BLPZ - sigma_B111 * clean_BLPZ
    # Before it has learned anything the network says zero.
    losses, count = objective(batch), objective.count(batch)
    expected = right_BLPZ.square().mean(dim=-1)[mask_BL].sum() / count
    torch.testing.assert_close(losses["diffusion"] / count, expected, rtol=1e-4, atol=0)
    noisy_BLPZ = alpha_B111 * clean_BLPZ + sigma_B111 * noise_BLPZ
    found_BLPZ = noisy_BLPZ / alpha_B111 if prediction == "noise" else alpha_B111 * noisy_BLPZ
    expected = diffusion.difference_sum(found_BLPZ, clean_BLPZ, mask_BL)
    torch.testing.assert_close(losses["difference"], expected, rtol=1e-4, atol=0)
