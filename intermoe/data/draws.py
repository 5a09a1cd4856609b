"""All that is drawn at random: which samples a training step sees, what each of them draws, what an evaluation draws.

All are pure functions of the seed, so that neither the number of workers nor an interruption changes them. The
samples of all epochs form one endless stream, each epoch a permutation of its own; step ``k`` takes the samples
``k * B`` to ``(k + 1) * B``, so that every batch is full. Where batches are to be of nearly one length, the steps of a
group exchange their samples.

Legend: B samples, L latent frames, P persons, Z latent numbers of a person-frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from hashlib import sha256
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intermoe.body.skeletons import Skeleton

Item = TypeVar("Item")

# What the seed of a run is turned into; each begins a sequence of numbers that is independent of the others.
_ORDER, _SAMPLE, _STEP, _PROMPT, _GROUPING = range(5)
# Steps whose samples are dealt anew by length.
_GROUPED = 8
# What an evaluation draws in a replication after its order, whose seed has no third number.
_PAIRS = 1


class Stream(IntEnum):
    """Independent streams of random numbers from the seed of one sample.

    Attributes:
        LATENT: noise of the posterior's samples in training; where sampling starts in generation.
        TIMESTEP: the timestep of a training step, and whether the condition is dropped.
        DIFFUSION: the noise that is added to clean latents in training.
        STEP: the noise of each step of ancestral sampling.
    """

    LATENT = 0
    TIMESTEP = 1
    DIFFUSION = 2
    STEP = 3


@dataclass(frozen=True)
class Draw:
    """The random draws of one sample in one epoch.

    Attributes:
        crop: where the crop begins, as a share of the room there is, in [0, 1).
        swap: whether the two persons change places, in motion and caption.
        mirror: whether left and right change places, in motion and caption.
        caption: which caption is read, as a share of their number, in [0, 1).
        seed: for what is drawn inside the training step: posterior noise, timestep, noise, dropped condition.
    """

    crop: float
    swap: bool
    mirror: bool
    caption: float
    seed: int

    def allowed(self, skeleton: Skeleton) -> "Draw":
        """The same without what recordings of that skeleton are not given: those with features are only cropped."""
        return self if skeleton.features == "world" else replace(self, swap=False, mirror=False)


UNDRAWN = Draw(crop=0.0, swap=False, mirror=False, caption=0.0, seed=0)


def order(seed: int, epoch: int, items: int) -> NDArray[np.int64]:
    """The order [items] in which an epoch visits its samples.

    Example:
        >>> sorted(order(seed=0, epoch=3, items=4).tolist())
        [0, 1, 2, 3]
    """
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(items)


@lru_cache(maxsize=4)
def _cached_order(seed: int, epoch: int, items: int) -> NDArray[np.int64]:
    return order(seed, epoch, items)


def batch_items(
    seed: int, step: int, batch: int, items: int, lengths: Sequence[int] | NDArray[np.integer] | None = None
) -> list[tuple[int, int]]:
    """The (epoch, item) pairs of the global batch of a step.

    Args:
        seed: of the training.
        step: number of the step.
        batch: samples of a step.
        items: samples of an epoch.
        lengths: of the items; with them, a batch is of nearly one length: the items of eight batches in a row, or of as
            many as an epoch has, are dealt anew, the shortest into one batch, the next into another, and these come in
            a random order. Where an epoch ends among them, one batch holds its longest and the next one's shortest.

    Example:
        >>> batch_items(0, 0, 3, 2)
        [(0, 0), (0, 1), (1, 1)]
    """
    if lengths is None:
        return [_pair(seed, position, items) for position in range(step * batch, (step + 1) * batch)]
    steps = max(1, min(_GROUPED, items // batch))
    group, number = divmod(step, steps)
    positions = range(group * steps * batch, (group + 1) * steps * batch)
    # Each epoch's for themselves: the same sample of two epochs would come twice into one batch.
    pairs = sorted((_pair(seed, at, items) for at in positions), key=lambda pair: (pair[0], int(lengths[pair[1]])))
    first = batch * int(np.random.default_rng([_GROUPING, seed, group]).permutation(steps)[number])
    return pairs[first : first + batch]


def share_of(pairs: Sequence[Item], *, rank: int = 0, world: int = 1, micro_batches: int = 1) -> list[Item]:
    """One worker's share of a global batch.

    The global batch falls into ``micro_batches``, and of each of them worker ``rank`` of ``world`` takes the
    rank-th run: together, in the order of their ranks, the workers hold the same micro-batches, whatever their number.

    Example:
        >>> [share_of("abcdefgh", rank=rank, world=2, micro_batches=2) for rank in (0, 1)]
        [['a', 'b', 'e', 'f'], ['c', 'd', 'g', 'h']]
    """
    micro = len(pairs) // micro_batches
    share = micro // world
    starts = [number * micro + rank * share for number in range(micro_batches)]
    return [pairs[place] for start in starts for place in range(start, start + share)]


def _pair(seed: int, position: int, items: int) -> tuple[int, int]:
    """Epoch and item at a position of the endless sequence of epochs."""
    epoch, place = divmod(position, items)
    return epoch, int(_cached_order(seed, epoch, items)[place])


def draw(seed: int, epoch: int, sample: str) -> Draw:
    """The draws of a sample, by its id, in an epoch."""
    rng = np.random.default_rng([_SAMPLE, seed, epoch, _number(sample)])
    crop, caption = rng.random(2)
    swap, mirror = rng.random(2) < 0.5
    return Draw(float(crop), bool(swap), bool(mirror), float(caption), int(rng.integers(2**62)))


def held_out_draw(seed: int, sample: str) -> Draw:
    """The draws of a sample in validation: no augmentation, the same noise every time."""
    rng = np.random.default_rng([_SAMPLE, seed, _number(sample)])
    return Draw(UNDRAWN.crop, UNDRAWN.swap, UNDRAWN.mirror, UNDRAWN.caption, int(rng.integers(2**62)))


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of what a worker draws in a step apart from its samples (dropout)."""
    return int(np.random.default_rng([_STEP, seed, step, rank]).integers(2**62))


