"""One row of the table in one replication: what its measures are taken of.

Legend: N motions, E embedding, C captions, S motions of one caption.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from intermoe.evaluation.identity import Roles
from intermoe.evaluation.metrics import SCALES, Array, Embeddings, MetricScales, Pairs, matching

Row = Literal["recorded", "reconstructed", "reconstructed_raw", "generated", "raw", "untrained"]
"""Whose motions: recordings; the same through the VAE and back, settled and as the VAE gives them; what users get,
settled; the same motions as the network gives them, which is what the literature measures; and, settled, those of the
model before its training."""


@dataclass(frozen=True, eq=False)
class Replication:
    """The motions of one row in one replication: their embeddings and measures.

    Attributes:
        row: of the table.
        text_NE: embeddings of the captions.
        motion_NE: of their motions, in the same order.
        reference_NE: of recordings, cropped anew.
        pool: pairs of caption and motion in a pool of R-precision.
        diversity_pairs: pairs of motions.
        multimodality_pairs: pairs of motions of one caption.
        of_motions: the values [N] of each measure that is taken of every motion for itself.
        many_CSE: embeddings of many motions of few captions; None where there are none.
        roles: who acts in the motions; None where the data do not say who should.
        exchanged_roles: who acts in motions generated from captions with the persons exchanged; None where there are
            none.
        scales: of the evaluator's metrics.
    """

    row: Row
    text_NE: Embeddings
    motion_NE: Embeddings
    reference_NE: Embeddings
    pool: int
    diversity_pairs: Pairs
    multimodality_pairs: Pairs
    of_motions: Mapping[str, NDArray[np.floating]]
    many_CSE: Embeddings | None = None
    roles: Roles | None = None
    exchanged_roles: Roles | None = None
    scales: MetricScales = SCALES

    @cached_property
    def matching(self) -> tuple[Array, float]:
        """R-precision [3] and MM-Dist."""
        return matching(self.text_NE, self.motion_NE, self.pool)
