import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from intermoe.body.feature_layout import FeatureLayout
from intermoe.body.features import (
    joints_from_features,
    mirror_motion,
    motion_features,
    rotations_from_features,
)
from intermoe.body.heading_features import heading_features
from intermoe.body.kinematics import forward_kinematics
from intermoe.body.skeletons import HUMANML22, SKELETONS, SMPL22, SMPLX55, Contact, PoolStage, Skeleton, skeleton_named
from intermoe.errors import UserError
from intermoe.networks.vae import CausalSkeletalVae, VaeConfig

# Groups of joints that make two stages of pooling for a body of 21 joints: five chains from the root.
_LIMBS = ((0, 1, 2, 3, 4), (3, 5, 6, 7), (3, 8, 9, 10), (0, 11, 12, 13, 14, 15), (0, 16, 17, 18, 19, 20))
# fmt: off
# A body with the joints of KIT's: a spine, two arms of three joints, two legs of five. It stands in no table.
KIT21 = Skeleton(
    name="kit21",
    joint_names=("root", "bp", "bt", "bln", "bun", "ls", "le", "lw", "rs", "re", "rw", "lh", "lk", "la", "lmrot", "lf",
                 "rh", "rk", "ra", "rmrot", "rf"),
    parents=(-1, 0, 1, 2, 3, 3, 5, 6, 3, 8, 9, 0, 11, 12, 13, 14, 0, 16, 17, 18, 19),
    rest_offsets=((0, 0, 0), (0, 0.1, 0), (0, 0.2, 0), (0, 0.2, 0), (0, 0.1, 0),
                  (0.2, 0, 0), (0.3, 0, 0), (0.25, 0, 0), (-0.2, 0, 0), (-0.3, 0, 0), (-0.25, 0, 0),
                  (0.1, -0.05, 0), (0, -0.4, 0), (0, -0.4, 0), (0, -0.05, 0.05), (0, -0.02, 0.1),
                  (-0.1, -0.05, 0), (0, -0.4, 0), (0, -0.4, 0), (0, -0.05, 0.05), (0, -0.02, 0.1)),
    mirror_pairs=((5, 8), (6, 9), (7, 10), (11, 16), (12, 17), (13, 18), (14, 19), (15, 20)),
    contacts=(Contact(13, 0.12), Contact(15, 0.05), Contact(18, 0.12), Contact(20, 0.05)),
    left_hip=11,
    right_hip=16,
    pools=(
        PoolStage(groups=_LIMBS, edges=((0, 1), (0, 2), (0, 3), (0, 4))),
        PoolStage(groups=((0, 1, 2), (0, 3, 4)), edges=((0, 1),)),
    ),
)
# fmt: on


def connected(nodes: Sequence[int], edges: Sequence[tuple[int, int]]) -> bool:
    reached, waiting = set(), {nodes[0]}
    while waiting:
        node = waiting.pop()
        reached.add(node)
        waiting |= {b for pair in edges for a, b in (pair, pair[::-1]) if a == node and b in nodes} - reached
    return reached == set(nodes)


