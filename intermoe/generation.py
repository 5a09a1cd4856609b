"""The input and the output of the generation of a batch of motions.

Legend: B motions, T frames, P persons, J joints, R = J - 1 joints with a local rotation, F features, K joints
that touch the ground, N joints of either kind, D numbers of one.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from intermoe.body.conventions import MIN_FRAMES
from intermoe.body.features import (
    contacts_from_features,
    exchange_persons,
    joints_from_features,
    rotations_from_features,
    where_valid,
)
from intermoe.body.hands import HandContacts, join_hands
from intermoe.body.settling import settled_body
from intermoe.body.skeletons import Skeleton
from intermoe.errors import UserError
from intermoe.motion import Motion
from intermoe.text.encoders import TextStates

# Of all motions that are generated at a time: what a training step of the paper's sizes holds of half its samples.
_FRAMES_PER_BATCH = 32 * 300

OnStep = Callable[[int, int], None]
"""Is called with (steps done, steps in all)."""


@dataclass(frozen=True, eq=False)
class Conditions:
    """The conditions that the motions of a batch are generated from.

    Attributes:
        text: token states of the captions, as the network reads them.
        exchanged_B: bool, the captions that are read with the names of the persons exchanged; the persons of their
            motions change places.
    """

    text: TextStates
    exchanged_B: Tensor


@dataclass(frozen=True, eq=False)
class Sampled:
    """What the networks make of a batch of conditions.

    Attributes:
        features_BTPF: raw features on their device.
        contacts: which hands touch in each of these frames, where the networks predict it.
    """

    features_BTPF: Tensor
    contacts: HandContacts | None = None

    def first(self, frames: int) -> Self:
        """The first frames of it."""
        contacts = None if self.contacts is None else self.contacts.frames(0, frames)
        return type(self)(self.features_BTPF[:, :frames], contacts)

    def exchanged(self, exchanged_B: Tensor, skeleton: Skeleton) -> Self:
        """The same with the persons of these motions in each other's place, in the frame of the new first one."""
        if skeleton.num_persons == 1:
            return self
        features_BTPF = exchange_persons(self.features_BTPF, exchanged_B, skeleton)
        contacts = None if self.contacts is None else self.contacts.exchanged(exchanged_B)
        return type(self)(features_BTPF, contacts)


@dataclass(frozen=True, eq=False)
class GeneratedBatch:
    """Motions as the network gives them, and as users get them: settled.

    Attributes:
        features_BTPF: the network's output, raw features on its device; beyond a motion's frames they mean nothing.
        frames_B: int64, frames of each motion, on the CPU.
        joints_BTPJ3: settled joints on the CPU, metres, y up, the ground at y = 0; zero beyond a motion's frames.
        rotations_BTPR6: settled local rotations on the CPU in 6D, alike.
        skeleton: what the joints are.
    """

    features_BTPF: Tensor
    frames_B: Tensor
    joints_BTPJ3: Tensor
    rotations_BTPR6: Tensor
    skeleton: Skeleton

    @classmethod
    def settled(cls, output: Sampled, frames_B: Tensor, skeleton: Skeleton) -> Self:
        """Settle a network's output, each motion over its own frames (see ``settled_body`` in body/settling.py).

        Raises:
            UserError: a number is not finite.
        """
        features_BTPF = output.features_BTPF
        check_finite(features_BTPF)
        features, frames = features_BTPF.detach().cpu(), frames_B.cpu()
        features_BPTF = features.transpose(1, 2)
        body = settled_body(
            joints_from_features(features_BPTF, skeleton),
            rotations_from_features(features_BPTF, skeleton),
            skeleton,
            frames[:, None],
            contact_TK=contacts_from_features(features_BPTF, skeleton),
        )
        if output.contacts is not None:
            body = join_hands(body, output.contacts.to("cpu"), skeleton, frames=frames)
        joints_BPTJ3, rotations_BPTR6 = body.motion(skeleton)
        joints_BTPJ3, rotations_BTPR6 = (
            where_valid(x_BPTND.transpose(1, 2), frames, 0.0) for x_BPTND in (joints_BPTJ3, rotations_BPTR6)
        )
        return cls(features_BTPF, frames, joints_BTPJ3, rotations_BTPR6, skeleton)

    def motions(self, captions: Sequence[str]) -> list[Motion]:
        """The settled motions, each with its caption."""
        return [
            Motion(
                joints=self.joints_BTPJ3[row, :frames].numpy(),
                rotations=self.rotations_BTPR6[row, :frames].numpy(),
                fps=self.skeleton.fps,
                caption=caption,
                skeleton=self.skeleton,
            )
            for row, (frames, caption) in enumerate(zip(self.frames_B.tolist(), captions, strict=True))
        ]


