from collections.abc import Iterator

import torch
from torch import Tensor

from intermoe.body.features import FeatureLayout, Normaliser, joints_from_features
from intermoe.body.skeletons import HUMANML22, SMPL22
from intermoe.networks.vae import Posterior, VaeConfig
from intermoe.networks.vae_losses import VaeLossConfig, vae_loss_counts, vae_losses


def test_posterior_samples_and_diverges_as_a_normal_distribution():
    torch.manual_seed(0)
    posterior = Posterior(torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4))
    ours = torch.distributions.Normal(posterior.mean_BLNC, (posterior.logvar_BLNC / 2).exp())
    unit = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(posterior.kl(), torch.distributions.kl_divergence(ours, unit))
    noise = torch.randn(1, 2, 3, 4)
    torch.testing.assert_close(posterior.sample(noise), ours.mean + noise * ours.stddev)


def metres_per_unit() -> Normaliser:
    return Normaliser.from_moments(torch.zeros(SMPL22.num_features), torch.linspace(0.1, 2, SMPL22.num_features))


def loss_batch(config: VaeConfig) -> tuple[Tensor, Tensor, Posterior, Tensor]:
    torch.manual_seed(1)
    latents = 3, 4, 7, config.latent
    posterior = Posterior(torch.randn(latents), torch.randn(latents))
    x_BTF, rebuilt_BTF = torch.randn(3, 18, SMPL22.num_features), 2 * torch.randn(3, 16, SMPL22.num_features)
    # Whole windows, one that ends within its third latent frame, one that is over before its first latent frame is.
    mask_BT = torch.arange(18) < torch.tensor([18, 11, 2])[:, None]
    return x_BTF, rebuilt_BTF, posterior, mask_BT


def distance(a: Tensor, b: Tensor) -> Tensor:
    error = (a - b).abs()
    return torch.where(error < 0.1, 5 * error**2, error - 0.05)


