"""The other person: one person of an interaction is given, the other is generated to them.

The given person's latents are known before sampling (see diffusion/known.py). Networks see both persons in the frame of
the first: where the given person is that one, it is the frame of their own first frame. Where they are the second, it
is open where the first one stands; then the prompt is sampled freely once, and the given person is put where the second
one of that sample begins.

Legend: B motions, T frames, L latent frames, P = 2 persons, J joints, R = J - 1, F features, K joints that touch the
ground, Z latent numbers of a person-frame.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from intermoe.body.features import (
    contacts_from_features,
    joints_from_features,
    motion_features,
    rotations_from_features,
)
from intermoe.body.hands import HandContacts, join_hands
from intermoe.body.kinematics import PosedBody, posed_body
from intermoe.body.placement import Placement
from intermoe.body.settling import ground_height, settled_body
from intermoe.context.networks import Networks
from intermoe.diffusion.known import Known
from intermoe.errors import UserNote
from intermoe.generation import OnStep, check_finite, nth_of
from intermoe.given_person import GivenPerson
from intermoe.motion import Motion

# Metres: so far from 0 a floor may lie without a word.
_FLOOR = 0.1


def with_partner(
    given: GivenPerson, captions: Sequence[str], exchanged_B: Tensor, networks: Networks, on_step: OnStep | None
) -> list[Motion]:
    """Motions in which one person is the given one, as they are, and the other is generated to them.

    The motions stand in the world of the given person; the generated one is settled on the ground that the given
    person's feet stand on.

    Args:
        given: where it is longer than the motions that the networks make, its first frames are used.
        captions: of the motions.
        exchanged_B: bool, the prompts that are read with the names of the persons exchanged.
        networks: what makes the motions.
        on_step: called with (steps done, steps in all).

    Raises:
        UserError: the output is not finite.
    """
    given, skeleton, batch = given.first_frames(networks.frames), given.skeleton, len(captions)
    is_first_B = exchanged_B == (given.place == 1)
    samplings = 1 if is_first_B.all() else 2
    joints_T1J3, rotations_T1R6 = (
        torch.from_numpy(array)[:, None].float() for array in (given.joints, given.rotations)
    )
    own_1TPF, _ = motion_features(joints_T1J3[None], rotations_T1R6[None], None, skeleton)
    stand = Placement.of(joints_T1J3[:1, 0], skeleton)
    place = Placement(torch.eye(3).expand(batch, 3, 3), torch.zeros(batch, 3))
    if samplings == 2:
        free_BTPF = networks.generate(None, nth_of(on_step, 0, samplings)).features_BTPF.cpu()
        place = Placement.of(joints_from_features(free_BTPF[:, 0, 1], skeleton), skeleton).where(~is_first_B)
    features_BTPF = place.features(own_1TPF.expand(batch, -1, 2, -1), skeleton)
    latent_BLPZ = networks.encode(features_BTPF)
    is_given_BP = torch.stack([is_first_B, ~is_first_B], dim=1).to(latent_BLPZ.device)
    known = Known(latent_BLPZ, is_given_BP[:, None].expand(latent_BLPZ.shape[:3]))
    output = networks.generate(known, nth_of(on_step, samplings - 1, samplings))
    generated_BTPF = output.features_BTPF.cpu()
    check_finite(generated_BTPF)
    partner_BTF = generated_BTPF[torch.arange(batch), :, is_first_B.long()]
    body = settled_body(
        stand.after(place.inverse).points(joints_from_features(partner_BTF, skeleton)),
        rotations_from_features(partner_BTF, skeleton),
        skeleton,
        contact_TK=contacts_from_features(partner_BTF, skeleton),
    )
    floor = ground_height(joints_T1J3[:, 0])
    if floor.abs() > _FLOOR:
        warnings.warn(UserNote(f"given: the floor lies at y = {floor:.2f}, and stays there"), stacklevel=2)
    body.root_T3[..., 1] += floor
    if output.contacts is not None:
        body = _reaching(body, given, output.contacts.to("cpu").exchanged(~is_first_B))
    joints_BTJ3, rotations_BTR6 = body.motion(skeleton)
    order = slice(None) if given.place == 0 else slice(None, None, -1)
    return [
        Motion(
            joints=np.stack([given.joints, joints_TJ3][order], axis=1),
            rotations=np.stack([given.rotations, rotations_TR6][order], axis=1),
            fps=skeleton.fps,
            caption=caption,
            skeleton=skeleton,
        )
        for joints_TJ3, rotations_TR6, caption in zip(
            joints_BTJ3.numpy(), rotations_BTR6.numpy(), captions, strict=True
        )
    ]


def _reaching(body: PosedBody, given: GivenPerson, contacts: HandContacts) -> PosedBody:
    """Generated persons whose hands reach for those of the given one, where they touch.

    Args:
        body: the generated ones.
        given: as long as they are.
        contacts: of the given person's hands with those of the generated one.
    """
    joints_TJ3, rotations_TR6 = (torch.from_numpy(array).float() for array in (given.joints, given.rotations))
    own = posed_body(joints_TJ3, rotations_TR6, given.skeleton)
    own = own._replace(offset_J3=own.offset_J3[None])
    both = PosedBody(*(torch.stack([x.expand_as(y), y], dim=1) for x, y in zip(own, body, strict=True)))
    both = join_hands(both, contacts, given.skeleton, share_P=(0.0, 1.0))
    return PosedBody(*(x[:, 1] for x in both))