def unsettled_motion(features_TPF: Tensor, caption: str, skeleton: Skeleton) -> Motion:
    """The motion that features hold, as it is: of a recording, or of what the VAE makes of one."""
    features_PTF = features_TPF.detach().cpu().transpose(0, 1)
    joints_TPJ3, rotations_TPR6 = (
        read(features_PTF, skeleton).transpose(0, 1) for read in (joints_from_features, rotations_from_features)
    )
    return Motion(
        joints=joints_TPJ3.numpy(),
        rotations=rotations_TPR6.numpy(),
        fps=skeleton.fps,
        caption=caption,
        skeleton=skeleton,
    )


def frames_of(seconds: float, longest: int, fps: int, known: int = 0) -> int:
    """Frames of a motion of that length; ``UserError`` where the model did not learn from motions as long or short.

    Args:
        seconds: length.
        longest: frames of the longest motion that the model learned from.
        fps: frames per second.
        known: frames before these that the model is to see too.
    """
    frames = round(seconds * fps) if math.isfinite(seconds) else 0
    most = longest - known
    if not MIN_FRAMES <= frames <= most:
        before = f", {known} of them those of the motion before" if known else ""
        raise UserError(
            f"{seconds:g} seconds are {frames} frames",
            where="seconds",
            allowed=f"{MIN_FRAMES / fps:g} to {most / fps:.4g}; the model learned from up to {longest} frames{before}",
        )
    return frames


def check_finite(features_BTPF: Tensor) -> None:
    """Raise ``UserError`` where a number that a network made is not finite."""
    if not features_BTPF.isfinite().all():
        raise UserError("the model's output is not finite", where="generate", allowed="a model trained to the end")


def check_request(prompts: Sequence[str], seed: int, guidance: float | None) -> None:
    """Raise ``UserError`` where a prompt, the seed or the scale of guidance is none."""
    if seed < 0:
        raise UserError(f"seed {seed}", allowed="0 or more")
    if guidance is not None and not math.isfinite(guidance):
        raise UserError(f"guidance {guidance}", allowed="a finite number")
    check_prompts(prompts)


def batches(count: int, frames: int, on_step: OnStep | None) -> Iterator[tuple[slice, OnStep | None]]:
    """Slices of so many motions that are generated at a time, each with a callback that reports its steps."""
    size = max(1, _FRAMES_PER_BATCH // frames)
    starts = range(0, count, size)
    for number, first in enumerate(starts):
        yield slice(first, first + size), nth_of(on_step, number, len(starts))


def nth_of(on_step: OnStep | None, number: int, count: int) -> OnStep | None:
    """A callback for one of several samplings, counted from 0, that reports its steps as steps of all of them."""
    return None if on_step is None else partial(_as_nth, on_step, number, count)


def _as_nth(on_step: OnStep, number: int, count: int, done: int, total: int) -> None:
    on_step(number * total + done, count * total)


def check_prompts(prompts: Sequence[str]) -> None:
    """Raise ``UserError`` where a prompt is empty, or holds bytes that are no text (as a shell may hand them on)."""
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise UserError("a prompt is empty", allowed="a sentence")
    for prompt in prompts:
        try:
            prompt.encode()
        except UnicodeEncodeError:
            shown = prompt.encode("ascii", "backslashreplace").decode()
            raise UserError(f"the prompt {shown!r} is not UTF-8 text", allowed="a sentence in UTF-8") from None


def best_device() -> torch.device:
    """The fastest device of this machine: a GPU where PyTorch has one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_named(name: str) -> torch.device:
    """A device of this machine by its name; "auto" is the best there is.

    Raises:
        UserError: there is none of that name.

    Example:
        >>> device_named("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return best_device()
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    names = ["cpu", *(["cuda"] if gpus else []), *gpus]
    if name not in names:
        raise UserError(f"no device {name!r} on this machine", where="--device", allowed=", ".join(["auto", *names]))
    return torch.device(name)


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode; each of its modules gets its own mode back afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