def joints_in_metres(
    x_BTF: Tensor, rebuilt_BTF: Tensor, valid: list[tuple[int, int]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """True and rebuilt joints of the valid frames, sample by sample."""
    normaliser = metres_per_unit()
    for b, frames in valid:
        true_TF, actual_TF = (normaliser.denormalise(features[b, :frames]) for features in (x_BTF, rebuilt_BTF))
        yield joints_from_features(true_TF, SMPL22), joints_from_features(actual_TF, SMPL22)


def bone_distance(x_BTF: Tensor, rebuilt_BTF: Tensor, valid: list[tuple[int, int]]) -> Tensor:
    """Bone by bone, from the joints in metres."""
    total = torch.zeros(())
    for true_TJ3, actual_TJ3 in joints_in_metres(x_BTF, rebuilt_BTF, valid):
        for parent, joint in SMPL22.edges:
            true, actual = (position[:, joint] - position[:, parent] for position in (true_TJ3, actual_TJ3))
            total = total + distance(actual * 10, true * 10).sum()
    return total


def step_distance(x_BTF: Tensor, rebuilt_BTF: Tensor, valid: list[tuple[int, int]]) -> Tensor:
    """Step by step, from the joints in metres."""
    total = torch.zeros(())
    for true_TJ3, actual_TJ3 in joints_in_metres(x_BTF, rebuilt_BTF, valid):
        for t in range(len(true_TJ3) - 1):
            true, actual = (position[t + 1] - position[t] for position in (true_TJ3, actual_TJ3))
            total = total + distance(actual * 10, true * 10).sum()
    return total


def end_distance(x_BTF: Tensor, rebuilt_BTF: Tensor, valid: list[tuple[int, int]]) -> Tensor:
    """Joint by joint of those at the ends of the limbs."""
    total = torch.zeros(())
    for true_TJ3, actual_TJ3 in joints_in_metres(x_BTF, rebuilt_BTF, valid):
        for name in ("left_foot", "right_foot", "head", "left_wrist", "right_wrist"):
            joint = SMPL22.index(name)
            total = total + distance(actual_TJ3[:, joint] * 10, true_TJ3[:, joint] * 10).sum()
    return total


def test_losses_are_sums_over_whole_valid_latents_with_their_counts():
    config = VaeConfig(width=6, latent=4)
    x_BTF, rebuilt_BTF, posterior, mask_BT = loss_batch(config)
    sums, counts = (
        vae_losses(x_BTF, rebuilt_BTF, posterior, mask_BT, normaliser=metres_per_unit(), skeleton=SMPL22),
        vae_loss_counts(mask_BT, SMPL22, config),
    )
    valid = [(0, 16), (1, 8)]
    layout = FeatureLayout.of(SMPL22)
    groups = {
        "reconstruction": slice(0, SMPL22.num_features),
        "position": layout.positions,
        "velocity": layout.velocities,
        "rotation": layout.rotations,
    }
    for name, group in groups.items():
        expected = torch.cat([distance(rebuilt_BTF[b, :n, group], x_BTF[b, :n, group]) for b, n in valid])
        torch.testing.assert_close(sums[name], expected.sum())
        assert counts[name] == expected.numel()
    for name, in_metres in {"bone": bone_distance, "displacement": step_distance}.items():
        torch.testing.assert_close(sums[name], in_metres(x_BTF, rebuilt_BTF, valid))
        assert counts[name] == counts["position"]
    torch.testing.assert_close(sums["end_effector"], end_distance(x_BTF, rebuilt_BTF, valid))
    assert counts["end_effector"] == (16 + 8) * 5 * 3
    squared = [(rebuilt_BTF - x_BTF[:, :16])[b, :n, layout.rotations].square() for b, n in valid]
    torch.testing.assert_close(sums["rotation_squared"], torch.cat(squared).sum())
    assert counts["rotation_squared"] == counts["rotation"]
    kl = torch.cat([posterior.kl()[b, : n // 4] for b, n in valid])
    torch.testing.assert_close(sums["kl"], kl.sum())
    assert counts["kl"] == kl.numel()
    assert set(sums) == set(counts) == set(VaeLossConfig.model_fields)


def test_losses_of_features_in_the_heading_of_the_root():
    """Positions are of all joints but the root, which stands in its own frame at (0, height, 0)."""
    torch.manual_seed(2)
    x_BTF, rebuilt_BTF, std_F = torch.randn(1, 9, 263), 2 * torch.randn(1, 8, 263), torch.linspace(0.1, 2, 263)
    posterior, mask_BT = Posterior(torch.randn(1, 2, 7, 4), torch.randn(1, 2, 7, 4)), torch.ones(1, 9).bool()
    normaliser = Normaliser.from_moments(torch.zeros(263), std_F)
    sums = vae_losses(x_BTF, rebuilt_BTF, posterior, mask_BT, normaliser=normaliser, skeleton=HUMANML22)
    counts = vae_loss_counts(mask_BT, HUMANML22, VaeConfig(width=6, latent=4))
    expected = dict.fromkeys(VaeLossConfig.model_fields, torch.zeros(()))
    before: list[Tensor] | None = None
    for true, rebuilt in zip(x_BTF[0, :8], rebuilt_BTF[0], strict=True):
        for name, part in (
            ("reconstruction", slice(0, 263)),
            ("position", slice(4, 67)),
            ("rotation", slice(67, 193)),
            ("velocity", slice(193, 259)),
        ):
            expected[name] = expected[name] + distance(rebuilt[part], true[part]).sum()
        expected["rotation_squared"] = expected["rotation_squared"] + (rebuilt - true)[67:193].square().sum()
        off = (rebuilt - true) * std_F * 10
        joints = [torch.stack([torch.zeros(()), off[3], torch.zeros(())]), *off[4:67].split(3)]
        still = torch.zeros(3)
        for parent, joint in HUMANML22.edges:
            expected["bone"] = expected["bone"] + distance(joints[joint] - joints[parent], still).sum()
        for joint in HUMANML22.end_effectors:
            expected["end_effector"] = expected["end_effector"] + distance(joints[joint], still).sum()
        for old, new in zip(before or [], joints if before else [], strict=True):
            expected["displacement"] = expected["displacement"] + distance(new - old, still).sum()
        before = joints
    expected["kl"] = posterior.kl().sum()
    for name, total in expected.items():
        torch.testing.assert_close(sums[name], total)
    numbers = {"reconstruction": 263, "position": 63, "velocity": 66, "rotation": 126, "rotation_squared": 126}
    numbers |= {"bone": 66, "displacement": 66, "end_effector": 15}
    assert {name: int(count) for name, count in counts.items()} == {
        "kl": 2 * 7 * 4,
        **{name: 8 * number for name, number in numbers.items()},
    }


def test_distances_are_rounded_off_below_the_error_that_is_given():
    config = VaeConfig(width=6, latent=4)
    x_BTF, rebuilt_BTF, posterior, mask_BT = loss_batch(config)
    sums = vae_losses(
        x_BTF, rebuilt_BTF, posterior, mask_BT, normaliser=metres_per_unit(), skeleton=SMPL22, rounded_below=1.0
    )
    error = torch.cat([(rebuilt_BTF - x_BTF[:, :16])[b, :n] for b, n in [(0, 16), (1, 8)]]).abs()
    torch.testing.assert_close(sums["reconstruction"], torch.where(error < 1, error**2 / 2, error - 0.5).sum())


def test_losses_of_parts_add_up_to_those_of_the_whole():
    config = VaeConfig(width=6, latent=4)
    x_BTF, rebuilt_BTF, posterior, mask_BT = loss_batch(config)
    whole = vae_losses(x_BTF, rebuilt_BTF, posterior, mask_BT, normaliser=metres_per_unit(), skeleton=SMPL22)
    parts = [
        vae_losses(
            x_BTF[b],
            rebuilt_BTF[b],
            Posterior(posterior.mean_BLNC[b], posterior.logvar_BLNC[b]),
            mask_BT[b],
            normaliser=metres_per_unit(),
            skeleton=SMPL22,
        )
        for b in (slice(0, 1), slice(1, 3))
    ]
    for name in VaeLossConfig.model_fields:
        torch.testing.assert_close(whole[name], parts[0][name] + parts[1][name])


def test_what_is_not_valid_has_no_gradient_even_where_it_is_not_a_number():
    config = VaeConfig(width=6, latent=4)
    x_BTF, rebuilt_BTF, posterior, mask_BT = loss_batch(config)
    rebuilt_BTF[2] = torch.nan
    rebuilt_BTF.requires_grad_()
    sums = vae_losses(x_BTF, rebuilt_BTF, posterior, mask_BT, normaliser=metres_per_unit(), skeleton=SMPL22)
    (gradient,) = torch.autograd.grad(sums["position"] + sums["displacement"] + sums["reconstruction"], rebuilt_BTF)
    assert (gradient[1, 8:] == 0).all()
    assert (gradient[2] == 0).all()
    assert (gradient[0] != 0).all()
    assert sums["reconstruction"].isfinite()


def test_published_weights_are_the_defaults_and_losses_of_ours_are_off():
    weights = {"reconstruction": 1.0, "kl": 0.02, "position": 0.5, "velocity": 0.5, "rotation": 0.5}
    weights |= {"bone": 0.0, "displacement": 0.0, "end_effector": 0.0, "rotation_squared": 0.0}
    assert VaeLossConfig().model_dump() == weights
