"""SALAD's VAE against a plain written-out form, and what padding and company must not change.

Legend: B batch, T frames, L latent frames, F features, J joints, N latent joints, C channels.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from intermoe.body.skeletons import HUMANML22, SMPL22, Contact, PoolStage, Skeleton
from intermoe.layers.skeletal import JointLinear, ResidualBlock, SpaceTimeConv
from intermoe.networks.salad_vae import SaladVae, features_of_joints
from intermoe.networks.vae import Posterior, VaeConfig

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
    num_persons=1,
    features="heading",
)
Edges = tuple[tuple[int, int], ...]


def small(skeleton: Skeleton = HUMANML22, latent: int = 6) -> SaladVae:
    torch.manual_seed(0)
    return SaladVae(VaeConfig(width=6, latent=latent), skeleton).eval()


# --- the plain form: one motion, joint by joint -----------------------------------------------------------------------


def conv(layer: SpaceTimeConv, x_JTC: Tensor, edges: Edges) -> Tensor:
    rows = []
    for joint, own_TC in enumerate(x_JTC):
        near = {joint} | {b for a, b in edges if a == joint} | {a for a, b in edges if b == joint}
        over_skeleton = layer.own(own_TC) + torch.stack([layer.near(x_JTC[other]) for other in near]).mean(0)
        over_time = F.conv1d(own_TC.T, layer.conv.weight[:, :, 0], layer.conv.bias, padding=1).T
        rows.append(over_skeleton + over_time)
    return torch.stack(rows)


def block(layer: ResidualBlock, x_JTC: Tensor, edges: Edges) -> Tensor:
    return x_JTC + conv(layer.second, F.gelu(conv(layer.first, F.gelu(x_JTC), edges)), edges)


def numbers_of(x_TF: Tensor, joint: int, skeleton: Skeleton) -> Tensor:
    """A joint's own numbers of HumanML3D's: root 4, positions 3R, rotations 6R, velocities 3J, contacts."""
    others = skeleton.num_joints - 1
    root, positions, rotations, velocities, contacts = x_TF.split(
        [4, 3 * others, 6 * others, 3 * others + 3, len(skeleton.contacts)], dim=1
    )
    if joint == 0:
        return torch.cat([root, velocities[:, :3]], dim=1)
    touching = [contacts[:, k : k + 1] for k, contact in enumerate(skeleton.contacts) if contact.joint == joint]
    place = slice(3 * joint - 3, 3 * joint)
    rotation = rotations[:, 6 * joint - 6 : 6 * joint]
    return torch.cat([positions[:, place], rotation, velocities[:, 3 * joint : 3 * joint + 3], *touching], dim=1)


def encode(vae: SaladVae, x_TF: Tensor, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    x_TF = x_TF[: len(x_TF) // 4 * 4]
    enter, rows = vae.joints_in, []
    for joint, own in enumerate(features_of_joints(skeleton)):
        torch.testing.assert_close(x_TF[:, own], numbers_of(x_TF, joint, skeleton), atol=0, rtol=0)
        hidden = F.gelu(x_TF[:, own] @ enter.weight_FC[own] + enter.bias_JC[joint])
        rows.append(hidden @ enter.second.weight_JIO[joint] + enter.second.bias_JO[joint])
    x_JTC, edges = torch.stack(rows), skeleton.edges
    for down, stage in zip(vae.down, skeleton.pools, strict=True):
        for layer in down.blocks:
            x_JTC = block(layer, x_JTC, edges)
        x_JTC = torch.stack([x_JTC[list(group)].mean(0) for group in stage.groups])
        x_JTC, edges = (x_JTC[:, 0::2] + x_JTC[:, 1::2]) / 2, stage.edges
    last = vae.to_posterior
    made = torch.stack([x @ w + b for x, w, b in zip(x_JTC, last.weight_JIO, last.bias_JO, strict=True)], dim=1)
    mean, logvar = made.chunk(2, dim=-1)
    return mean, logvar


def decode(vae: SaladVae, z_LNC: Tensor, skeleton: Skeleton) -> Tensor:
    x_JTC = z_LNC.transpose(0, 1)
    if isinstance(first := vae.from_latent, JointLinear):
        x_JTC = torch.stack([x @ w + b for x, w, b in zip(x_JTC, first.weight_JIO, first.bias_JO, strict=True)])
    fine, coarse = skeleton.pools
    for up, stage, joints, edges in zip(
        vae.up, (coarse, fine), (len(fine.groups), skeleton.num_joints), (fine.edges, skeleton.edges), strict=True
    ):
        holders = [[g for g, group in enumerate(stage.groups) if j in group] for j in range(joints)]
        drawn = F.interpolate(
            torch.stack([x_JTC[held].sum(0) for held in holders]).mT, scale_factor=2, mode="linear", align_corners=False
        )
        x_JTC = drawn.mT
        for layer in up.blocks:
            x_JTC = block(layer, x_JTC, edges)
    leave, made = vae.joints_out, torch.zeros(x_JTC.shape[1], skeleton.num_features)
    for joint, own in enumerate(features_of_joints(skeleton)):
        hidden = F.gelu(x_JTC[joint] @ leave.first.weight_JIO[joint] + leave.first.bias_JO[joint])
        made[:, own] = hidden @ leave.weight_FC[own].T + leave.bias_F[own]
    return made


@pytest.mark.parametrize("skeleton", [HUMANML22, STICK], ids=lambda skeleton: skeleton.name)
@pytest.mark.parametrize("latent", [6, 4], ids=["same_width", "narrower"])
def test_values_and_gradients_are_those_of_a_plain_form_of_each_motion_alone(skeleton: Skeleton, latent: int):
    vae = small(skeleton, latent)
    frames = [14, 9, 4]
    x_BTF = torch.randn(3, 14, skeleton.num_features)
    mask_BT = torch.arange(14) < torch.tensor(frames)[:, None]
    z_BLNC = torch.randn(3, 3, len(skeleton.pools[1].groups), latent)
    mask_BL = torch.arange(3) < torch.tensor([3, 2, 1])[:, None]

    def fast(x: Tensor, z: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        posterior, decoded = vae.encode(x, mask_BT), vae.decode(z, mask_BL)
        made = zip(posterior.mean_BLNC, posterior.logvar_BLNC, decoded, strict=True)
        return [(m[: n // 4], v[: n // 4], d[: n // 4 * 4]) for (m, v, d), n in zip(made, frames, strict=True)]

    def slow(x: Tensor, z: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [
            (*encode(vae, x[row, :n], skeleton), decode(vae, z[row, : n // 4], skeleton))
            for row, n in enumerate(frames)
        ]

    for ours, theirs in zip(fast(x_BTF, z_BLNC), slow(x_BTF, z_BLNC), strict=True):
        for actual, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)

    def gradients(run: Callable[[Tensor, Tensor], list[tuple[Tensor, Tensor, Tensor]]]) -> list[Tensor]:
        x, z = x_BTF.clone().requires_grad_(), z_BLNC.clone().requires_grad_()
        loss = torch.stack([part.square().sum() for parts in run(x, z) for part in parts]).sum() / 100
        return list(torch.autograd.grad(loss, [x, z, *vae.parameters()]))

    for actual, expected in zip(gradients(fast), gradients(slow), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-3)


def test_each_feature_belongs_to_one_joint():
    joints = features_of_joints(HUMANML22)
    assert sorted(feature for own in joints for feature in own) == list(range(263))
    assert [len(own) for own in joints] == [7, *(13 if joint in (7, 8, 10, 11) else 12 for joint in range(1, 22))]
    # The left foot: its position, rotation and velocity, and the second of the contacts.
    position, rotation, velocity = range(4 + 27, 4 + 30), range(67 + 54, 67 + 60), range(193 + 30, 193 + 33)
    assert joints[10] == [*position, *rotation, *velocity, 260]
    assert [len(own) for own in features_of_joints(SMPL22)] == [6, *(len(own) for own in joints[1:])]


def test_stages_are_the_bodys_graphs():
    vae = small()
    graphs = [HUMANML22.edges, *(stage.edges for stage in HUMANML22.pools)]
    assert [len(stage.groups) for stage in HUMANML22.pools] == [12, 7]
    for stage, number in (*zip(vae.down, (0, 1), strict=True), *zip(vae.up, (1, 0), strict=True)):
        for made in stage.blocks:
            touches = made.first.near_JJ > 0
            expected = {pair for a, b in graphs[number] for pair in ((a, b), (b, a))}
            assert {(a, b) for a, b in touches.nonzero().tolist() if a != b} == expected
            torch.testing.assert_close(made.second.near_JJ, made.first.near_JJ)


def test_the_published_size_is_that_of_a_closed_form():
    vae = SaladVae(VaeConfig(width=32, latent=32), HUMANML22)

    def affine(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    conv = 2 * affine(32, 32) + affine(3 * 32, 32)
    enter = affine(7, 32) + 4 * affine(13, 32) + 17 * affine(12, 32) + 22 * affine(32, 32)
    leave = affine(32, 7) + 4 * affine(32, 13) + 17 * affine(32, 12) + 22 * affine(32, 32)
    expected = 2 * 2 * 2 * 2 * conv + enter + leave + 7 * affine(32, 64)
    assert sum(parameter.numel() for parameter in vae.parameters()) == expected == 162_503


# --- what must not change it ------------------------------------------------------------------------------------------


def padded(x: Tensor, length: int, padding: Tensor | float) -> Tensor:
    """The motions with something in the frames beyond them."""
    longer = F.pad(x, (0, 0) * (x.dim() - 2) + (0, length - x.shape[1]))
    longer[:, x.shape[1] :] = padding
    return longer


@torch.no_grad()
@pytest.mark.parametrize("frames", [16, 18, 19])
@pytest.mark.parametrize("padding", [0.0, 3.0, 1e4])
def test_what_lies_beyond_a_motion_changes_nothing_of_it(frames: int, padding: float):
    vae = small()
    x_BTF = torch.randn(1, frames, 263)
    alone: Posterior = vae.encode(x_BTF)
    company = torch.cat([padded(x_BTF, 32, padding), torch.randn(1, 32, 263)])
    mask_BT = torch.arange(32) < torch.tensor([frames, 32])[:, None]
    together = vae.encode(company, mask_BT)
    torch.testing.assert_close(together.mean_BLNC[:1, :4], alone.mean_BLNC, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.logvar_BLNC[:1, :4], alone.logvar_BLNC, atol=1e-5, rtol=0)
    z_BLNC = torch.randn(1, 4, 7, 6)
    latents = torch.cat([padded(z_BLNC, 8, padding), torch.randn(1, 8, 7, 6)])
    decoded = vae.decode(latents, torch.arange(8) < torch.tensor([4, 8])[:, None])
    torch.testing.assert_close(decoded[:1, :16], vae.decode(z_BLNC), atol=1e-5, rtol=0)


@torch.no_grad()
def test_zeros_without_a_mask_are_not_as_the_border_is():
    """Which is why there are masks: biases make numbers of zeros within."""
    vae = small()
    x_BTF, z_BLNC = torch.randn(1, 16, 263), torch.randn(1, 4, 7, 6)
    off = vae.encode(padded(x_BTF, 32, 0.0)).mean_BLNC[:, :4] - vae.encode(x_BTF).mean_BLNC
    assert off[:, -1].abs().max() > 1e-3
    assert (vae.decode(padded(z_BLNC, 8, 0.0))[:, :16] - vae.decode(z_BLNC))[:, -1].abs().max() > 1e-3


@torch.no_grad()
def test_a_mask_of_valid_frames_alone_is_none():
    vae = small()
    x_BTF, z_BLNC = torch.randn(2, 16, 263), torch.randn(2, 4, 7, 6)
    masked = vae.encode(x_BTF, torch.ones(2, 16, dtype=torch.bool))
    torch.testing.assert_close(masked.mean_BLNC, vae.encode(x_BTF).mean_BLNC, atol=0, rtol=0)
    decoded = vae.decode(z_BLNC, torch.ones(2, 4, dtype=torch.bool))
    torch.testing.assert_close(decoded, vae.decode(z_BLNC), atol=0, rtol=0)


def test_too_few_frames_are_refused():
    with pytest.raises(ValueError, match="3 frames are fewer than the 4 of one latent frame"):
        small().encode(torch.zeros(1, 3, 263))


def test_a_skeleton_without_two_pools_is_refused():
    with pytest.raises(ValueError, match="stick has 1 pooling stages; a stride of 4 takes 2"):
        small(replace(STICK, pools=STICK.pools[:1]))
