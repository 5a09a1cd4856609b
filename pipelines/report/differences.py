"""Whether two rows of a report can be distinguished: the 95% interval of the difference of their means.

Two rows are distinguished where that interval leaves out 0, each pair by itself (no correction for their number).
Where rows have several seeds, it is Welch's t interval over the seeds' means, whose spread is that of training and
evaluation together. A row of a single seed beside one of several is taken to vary as that one does (the t interval of
one more value than a sample, after Crawford and Howell). Where both have one seed, it is the paired t interval over the
replications of evaluation, which are paired because a sweep evaluates every trial by one plan: the n-th replication of
two trials has the same captions, crops, noise and reference. How much another seed of the training would change is not
in that.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import t

from intermoe.evaluation.metrics import Interval

Basis = Literal["seeds", "replications"]
"""What an interval of a difference is taken over."""


@dataclass(frozen=True)
class Difference:
    """The difference of two rows' means.

    Attributes:
        mean: of the first less the second.
        half_width: of its 95% interval; NaN where a single value has none.
        basis: what the interval is over.
    """

    mean: float
    half_width: float
    basis: Basis

    @property
    def is_distinguished(self) -> bool:
        """Whether the interval leaves out 0."""
        return bool(abs(self.mean) > self.half_width)


def difference(first: pd.Series, second: pd.Series) -> Difference:
    """The difference of two rows, over seeds where one of them has several, else over replications.

    Args:
        first: the values of one row, indexed by ``trial`` (one per seed) and ``replication``.
        second: of the other.

    Example:
        >>> index = pd.MultiIndex.from_product([["a-seed0"], [0, 1, 2]], names=["trial", "replication"])
        >>> difference(pd.Series([5.0, 7.0, 9.0], index), pd.Series([4.0, 5.5, 7.0], index)).basis
        'replications'
    """
    means = [values.groupby(level="trial", sort=False).mean() for values in (first, second)]
    if max(len(seeds) for seeds in means) > 1:
        interval = welch(*means)
        return Difference(interval.mean, interval.half_width, "seeds")
    interval = paired(*(values.droplevel("trial") for values in (first, second)))
    return Difference(interval.mean, interval.half_width, "replications")


def welch(first: pd.Series, second: pd.Series) -> Interval:
    """Welch's t interval of the difference of two means, of independent values whose variances may differ.

    Its degrees of freedom are those of Welch and Satterthwaite. A single value has the variance of the other side.

    Args:
        first: values, several of them unless the second has several.
        second: likewise.

    Example:
        >>> str(welch(pd.Series([1.0, 3.0]), pd.Series([6.0, 8.0])))
        '-5.000 ±6.085'
    """
    mean, counts = float(first.mean() - second.mean()), np.array([len(first), len(second)])
    variances = np.array([first.var(ddof=1), second.var(ddof=1)])
    squares = np.where(counts > 1, variances, variances[::-1]) / counts
    square = squares.sum()
    if square == 0:
        return Interval(mean, 0.0)
    if counts.min() == 1:
        freedom = float(counts.max() - 1)
    else:
        freedom = square**2 / (squares**2 / (counts - 1)).sum()
    return Interval(mean, float(t.ppf(0.975, freedom) * np.sqrt(square)))


def paired(first: pd.Series, second: pd.Series) -> Interval:
    """Student's t interval of the mean of differences of values with the same label; of a single one, NaN wide.

    Example:
        >>> str(paired(pd.Series([1.0, 2.0, 3.0]), pd.Series([0.0, 2.0, 1.0])))
        '1.000 ±2.484'
    """
    differences = (first - second).dropna()
    count = len(differences)
    if count < 2:
        return Interval(float(differences.mean()), float("nan"))
    spread = differences.std(ddof=1) / np.sqrt(count)
    return Interval(float(differences.mean()), float(t.ppf(0.975, count - 1) * spread))