@pytest.mark.parametrize("skeleton", [*SKELETONS.values(), KIT21], ids=lambda skeleton: skeleton.name)
class TestEverySkeleton:
    def test_is_one_tree_with_its_root_first_and_parents_before_children(self, skeleton):
        count = skeleton.num_joints
        assert len(skeleton.joint_names) == len(skeleton.rest_offsets) == count
        assert len(set(skeleton.joint_names)) == count
        assert skeleton.parents[0] == -1
        assert all(0 <= parent < joint for joint, parent in enumerate(skeleton.parents) if joint)
        assert skeleton.rest_offsets[0] == (0, 0, 0)
        assert connected(range(count), skeleton.edges)
        assert len(skeleton.edges) == count - 1

    def test_mirror_pairs_are_alike(self, skeleton):
        seen = [joint for pair in skeleton.mirror_pairs for joint in pair]
        assert len(seen) == len(set(seen))
        mirrored = skeleton.mirrored
        assert [mirrored[other] for other in mirrored] == list(range(skeleton.num_joints))
        for joint, other in enumerate(mirrored):
            x, y, z = skeleton.rest_offsets[joint]
            assert skeleton.rest_offsets[other] == (-x, y, z), skeleton.joint_names[joint]
            if joint:
                assert skeleton.parents[other] == mirrored[skeleton.parents[joint]]
        heights = {contact.joint: contact.height for contact in skeleton.contacts}
        assert {mirrored[joint]: height for joint, height in heights.items()} == heights

    def test_left_is_plus_x_and_the_body_stands_upright(self, skeleton):
        place = torch.zeros(skeleton.num_joints, 3)
        for joint, parent in enumerate(skeleton.parents[1:], start=1):
            place[joint] = place[parent] + torch.tensor(skeleton.rest_offsets[joint])
        assert place[skeleton.left_hip, 0] > 0 > place[skeleton.right_hip, 0]
        assert skeleton.mirrored[skeleton.left_hip] == skeleton.right_hip
        lowest = int(place[:, 1].argmin())
        assert lowest in {contact.joint for contact in skeleton.contacts}
        assert 1.4 < place[:, 1].max() - place[:, 1].min() < 1.9
        feet = [contact.joint for contact in skeleton.contacts]
        assert place[feet, 2].max() > 0.05, "the toes point to +z"

    def test_pools_cover_every_joint_with_connected_groups_and_graphs(self, skeleton):
        count, edges = skeleton.num_joints, skeleton.edges
        for stage in skeleton.pools:
            assert {joint for group in stage.groups for joint in group} == set(range(count))
            for group in stage.groups:
                # The fingers of a hand hang on one wrist, which is in another group.
                above = {parent for parent, joint in edges if joint in group and parent not in group}
                assert connected(group, edges) or (len(above) == 1 and connected([*above, *group], edges))
            count, edges = len(stage.groups), stage.edges
            assert all(0 <= a < count and 0 <= b < count and a != b for a, b in edges)
            assert connected(range(count), edges)

    def test_is_mirrored_there_and_back(self, skeleton):
        position, local = posed(skeleton)
        twice = mirror_motion(*mirror_motion(position, local, skeleton), skeleton)
        torch.testing.assert_close(twice[0], position)
        torch.testing.assert_close(twice[1], local)

    def test_counts_its_features(self, skeleton):
        size = {"world": 12 * skeleton.num_joints - 6, "heading": 12 * skeleton.num_joints - 5}[skeleton.features]
        layout = FeatureLayout.of(skeleton)
        assert layout.size == size + len(skeleton.contacts) == skeleton.num_features
        parts = sorted((getattr(layout, field.name) for field in fields(layout)), key=lambda part: part.start)
        assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]


def posed(skeleton):
    """Joints [1, 9, P, J, 3] and local rotations [1, 9, P, J - 1, 6] of bodies that turn every joint a little."""
    rng = torch.Generator().manual_seed(0)
    rotation = torch.eye(3) + 0.1 * torch.randn(1, 9, skeleton.num_persons, skeleton.num_joints, 3, 3, generator=rng)
    rotation = torch.linalg.qr(rotation).Q
    rotation = rotation * torch.linalg.det(rotation)[..., None, None]
    offsets = torch.tensor(skeleton.rest_offsets, dtype=torch.float32)
    root = torch.zeros(1, 9, skeleton.num_persons, 3) + torch.tensor([0.0, 0.9, 0.0])
    position, _ = forward_kinematics(root, rotation, offsets, skeleton.parents)
    return position, rotation[..., 1:, :, :2].flatten(-2)


@pytest.mark.parametrize("skeleton", [SMPL22, SMPLX55, KIT21], ids=lambda skeleton: skeleton.name)
class TestEverySkeletonOfTwoPersons:
    def test_goes_through_features_and_the_vae(self, skeleton):
        position, local = posed(skeleton)
        features, frames = motion_features(position, local, torch.tensor([9]), skeleton)
        assert features.shape == (1, 8, 2, skeleton.num_features)
        assert frames.tolist() == [8]
        torch.testing.assert_close(rotations_from_features(features, skeleton), local[:, :8])
        # The canonical frame moves bodies, it does not change them.
        before, after = position[:, :8], joints_from_features(features, skeleton)
        for first, second in ((0, skeleton.num_joints - 1), (3, 7)):
            torch.testing.assert_close(
                (after[..., first, :] - after[..., second, :]).norm(dim=-1),
                (before[..., first, :] - before[..., second, :]).norm(dim=-1),
            )
        vae = CausalSkeletalVae(VaeConfig(width=8, latent=4, blocks=1), skeleton).eval()
        posterior = vae.encode(features[:, :, 0])
        assert posterior.mean_BLNC.shape == (1, 2, len(skeleton.pools[-1].groups), 4)
        assert vae.decode(posterior.mean_BLNC).shape == (1, 8, skeleton.num_features)


