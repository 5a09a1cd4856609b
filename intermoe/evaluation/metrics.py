"""The five metrics of text-to-motion generation, on embeddings of texts and motions, in float64.

Conventions, as in InterGen, whose tables everybody compares with:

- Embeddings are taken as the evaluator gives them, of the length of its learned scale (published files too); distances
  are Euclidean.
- R-precision and MM-Dist are taken in pools of a fixed number of pairs, in the order given; the last pool, if it is
  not full, is left out.
- FID is that of embeddings times 6, Diversity of embeddings times 3; MultiModality is not scaled. These scales are
  InterGen's; another evaluator may have others (``MetricScales``).
- An interval is 1.96 standard deviations (of the population) over the root of the number of replications.

Legend: N texts and their motions, D numbers of an embedding, C captions, S samples of one caption, P random pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from intermoe.config import Config
from intermoe.errors import UserError

TOP = 3

Array = NDArray[np.float64]
Embeddings = NDArray[np.floating]
Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


class MetricScales(Config):
    """What the embeddings of an evaluator are multiplied by before a metric is taken; the defaults are InterGen's.

    Attributes:
        fid: for FID.
        diversity: for Diversity; InterGen multiplies by 6 and halves the distance.
        multimodality: for MultiModality.
    """

    fid: float = Field(default=6.0, gt=0)
    diversity: float = Field(default=3.0, gt=0)
    multimodality: float = Field(default=1.0, gt=0)


SCALES = MetricScales()
"""InterGen's."""


@dataclass(frozen=True)
class Interval:
    """Mean and half width of the 95% interval over replications."""

    mean: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ±{self.half_width:.3f}"

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The interval of one value per replication.

        Example:
            >>> Interval.of([1.0, 3.0])
            Interval(mean=2.0, half_width=1.3859292911256331)
        """
        array = np.asarray(values, dtype=np.float64)
        return cls(float(array.mean()), float(1.96 * array.std() / np.sqrt(len(array))))


def distances(text_ND: Embeddings, motion_ND: Embeddings) -> Array:
    """Euclidean distances [N, N] of each text (row) to each motion (column)."""
    difference_NND = text_ND.astype(np.float64)[:, None] - motion_ND.astype(np.float64)[None]
    return np.sqrt(np.einsum("ijd,ijd->ij", difference_NND, difference_NND))


def matching(text_ND: Embeddings, motion_ND: Embeddings, pool: int) -> tuple[Array, float]:
    """R-precision and MM-Dist.

    Args:
        text_ND: embeddings of the captions.
        motion_ND: of the motions, in the same order.
        pool: pairs of a pool.

    Returns:
        R-precision [3]: the share of texts whose own motion is among the 1, 2 and 3 nearest motions of the pool; and
        MM-Dist: the mean distance of a text to its own motion.

    Raises:
        UserError: there are fewer pairs than a pool holds.

    Example:
        >>> matching(np.eye(4), np.eye(4), pool=2)
        (array([1., 1., 1.]), 0.0)
    """
    if len(text_ND) < pool:
        raise UserError(f"{len(text_ND)} pairs of text and motion", allowed=f"{pool} or more, the pairs of a pool")
    ranks, own = [], []
    for first in range(0, len(text_ND) - pool + 1, pool):
        found_NN = distances(text_ND[first : first + pool], motion_ND[first : first + pool])
        matching_N = np.diagonal(found_NN)
        # Where several motions are equally near, the earlier one comes first, as a stable sort has it.
        nearer_NN = found_NN < matching_N[:, None]
        ties_N = np.tril(found_NN == matching_N[:, None], -1).sum(axis=1)
        ranks.append(nearer_NN.sum(axis=1) + ties_N)
        own.append(matching_N)
    rank_N = np.concatenate(ranks)
    precision_3 = np.array([(rank_N < top).mean() for top in range(1, TOP + 1)])
    return precision_3, float(np.concatenate(own).mean())


def fid(found_ND: Embeddings, real_ND: Embeddings, scale: float = SCALES.fid) -> float:
    """Fréchet distance of two sets of embeddings: of normal distributions with their means and covariances.

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``, of the embeddings times ``scale``. The trace of the root is taken
    from the symmetric ``C1^(1/2) C2 C1^(1/2)``, which has the eigenvalues of ``C1 C2`` and none below zero: sets with
    fewer motions than an embedding has numbers need nothing added to their covariance. What rounding takes below zero
    is zero.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> some = rng.normal(size=(50, 4))
        >>> round(fid(some, some), 6), round(fid(some + 1, some), 6)
        (0.0, 144.0)
    """
    (mean_D, covariance_DD), (other_D, other_DD) = _moments(found_ND, scale), _moments(real_ND, scale)
    values_D, vectors_DD = np.linalg.eigh(covariance_DD)
    root_DD = (vectors_DD * np.sqrt(values_D.clip(min=0))) @ vectors_DD.T
    both_D = np.linalg.eigvalsh(root_DD @ other_DD @ root_DD)
    trace = np.trace(covariance_DD) + np.trace(other_DD) - 2 * np.sqrt(both_D.clip(min=0)).sum()
    return max(0.0, float(np.square(mean_D - other_D).sum() + trace))


def diversity(motion_ND: Embeddings, pairs: Pairs, scale: float = SCALES.diversity) -> float:
    """Mean distance of the motions of random pairs, of the embeddings times ``scale``."""
    first_PD, second_PD = (motion_ND[chosen].astype(np.float64) * scale for chosen in pairs)
    return float(np.linalg.norm(first_PD - second_PD, axis=-1).mean())


def multimodality(motion_CSD: Embeddings, pairs: Pairs, scale: float = SCALES.multimodality) -> float:
    """Mean distance of random pairs of motions of the same caption, of the embeddings times ``scale``."""
    first_CPD, second_CPD = (motion_CSD[:, chosen].astype(np.float64) * scale for chosen in pairs)
    return float(np.linalg.norm(first_CPD - second_CPD, axis=-1).mean())


def random_pairs(random: np.random.Generator | np.random.RandomState, among: int, count: int) -> Pairs:
    """Random pairs of numbers below ``among``: first and second halves, each without repetition.

    A number may meet itself, as in the published protocol. Where there are fewer than ``count``, all are taken.
    """
    count = min(count, among)
    first, second = (random.choice(among, count, replace=False) for _ in range(2))
    return first, second


def _moments(embeddings_ND: Embeddings, scale: float) -> tuple[Array, Array]:
    scaled_ND = embeddings_ND.astype(np.float64) * scale
    return scaled_ND.mean(axis=0), np.atleast_2d(np.cov(scaled_ND, rowvar=False))
