from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermoe.body.features import FeatureLayout
from intermoe.body.skeletons import SMPL22, SMPLX55, Contact, PoolStage, Skeleton
from intermoe.layers.skeletal import JointLinear, SpaceTimeConv
from intermoe.networks.vae import CausalSkeletalVae, Posterior, VaeConfig

# A five-joint figure with contacts listed out of joint order, to show that no number is built in.
STICK = Skeleton(
    name="stick",
    joint_names=("hip", "left_foot", "right_foot", "chest", "head"),
    parents=(-1, 0, 0, 0, 3),
    rest_offsets=((0, 0, 0), (0.1, -0.9, 0), (-0.1, -0.9, 0), (0, 0.4, 0), (0, 0.3, 0)),
    mirror_pairs=((1, 2),),
    contacts=(Contact(2, 0.1), Contact(1, 0.1)),
    left_hip=1,
    right_hip=2,
    pools=(
        PoolStage(groups=((0, 1, 2), (0, 3), (3, 4)), edges=((0, 1), (1, 2))),
        PoolStage(groups=((0, 1), (1, 2)), edges=((0, 1),)),
    ),
)


def small(skeleton: Skeleton = SMPL22, **config: Any) -> CausalSkeletalVae:
    torch.manual_seed(0)
    return CausalSkeletalVae(VaeConfig(**({"width": 6, "latent": 4} | config)), skeleton).eval()


# --- the oracle: chunks of four frames, one after the other, each convolution keeping the two frames before ----------


