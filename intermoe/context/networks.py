"""The networks as a context needs them, to make the motions of one batch of prompts.

Legend: B motions, T frames, L latent frames, P = 2 persons, F features, Z latent numbers of a person-frame.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from intermoe.body.skeletons import Skeleton
from intermoe.diffusion.known import Known
from intermoe.generation import OnStep, Sampled


@dataclass(frozen=True)
class Networks:
    """The networks with a batch of prompts and their noise.

    Attributes:
        skeleton: whose joints the features describe.
        frames: of the motions, with those that are known.
        encode: from raw features [B, T, P, F] to latents [B, L, P, Z] of their whole latent frames.
        generate: samples what the prompts say, from the same noise each time: from what is known, or nothing, to
            their output. The first person is the networks' own first.
    """

    skeleton: Skeleton
    frames: int
    encode: Callable[[Tensor], Tensor]
    generate: Callable[[Known | None, OnStep | None], Sampled]