def prompt_seed(seed: int, prompt: str, repeat: int) -> int:
    """Seed of the noise for the repeat-th motion of a prompt, whatever the batch it is generated in."""
    return int(np.random.default_rng([_PROMPT, seed, _number(prompt), repeat]).integers(2**62))


def prompt_seeds(seed: int, prompts: Sequence[str]) -> list[int]:
    """Seed of the noise for each prompt; a prompt given twice gets two different ones.

    Example:
        >>> bow, _, other = prompt_seeds(0, ["Two people bow.", "They hug.", "Two people bow."])
        >>> bow == prompt_seed(0, "Two people bow.", 0), other == prompt_seed(0, "Two people bow.", 1)
        (True, True)
    """
    return [prompt_seed(seed, prompt, prompts[:place].count(prompt)) for place, prompt in enumerate(prompts)]


def replication_order(seed: int, replication: int, items: int) -> NDArray[np.int64]:
    """The order [items] in which a replication of an evaluation visits the recordings."""
    return np.random.default_rng([seed, replication]).permutation(items)


def replication_pairs(seed: int, replication: int) -> np.random.Generator:
    """The generator of the pairs of motions of one replication of an evaluation."""
    return np.random.default_rng([seed, replication, _PAIRS])


def _number(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:8], "little")


def normal(seed_B: Sequence[int], shape: tuple[int, ...], stream: Stream, *number: int) -> Tensor:
    """Standard normal noise [B, *shape], float32, each sample's from its own seed.

    A shorter first dimension gives a prefix of the same noise, so that padding changes nothing.

    Args:
        seed_B: a seed for each sample.
        shape: of one sample's noise.
        stream: which of the sample's streams it comes from.
        number: which draw of that stream, where there are several.
    """
    noise = np.empty((len(seed_B), *shape), np.float32)
    for row, seed in zip(noise, seed_B, strict=True):
        np.random.default_rng([stream, seed, *number]).standard_normal(out=row, dtype=np.float32)
    return torch.from_numpy(noise)


def step_noise(seed_B: Sequence[int], like_BLPZ: Tensor, t: int) -> Tensor:
    """The noise that a sampler adds at a timestep to latents like these; each sample's from its own seed."""
    if len(seed_B) != len(like_BLPZ):
        raise ValueError(f"{len(seed_B)} seeds for {len(like_BLPZ)} samples")
    return normal(seed_B, like_BLPZ.shape[1:], Stream.STEP, t).to(like_BLPZ.device)


def uniform(seed_B: Sequence[int], count: int, stream: Stream) -> Tensor:
    """Numbers [B, count] in [0, 1), float64, each sample's from its own seed."""
    return torch.from_numpy(np.stack([np.random.default_rng([stream, seed]).random(count) for seed in seed_B]))
