"""The context that a motion is generated in: alone, beside a person who is given, or after another motion.

Legend: B motions, T frames, L latent frames, P = 2 persons, F features, Z latent numbers of a person-frame.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict

import torch
from torch import Tensor

from intermoe.body.skeletons import Skeleton
from intermoe.context.continuation import check_people, continued, overlap
from intermoe.context.networks import Networks
from intermoe.context.partner import with_partner
from intermoe.errors import UserError, UserNote
from intermoe.generation import GeneratedBatch, OnStep, frames_of
from intermoe.given_person import GivenPerson
from intermoe.motion import Motion


class GenerateOptions(TypedDict, total=False):
    """The options of ``InterMoE.generate``, which explains them."""

    seconds: float | None
    seed: int
    guidance: float | None
    on_step: OnStep | None
    given: GivenPerson | None
    after: Motion | None


class Context(Protocol):
    """What a prompt is generated in."""

    def frames(self, seconds: float | None, longest: int, fps: int) -> int:
        """Frames that the networks make, with those that are known; ``UserError`` where they cannot be so many."""
        ...

    def exchanges(self, first: int | None) -> bool:
        """Whether a prompt is read with the names of its persons exchanged.

        Args:
            first: the person of the prompt who has to be the networks' first; None where either may be.
        """
        ...

    def motions(
        self, captions: Sequence[str], exchanged_B: Tensor, networks: Networks, on_step: OnStep | None
    ) -> list[Motion]:
        """The motions, settled, each with its caption; ``UserError`` where the output is not finite."""
        ...


class Alone:
    """People of whom nothing is known."""

    def frames(self, seconds: float | None, longest: int, fps: int) -> int:
        """Those of 5 seconds where nothing is said."""
        return frames_of(5.0 if seconds is None else seconds, longest, fps)

    def exchanges(self, first: int | None) -> bool:
        """Only where the networks ask for it."""
        return first == 1

    def motions(
        self, captions: Sequence[str], exchanged_B: Tensor, networks: Networks, on_step: OnStep | None
    ) -> list[Motion]:
        """Each in the frame of its first person."""
        output = networks.generate(None, on_step).exchanged(exchanged_B, networks.skeleton)
        frames_B = torch.full((len(captions),), output.features_BTPF.shape[1])
        return GeneratedBatch.settled(output, frames_B, networks.skeleton).motions(captions)


@dataclass(frozen=True)
class Beside:
    """One of the two is given."""

    person: GivenPerson

    def frames(self, seconds: float | None, longest: int, fps: int) -> int:
        """All of the given person's, or those of the first seconds."""
        there = len(self.person.joints)
        if seconds is None:
            if there > longest:
                cut = f"given: the first {longest} of {there} frames are used, as the model learned from no more"
                warnings.warn(UserNote(cut), stacklevel=2)
            return min(there, longest)
        frames = frames_of(seconds, longest, fps)
        if frames > there:
            raise UserError(f"{seconds:g} seconds", where="seconds", allowed=f"up to the given {there / fps:.4g}")
        return frames

    def exchanges(self, first: int | None) -> bool:
        """The given person is the networks' first wherever they allow it."""
        return (self.person.place if first is None else first) == 1

    def motions(
        self, captions: Sequence[str], exchanged_B: Tensor, networks: Networks, on_step: OnStep | None
    ) -> list[Motion]:
        """Each in the world of the given person."""
        return with_partner(self.person, captions, exchanged_B, networks, on_step)


@dataclass(frozen=True)
class After:
    """A motion goes before."""

    motion: Motion

    def frames(self, seconds: float | None, longest: int, fps: int) -> int:
        """The last frames of the motion and those of 4 seconds where nothing is said."""
        known = overlap(self.motion)
        return known + frames_of(4.0 if seconds is None else seconds, longest, fps, known)

    def exchanges(self, first: int | None) -> bool:
        """Only where the networks ask for it."""
        return first == 1

    def motions(
        self, captions: Sequence[str], exchanged_B: Tensor, networks: Networks, on_step: OnStep | None
    ) -> list[Motion]:
        """Each is the motion before, unchanged, and what comes next."""
        return continued(self.motion, captions, exchanged_B, networks, on_step)


def check_in_a_row(prompts: Sequence[str], skeleton: Skeleton) -> None:
    """Raise ``UserError`` where there are several prompts and no motion of that skeleton can be gone on from."""
    if len(prompts) > 1 and skeleton.features != "world":
        raise UserError(f"{len(prompts)} prompts in a row", where="generate", allowed="a model of two persons, or one")


def context_of(given: GivenPerson | None, after: Motion | None, skeleton: Skeleton) -> Context:
    """The context of a request; ``UserError`` where both are given, or of another skeleton than the networks know."""
    if given is not None and after is not None:
        raise UserError("a given person beside a motion before", where="generate", allowed="one of them")
    for name, known, kind, example in (
        ("given", given, GivenPerson, "GivenPerson.load(FILE)"),
        ("after", after, Motion, "Motion.load(FILE)"),
    ):
        if known is not None and not isinstance(known, kind):
            raise UserError(f"a {type(known).__name__}", where=name, allowed=f"a {kind.__name__}, as of {example}")
        if known is not None and skeleton.features != "world":
            raise UserError("a motion that is known", where=name, allowed="a model of two persons")
        if known is not None and known.skeleton != skeleton:
            raise UserError(f"skeleton {known.skeleton.name}", where=name, allowed=f"{skeleton.name}, the model's")
    if given is not None:
        return Beside(given)
    if after is None:
        return Alone()
    check_people(after)
    return After(after)
