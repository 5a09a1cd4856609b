"""Jumps in recorded motion: frames between which a body moves as no body can.

Optical capture loses markers and swaps them for a few frames, and files often begin with a calibration pose. Both show
as speeds that are out of reach, whatever the recording; so the limits are physical, not statistics of the file, and a
file that is one long glitch finds no excuse in itself.

Legend: T frames, P persons, J joints.
"""

import math

import torch
from torch import Tensor

# The foot of a trained fighter's kick reaches about 15 m/s, the hand of a punch about 10. In 11 trials of salsa
# (CMU 60/61, 120 fps) the fastest sound joint is a toe tip at 16.2 m/s, the mildest glitch has 20.4.
JOINT_SPEED = 18.0
# The root carries the body's mass: even a fall on the floor takes it from 4 m/s to rest in several frames. In the same
# salsa it changes by at most 4.5 m/s from frame to frame at 120 fps (2.8 at 24 to 60), by 7.4 in the mildest glitch.
ROOT_SPEED_CHANGE = 6.0
# Above this rate differences span several frames, lest the noise of measurement pass for speed.
FASTEST_RATE = 120.0
# A glitch fades in and out below the limits: what is cut reaches this far beyond the frames that break them, seconds.
MARGIN = 0.05


def jump_frames(position_TPJ3: Tensor, fps: float) -> Tensor:
    """Mask of the frames that belong to a jump of any person.

    A frame does where a joint moves faster than ``JOINT_SPEED`` to or from it, or where the velocity of joint 0 changes
    by more than ``ROOT_SPEED_CHANGE`` in it; so do its neighbours within ``MARGIN``. Movements that leave every
    joint in place, such as a flip of the hand about the forearm, are not seen.

    Args:
        position_TPJ3: joints in metres [T, P, J, 3]; joint 0 is the root.
        fps: frames a second.

    Returns:
        bool [T].

    Example:
        >>> still_TPJ3 = torch.zeros(60, 2, 1, 3)
        >>> still_TPJ3[20:, 1] += 0.4  # the second person is suddenly elsewhere
        >>> jump_frames(still_TPJ3, fps=30.0).nonzero().flatten().tolist()
        [17, 18, 19, 20, 21, 22]
    """
    frames = len(position_TPJ3)
    span = max(1, round(fps / FASTEST_RATE))
    bad_T = torch.zeros(frames, dtype=torch.bool)
    if frames <= span:
        return bad_T
    velocity = (position_TPJ3[span:] - position_TPJ3[:-span]) * (fps / span)
    fast = (velocity.norm(dim=-1) > JOINT_SPEED).flatten(1).any(1)
    for step in range(span + 1):
        bad_T[step : step + len(fast)] |= fast
    if frames > 2 * span:
        change = velocity[span:, :, 0] - velocity[:-span, :, 0]
        sudden = (change.norm(dim=-1) > ROOT_SPEED_CHANGE).any(1)
        bad_T[span : span + len(sudden)] |= sudden
    margin = math.ceil(MARGIN * fps)
    spread = torch.nn.functional.max_pool1d(bad_T.float()[None, None], 2 * margin + 1, stride=1, padding=margin)
    return spread[0, 0] > 0


def sound_pieces(bad_T: Tensor) -> list[tuple[int, int]]:
    """The runs of frames that are not bad, as (first, one past the last).

    Example:
        >>> sound_pieces(torch.tensor([True, False, False, True, False]))
        [(1, 3), (4, 5)]
    """
    padded = torch.nn.functional.pad(~bad_T, (1, 1)).int().diff()
    starts, ends = (padded == 1).nonzero().flatten(), (padded == -1).nonzero().flatten()
    return list(zip(starts.tolist(), ends.tolist(), strict=True))