class Chunked:
    """The VAE run as a loop over chunks, joint by joint, with weights taken from the module under test."""

    def __init__(self, vae: CausalSkeletalVae, skeleton: Skeleton) -> None:
        self.vae, self.skeleton = vae, skeleton
        self.before: dict[nn.Module, Tensor] = {}

    def conv(self, layer: SpaceTimeConv, x_BTJC: Tensor, edges: tuple[tuple[int, int], ...]) -> Tensor:
        joints = x_BTJC.shape[2]
        before = self.before.get(layer, torch.zeros_like(x_BTJC[:, :1]).expand(-1, 2, -1, -1))
        seen = torch.cat([before, x_BTJC], dim=1)
        self.before[layer] = seen[:, -2:]
        kernel_OItj = layer.conv.weight.transpose(2, 3)
        y_BTJC = F.conv2d(F.pad(seen.permute(0, 3, 1, 2), (1, 1)), kernel_OItj, layer.conv.bias).permute(0, 2, 3, 1)
        adjacency = torch.eye(joints)
        for a, b in edges:
            adjacency[a, b] = adjacency[b, a] = 1
        sent = layer.near(x_BTJC)
        summed = torch.stack([sent[:, :, adjacency[j] > 0].sum(2) / adjacency[j].sum() for j in range(joints)], dim=2)
        return y_BTJC + layer.own(x_BTJC) + summed

    def blocks(self, blocks: Any, x_BTJC: Tensor, edges: tuple[tuple[int, int], ...]) -> Tensor:
        for block in blocks:
            hidden = self.conv(block.first, F.silu(x_BTJC), edges)
            x_BTJC = x_BTJC + self.conv(block.second, F.silu(hidden), edges)
        return x_BTJC

    def joints_in(self, x_BTF: Tensor) -> Tensor:
        layer, layout = self.vae.joints_in, FeatureLayout.of(self.skeleton)
        touching = [contact.joint for contact in self.skeleton.contacts]
        out = []
        for j in range(self.skeleton.num_joints):
            rotation = x_BTF[..., layout.rotations][..., 6 * (j - 1) : 6 * j]
            parts = [
                x_BTF[..., layout.positions][..., 3 * j : 3 * j + 3],
                rotation if j else torch.zeros(*x_BTF.shape[:2], 6),
                x_BTF[..., layout.velocities][..., 3 * j : 3 * j + 3],
            ]
            weight = layer.first.weight_JIO[j]
            if j in touching:
                k = touching.index(j)
                parts.append(x_BTF[..., layout.contacts][..., k : k + 1])
                weight = torch.cat([weight, layer.contact_weight_KC[k : k + 1]])
            hidden = F.silu(torch.cat(parts, dim=-1) @ weight + layer.first.bias_JO[j])
            out.append(hidden @ layer.second.weight_JIO[j] + layer.second.bias_JO[j])
        return torch.stack(out, dim=2)

    def joints_out(self, x_BTJC: Tensor) -> Tensor:
        layer = self.vae.joints_out
        touching = [contact.joint for contact in self.skeleton.contacts]
        hidden = [
            F.silu(x_BTJC[:, :, j] @ layer.first.weight_JIO[j] + layer.first.bias_JO[j])
            for j in range(self.skeleton.num_joints)
        ]
        numbers = [h @ layer.second.weight_JIO[j] + layer.second.bias_JO[j] for j, h in enumerate(hidden)]
        contacts = [hidden[j] @ layer.contact_weight_KC[k] + layer.contact_bias_K[k] for k, j in enumerate(touching)]
        return torch.cat(
            [
                *(n[..., :3] for n in numbers),
                *(n[..., 9:12] for n in numbers),
                *(n[..., 3:9] for n in numbers[1:]),
                torch.stack(contacts, dim=-1),
            ],
            dim=-1,
        )

    def encode(self, x_BTF: Tensor) -> Posterior:
        self.before.clear()
        fine, coarse = self.skeleton.pools
        latents = []
        for start in range(0, x_BTF.shape[1] // 4 * 4, 4):
            x_BTJC = self.joints_in(x_BTF[:, start : start + 4])
            for down, edges, stage in zip(
                self.vae.down, (self.skeleton.edges, fine.edges), (fine, coarse), strict=True
            ):
                x_BTJC = self.blocks(down.blocks, x_BTJC, edges)
                x_BTJC = torch.stack([x_BTJC[:, :, list(group)].mean(2) for group in stage.groups], dim=2)
                x_BTJC = (x_BTJC[:, 0::2] + x_BTJC[:, 1::2]) / 2
            latents.append(x_BTJC)
        layer = self.vae.to_posterior
        numbers = torch.einsum("bljc,jco->bljo", torch.cat(latents, dim=1), layer.weight_JIO) + layer.bias_JO
        return Posterior(*numbers.chunk(2, dim=-1))

    def decode(self, z_BLNC: Tensor) -> Tensor:
        self.before.clear()
        fine, coarse = self.skeleton.pools
        frames = []
        for z_B1NC in z_BLNC.split(1, dim=1):
            x_BTJC = z_B1NC
            if isinstance(layer := self.vae.from_latent, JointLinear):
                x_BTJC = torch.einsum("bljc,jco->bljo", z_B1NC, layer.weight_JIO) + layer.bias_JO
            for up, edges, stage, joints in zip(
                self.vae.up,
                (fine.edges, self.skeleton.edges),
                (coarse, fine),
                (len(fine.groups), self.skeleton.num_joints),
                strict=True,
            ):
                copies = [
                    sum(x_BTJC[:, :, g] for g, group in enumerate(stage.groups) if j in group) for j in range(joints)
                ]
                x_BJCT = torch.stack(copies, dim=2).permute(0, 2, 3, 1)
                doubled = F.interpolate(x_BJCT.flatten(0, 1), scale_factor=2, mode="linear", align_corners=False)
                x_BTJC = doubled.unflatten(0, x_BJCT.shape[:2]).permute(0, 3, 1, 2)
                x_BTJC = self.blocks(up.blocks, x_BTJC, edges)
            frames.append(self.joints_out(x_BTJC))
        return torch.cat(frames, dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("skeleton", [SMPL22, STICK, SMPLX55], ids=lambda skeleton: skeleton.name)
@pytest.mark.parametrize("latent", [4, 6], ids=["narrower", "same_width"])
def test_one_pass_equals_a_loop_over_chunks_in_values_and_gradients(skeleton: Skeleton, latent: int):
    vae = small(skeleton, latent=latent)
    oracle = Chunked(vae, skeleton)
    x_BTF = torch.randn(2, 22, skeleton.num_features)
    actual, expected = vae.encode(x_BTF), oracle.encode(x_BTF)
    assert actual.mean_BLNC.shape == (2, 5, len(skeleton.pools[1].groups), latent)
    torch.testing.assert_close(actual.mean_BLNC, expected.mean_BLNC, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(actual.logvar_BLNC, expected.logvar_BLNC, atol=1e-5, rtol=1e-5)
    z_BLNC = torch.randn_like(actual.mean_BLNC)
    torch.testing.assert_close(vae.decode(z_BLNC), oracle.decode(z_BLNC), atol=1e-5, rtol=1e-5)

    def gradients(encode: Callable[[Tensor], Posterior], decode: Callable[[Tensor], Tensor]) -> list[Tensor]:
        x = x_BTF.clone().requires_grad_()
        posterior = encode(x)
        rebuilt = decode(posterior.sample(z_BLNC))
        loss = (rebuilt - 1).square().mean() + posterior.kl().mean()
        return list(torch.autograd.grad(loss, [x, *vae.parameters()]))

    for ours, theirs in zip(gradients(vae.encode, vae.decode), gradients(oracle.encode, oracle.decode), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-3)


# --- the published implementation ------------------------------------------------------------------------------------


def from_published(state: dict[str, Tensor], skeleton: Skeleton) -> dict[str, Tensor]:
    """Published weights under our names; what it keeps joint by joint is stacked, and kernels are (joint, time)."""
    ours: dict[str, Tensor] = {}
    touching = [contact.joint for contact in skeleton.contacts]
    for name, theirs in (("joints_in", "motion_enc"), ("joints_out", "motion_dec")):
        for place, number in (("first", 0), ("second", 2)):
            weight = [state[f"{theirs}.layers.{j}.{number}.weight"] for j in range(skeleton.num_joints)]
            bias = [state[f"{theirs}.layers.{j}.{number}.bias"] for j in range(skeleton.num_joints)]
            if (name, place) == ("joints_in", "first"):
                ours[f"{name}.contact_weight_KC"] = torch.stack([weight[j][:, 12] for j in touching])
                weight = [w[:, :12] for w in weight]
            if (name, place) == ("joints_out", "second"):
                ours[f"{name}.contact_weight_KC"] = torch.stack([weight[j][12] for j in touching])
                ours[f"{name}.contact_bias_K"] = torch.stack([bias[j][12] for j in touching])
                weight, bias = [w[:12] for w in weight], [b[:12] for b in bias]
            ours[f"{name}.{place}.weight_JIO"] = torch.stack([w.T for w in weight])
            ours[f"{name}.{place}.bias_JO"] = torch.stack(bias)
    ours["to_posterior.weight_JIO"], ours["to_posterior.bias_JO"] = state["dist.weight"], state["dist.bias"]
    for name, theirs, first in (("down", "conv_enc", 0), ("up", "conv_dec", 1)):
        for stage in (0, 1):
            for block in (0, 1):
                for place, number in (("first", 2), ("second", 5)):
                    to = f"{name}.{stage}.blocks.{block}.{place}"
                    since = f"{theirs}.layers.{stage}.{block + first}.layers.{number}"
                    for kind in ("weight", "bias"):
                        ours[f"{to}.own.{kind}"] = state[f"{since}.graph_conv.linear1.{kind}"]
                        ours[f"{to}.near.{kind}"] = state[f"{since}.graph_conv.linear2.{kind}"]
                    ours[f"{to}.conv.weight"] = state[f"{since}.temp_conv.weight"].transpose(2, 3)
                    ours[f"{to}.conv.bias"] = state[f"{since}.temp_conv.bias"]
    return ours


@torch.no_grad()
def test_equals_the_published_implementation(golden: Path):
    saved = torch.load(golden / "vae_interhuman.pt", weights_only=True)
    vae = CausalSkeletalVae(VaeConfig(width=32, latent=32), SMPL22).eval()
    vae.load_state_dict(from_published(saved["state_dict"], SMPL22))
    derived = "adj_matrix", "skeleton_pool", "skeleton_unpool"
    published = sum(value.numel() for key, value in saved["state_dict"].items() if not key.endswith(derived))
    assert sum(parameter.numel() for parameter in vae.parameters()) == published

    def check(actual: Tensor, name: str) -> None:
        torch.testing.assert_close(actual, saved[name], atol=1e-5, rtol=0)

    check(vae.joints_in(saved["x"]).transpose(1, 2), "motion_enc_out")
    posterior = vae.encode(saved["x"])
    check(posterior.mean_BLNC, "mu")
    check(posterior.logvar_BLNC, "logvar")
    check(posterior.kl().mean(), "loss_kl")
    check(vae.decode(saved["z_in"]), "dec")
    check(vae.decode(posterior.mean_BLNC), "rec_from_mu")


def test_the_papers_size_has_a_million_parameters():
    vae = CausalSkeletalVae(VaeConfig(), SMPL22)
    assert sum(parameter.numel() for parameter in vae.parameters()) == pytest.approx(1.0e6, rel=0.05)


# --- causality, padding ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_later_frames_change_no_earlier_latent():
    vae = small()
    x_BTF = torch.randn(2, 24, 262)
    for t in (0, 5, 8, 23):
        changed = x_BTF.clone()
        changed[:, t:] = torch.randn_like(changed[:, t:])
        before, after = vae.encode(x_BTF), vae.encode(changed)
        same = t // 4
        torch.testing.assert_close(after.mean_BLNC[:, :same], before.mean_BLNC[:, :same], atol=1e-6, rtol=0)
        torch.testing.assert_close(after.logvar_BLNC[:, :same], before.logvar_BLNC[:, :same], atol=1e-6, rtol=0)
        assert (after.mean_BLNC[:, same:] != before.mean_BLNC[:, same:]).any()


@torch.no_grad()
def test_later_latents_change_no_earlier_frame():
    vae = small()
    z_BLNC = torch.randn(2, 6, 7, 4)
    changed = z_BLNC.clone()
    changed[:, 3:] += 1
    before, after = vae.decode(z_BLNC), vae.decode(changed)
    torch.testing.assert_close(after[:, :12], before[:, :12], atol=1e-6, rtol=0)
    assert (after[:, 12] != before[:, 12]).any()


@torch.no_grad()
def test_padding_changes_no_valid_latent():
    vae = small()
    x_BTF = torch.randn(1, 18, 262)
    alone = vae.encode(x_BTF)
    padded = vae.encode(torch.cat([F.pad(x_BTF, (0, 0, 0, 14)), torch.randn(2, 32, 262)]))
    torch.testing.assert_close(padded.mean_BLNC[:1, :4], alone.mean_BLNC, atol=1e-6, rtol=0)
    torch.testing.assert_close(padded.logvar_BLNC[:1, :4], alone.logvar_BLNC, atol=1e-6, rtol=0)


def test_too_few_frames_are_refused():
    with pytest.raises(ValueError, match="3 frames"):
        small().encode(torch.zeros(1, 3, 262))


def test_a_skeleton_without_two_pools_is_refused():
    with pytest.raises(ValueError, match="1 pooling stages"):
        small(replace(STICK, pools=STICK.pools[:1]))
