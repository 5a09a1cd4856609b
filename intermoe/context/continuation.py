"""What comes next: a motion goes on from the last frames of another.

The latents of these are known before sampling (see diffusion/known.py), in the frame of their first moment. What
the networks make of the frames after it is settled with the bones of the old motion, and begins some centimetres beside
where that ends. So each body starts from where it is and as fast as it moves, and the difference fades over half a
second.

Legend: B motions, T frames, P = 2 persons, J joints, R = J - 1, F features, Z latent numbers of a person-frame,
L latent frames, N two frames, K joints that touch the ground, D numbers of one.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from intermoe.body.conventions import MIN_FRAMES
from intermoe.body.features import (
    contacts_from_features,
    joints_from_features,
    motion_features,
    rotations_from_features,
)
from intermoe.body.foot_lock import lock_feet
from intermoe.body.hands import join_hands
from intermoe.body.kinematics import PosedBody, bone_offsets, fit_rotations, rest_offsets
from intermoe.body.placement import Placement
from intermoe.body.rotations import axis_angle_from_matrix, matrix_from_axis_angle
from intermoe.body.settling import ground_height, settled_body
from intermoe.body.skeletons import Skeleton
from intermoe.context.networks import Networks
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.bodies import check_rotations
from intermoe.diffusion.known import Known
from intermoe.errors import UserError
from intermoe.generation import OnStep, check_finite, frames_of
from intermoe.motion import Motion

# Frames of features that are known, in whole latent frames of four. More of them say more of what was going on, and the
# networks go on with that instead of with what the prompt says.
_KNOWN = 12
_LATENT = 4
# Frames over which the difference at the seam fades.
_FADING = 15
# Sizes of a body, as a share of the skeleton's own.
_SIZES = 0.2, 5.0
# Of a long motion, the frames that tell the bones: ten seconds.
_MEASURED = 300


def overlap(motion: Motion) -> int:
    """The last frames of a motion that the networks go on from: those of 0.4 seconds.

    They are one more than fill whole latent frames, as the velocity of a frame needs the next.

    Raises:
        UserError: the motion is too short, or has another frame rate.
    """
    if motion.fps != motion.skeleton.fps:
        raise UserError(f"{motion.fps} frames a second", where="after", allowed=f"{motion.skeleton.fps}")
    if len(motion.joints) < MIN_FRAMES:
        raise UserError(f"{len(motion.joints)} frames", where="after", allowed=f"{MIN_FRAMES} or more")
    return _overlap(len(motion.joints))


def check_people(motion: Motion) -> None:
    """Raise ``UserError`` where a motion that is gone on from shows no two people: their size, their rotations.

    Wider bounds than those of recordings: what an untrained model makes may be gone on from.
    """
    rest = torch.tensor(motion.skeleton.rest_offsets).norm(dim=-1).sum()
    joints_PTJ3 = torch.from_numpy(motion.joints).transpose(0, 1).float()
    for size in (bone_offsets(joints_PTJ3, motion.skeleton).norm(dim=-1).sum(-1) / rest).tolist():
        if not _SIZES[0] <= size <= _SIZES[1]:
            raise UserError(
                f"a body of {size:.3g} times a person's size", where="after", allowed=f"{_SIZES[0]:g} to {_SIZES[1]:g}"
            )
    try:
        check_rotations(torch.from_numpy(motion.rotations), motion.skeleton)
    except BadRecording as error:
        raise UserError(str(error), where="after") from None


def _overlap(frames: int) -> int:
    """Of so many frames, those that the networks go on from."""
    return min(_KNOWN, (frames - 1) // _LATENT * _LATENT) + 1


def lengths_in_a_row(prompts: int, seconds: float, longest: int, after: Motion | None, fps: int) -> list[int]:
    """Frames that the networks make for each of several prompts in a row, with those that are known.

    Args:
        prompts: how many there are.
        seconds: that each of them adds.
        longest: frames of the longest motion that the networks learned from.
        after: a motion that goes before the first.
        fps: frames per second.

    Raises:
        UserError: they cannot make as many, or as few.
    """
    lengths: list[int] = []
    there = 0 if after is None else len(after.joints)
    known = 0 if after is None else overlap(after)
    for _ in range(prompts):
        new = frames_of(seconds, longest, fps, known)
        lengths.append(known + new)
        there += new
        known = _overlap(there)
    return lengths


def continued(
    motion: Motion, captions: Sequence[str], exchanged_B: Tensor, networks: Networks, on_step: OnStep | None
) -> list[Motion]:
    """Motions that go on from another: its frames as they are, then the new ones.

    Args:
        motion: the one that goes before.
        captions: what happens next; the caption of the old motion goes before each.
        exchanged_B: bool, the prompts that are read with the names of the persons exchanged.
        networks: what makes the motions: ``overlap`` frames and the new ones.
        on_step: called with (steps done, steps in all).

    Raises:
        UserError: the output is not finite.
    """
    skeleton, known = motion.skeleton, overlap(motion)
    joints_TPJ3, rotations_TPR6 = (torch.from_numpy(array).float() for array in (motion.joints, motion.rotations))
    start = len(joints_TPJ3) - known
    all_1TPF, _ = motion_features(joints_TPJ3[None], rotations_TPR6[None], None, skeleton)
    known_BTPF = all_1TPF[:, start:].expand(len(exchanged_B), -1, -1, -1)
    known_BTPF = known_BTPF.flip(2).where(exchanged_B[:, None, None, None], known_BTPF)
    # From the frame of the networks to that of the first frame, and on to the world.
    stand = Placement.of(joints_from_features(known_BTPF[:, 0, 0], skeleton), skeleton)
    world = Placement.of(joints_TPJ3[:1, 0], skeleton).after(stand)
    latent_BLPZ = networks.encode(stand.inverse.features(known_BTPF, skeleton))
    all_known = Known(latent_BLPZ, torch.ones_like(latent_BLPZ[..., 0], dtype=torch.bool))
    output = networks.generate(all_known, on_step)
    features_BTPF = output.features_BTPF.cpu()
    check_finite(features_BTPF)
    features_BTPF = features_BTPF.flip(2).where(exchanged_B[:, None, None, None], features_BTPF)
    # The last known frame is the first that the open latents make.
    features_BPTF = features_BTPF[:, known - 1 :].transpose(1, 2)
    old_PTJ3, old_PTR6 = joints_TPJ3.transpose(0, 1), rotations_TPR6.transpose(0, 1)
    measured_PTJ3 = old_PTJ3[:, -_MEASURED:]
    offset_PJ3 = rest_offsets(measured_PTJ3, old_PTR6[:, -_MEASURED:], skeleton)
    new = settled_body(
        world.points(joints_from_features(features_BTPF[:, known - 1 :], skeleton)).transpose(1, 2),
        rotations_from_features(features_BPTF, skeleton),
        skeleton,
        offset_J3=offset_PJ3,
    )
    new.root_T3[..., 1] += ground_height(measured_PTJ3)[:, None]
    body = _joined((old_PTJ3, old_PTR6), new, contacts_from_features(features_BPTF, skeleton), skeleton)
    if output.contacts is not None:
        contacts = output.contacts.to("cpu").exchanged(exchanged_B).frames(known - 1)
        body = join_hands(body, contacts, skeleton, held=2)
    joined = (x_BPTND[:, :, 1:] for x_BPTND in body.motion(skeleton))
    return [
        Motion(
            joints=np.concatenate([motion.joints, joints_PTJ3.transpose(0, 1).numpy()]),
            rotations=np.concatenate([motion.rotations, rotations_PTR6.transpose(0, 1).numpy()]),
            fps=motion.fps,
            caption=_in_a_row(motion.caption, caption),
            skeleton=skeleton,
        )
        for joints_PTJ3, rotations_PTR6, caption in zip(*joined, captions, strict=True)
    ]


def _joined(old: tuple[Tensor, Tensor], new: PosedBody, contact_BPTK: Tensor, skeleton: Skeleton) -> PosedBody:
    """The last old frame and the new ones, so that they go on from the old motion.

    Args:
        old: joints [P, T, J, 3] and rotations [P, T, R, 6] of the motion that goes before.
        new: what was generated, settled with the T-poses of the old bodies [P, 1, J, 3]; its first frame stands for the
            last old one.
        contact_BPTK: the contacts of their feet.
        skeleton: whose joints these are.
    """
    old_root_PN3, old_turn_PNJ33 = fit_rotations(old[0][:, -2:], old[1][:, -2:], skeleton, new.offset_J3)
    root_BPT3 = _going_on(old_root_PN3, new.root_T3)
    turn_BPTJ33 = _turning_on(old_turn_PNJ33, new.rotation_TJ33)
    # While the difference fades, bodies move over feet that stand.
    root_BPT3, turn_BPTJ33 = lock_feet(root_BPT3, turn_BPTJ33, new.offset_J3, contact_BPTK, skeleton, held=2)
    return PosedBody(new.offset_J3, root_BPT3, turn_BPTJ33)


def _going_on(old_PND: Tensor, new_BPTD: Tensor) -> Tensor:
    """Numbers that go on from where old ones are, and as fast as they change.

    The difference between old and new, and that of their changes, fade along a cubic curve that ends flat.

    Args:
        old_PND: the last two frames.
        new_BPTD: generated; its first frame is the second of these.
    """
    off_BP1D = old_PND[:, 1:] - new_BPTD[:, :, :1]
    faster_BP1D = (old_PND[:, 1:] - old_PND[:, :1]) - (new_BPTD[:, :, 1:2] - new_BPTD[:, :, :1])
    left_T, gone_T = _fading(new_BPTD.shape[2])
    return new_BPTD + left_T[:, None] * off_BP1D + gone_T[:, None] * faster_BP1D


def _turning_on(old_PNJ33: Tensor, new_BPTJ33: Tensor) -> Tensor:
    """The same for rotations: the turn from new to old, and the difference of their speeds, fade about fixed axes."""
    old_PNJ33, turn_BPTJ33 = old_PNJ33.double(), new_BPTJ33.double()
    first_BP1J33 = turn_BPTJ33[:, :, :1]
    off_BP1J33 = old_PNJ33[:, 1:] @ first_BP1J33.mT
    old_speed_P1J3 = axis_angle_from_matrix(old_PNJ33[:, 1:] @ old_PNJ33[:, :1].mT)
    new_speed_BP1J3 = axis_angle_from_matrix(turn_BPTJ33[:, :, 1:2] @ first_BP1J33.mT)
    faster_BP1J3 = (off_BP1J33.mT @ old_speed_P1J3[..., None]).squeeze(-1) - new_speed_BP1J3
    left_T11, gone_T11 = (share_T[:, None, None] for share_T in _fading(turn_BPTJ33.shape[2]))
    fading_BPTJ33 = matrix_from_axis_angle(left_T11 * axis_angle_from_matrix(off_BP1J33))
    return (fading_BPTJ33 @ matrix_from_axis_angle(gone_T11 * faster_BP1J3) @ turn_BPTJ33).to(new_BPTJ33.dtype)


def _fading(length: int) -> tuple[Tensor, Tensor]:
    """Cubics [T] that end flat: from 1, flat; and from 0 with a slope of 1."""
    share_T = (torch.arange(length) / _FADING).clamp(max=1)
    return (1 + 2 * share_T) * (1 - share_T) ** 2, _FADING * share_T * (1 - share_T) ** 2


def _in_a_row(before: str, caption: str) -> str:
    """Both captions as one.

    Example:
        >>> _in_a_row("Two people bow", "They hug.")
        'Two people bow. They hug.'
    """
    before = before.strip()
    return f"{before if before.endswith(('.', '!', '?')) else f'{before}.'} {caption}" if before else caption