def test_humanml22_goes_through_features_and_mirroring():
    """One person by its heading: the mirrored motion's features are the motion's, mirrored number by number."""
    assert (HUMANML22.num_persons, HUMANML22.fps, HUMANML22.num_features) == (1, 20, 263)
    assert {kind.name for kind in SKELETONS.values() if kind.features == "world"} == {"smpl22", "smplx55"}
    position, local = posed(HUMANML22)
    features = heading_features(position[0, :, 0], HUMANML22)
    mirrored = heading_features(mirror_motion(position, local, HUMANML22)[0][0, :, 0], HUMANML22)
    assert features.shape == (8, 263)
    joints, others = joints_from_features(features, HUMANML22), joints_from_features(mirrored, HUMANML22)
    order = list(HUMANML22.mirrored)
    torch.testing.assert_close(others, joints[:, order] * torch.tensor([-1.0, 1, 1]), atol=1e-5, rtol=0)
    layout = FeatureLayout.of(HUMANML22)
    torch.testing.assert_close(mirrored[:, layout.root], features[:, layout.root] * torch.tensor([-1.0, -1, 1, 1]))
    velocity, other = (x[:, layout.velocities].unflatten(-1, (22, 3)) for x in (features, mirrored))
    torch.testing.assert_close(other, velocity[:, order] * torch.tensor([-1.0, 1, 1]), atol=1e-5, rtol=0)
    assert torch.equal(mirrored[:, layout.contacts], features[:, layout.contacts][:, [2, 3, 0, 1]])


def test_smpl22_is_what_interhuman_has():
    assert (SMPL22.num_joints, SMPL22.num_features) == (22, 262)
    left, right = (1, 4, 7, 10, 13, 16, 18, 20), (2, 5, 8, 11, 14, 17, 19, 21)
    assert SMPL22.mirror_pairs == tuple(zip(left, right, strict=True))
    assert [(contact.joint, contact.height) for contact in SMPL22.contacts] == [
        (7, 0.12),
        (10, 0.05),
        (8, 0.12),
        (11, 0.05),
    ]
    assert [len(stage.groups) for stage in SMPL22.pools] == [12, 7]
    assert [len(stage.edges) for stage in SMPL22.pools] == [11, 6]
    assert SMPL22.index("left_ankle") == 7
    for name, other in zip(SMPL22.joint_names, SMPL22.mirrored, strict=True):
        assert SMPL22.joint_names[other] == re.sub("left|right", lambda m: {"left": "right"}.get(m[0], "left"), name)


def test_bones_of_smpl22_are_an_adults():
    length = np.linalg.norm(SMPL22.rest_offsets, axis=1)
    named = dict(zip(SMPL22.joint_names, length, strict=True))
    assert 0.35 < named["left_knee"] < 0.45  # thigh
    assert 0.38 < named["left_ankle"] < 0.48  # shank
    assert 0.23 < named["left_elbow"] < 0.3  # upper arm
    assert 0.23 < named["left_wrist"] < 0.3  # forearm


def test_names_are_looked_up():
    assert skeleton_named("smpl22") is SMPL22
    with pytest.raises(UserError, match=r"unknown skeleton 'smpl' \(allowed: smpl22"):
        skeleton_named("smpl")
    with pytest.raises(ValueError):
        SMPL22.index("tail")


def test_no_other_file_of_the_science_names_a_number_of_joints():
    """22 joints, 21 rotations, 262 features: written down in skeletons.py and nowhere else outside doctests."""
    package = Path(__file__).parents[3] / "intermoe"
    for file in (
        "body/feature_layout.py",
        "body/features.py",
        "body/heading_features.py",
        "body/kinematics.py",
        "networks/vae.py",
        "layers/skeletal.py",
        "data/batches.py",
        "model.py",
    ):
        code = re.sub(r'""".*?"""|#[^\n]*', "", (package / file).read_text(), flags=re.DOTALL)
        assert not re.search(r"\b(21|22|262)\b", code), file
