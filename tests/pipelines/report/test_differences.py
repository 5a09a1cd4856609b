"""The intervals of differences, against closed forms."""

import math

import pandas as pd
import pytest

from pipelines.report.differences import Difference, difference, paired, welch

# Quantiles 0.975 of Student's t, from tables.
T1, T2, T4 = 12.7062, 4.30265, 2.77645


def of_trials(**values: list[float]) -> pd.Series:
    return pd.concat({trial: pd.Series(numbers) for trial, numbers in values.items()}, names=["trial", "replication"])


def test_welchs_interval_of_equal_variances_is_students():
    # Both have the variance 1: the standard error is (1/3 + 1/3)^(1/2), the degrees of freedom are 4.
    interval = welch(pd.Series([1.0, 2.0, 3.0]), pd.Series([11.0, 12.0, 13.0]))
    assert interval.mean == -10.0
    assert interval.half_width == pytest.approx(T4 * math.sqrt(2 / 3), rel=1e-5)


def test_welchs_interval_has_the_freedom_of_the_side_that_varies():
    interval = welch(pd.Series([1.0, 2.0, 3.0]), pd.Series([7.0, 7.0, 7.0, 7.0]))
    assert interval.mean == -5.0
    assert interval.half_width == pytest.approx(T2 / math.sqrt(3), rel=1e-5)
    nothing_varies = welch(pd.Series([1.0, 1.0]), pd.Series([2.0, 2.0]))
    assert (nothing_varies.mean, nothing_varies.half_width) == (-1.0, 0.0)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_single_value_has_the_variance_of_the_other_side(sign):
    sides = pd.Series([5.0]), pd.Series([1.0, 2.0, 3.0])
    interval = welch(*sides[::sign])
    assert interval.mean == sign * 3.0
    assert interval.half_width == pytest.approx(T2 * math.sqrt(1 + 1 / 3), rel=1e-5)


def test_the_paired_interval_is_that_of_the_differences():
    interval = paired(pd.Series([10.0, 20.0, 30.0]), pd.Series([9.0, 18.0, 27.0]))
    assert interval.mean == 2.0
    assert interval.half_width == pytest.approx(T2 / math.sqrt(3), rel=1e-5)
    # Only what both sides have.
    assert paired(pd.Series([10.0, 20.0]), pd.Series([9.0, 18.0, 27.0])).half_width == pytest.approx(T1 / 2, rel=1e-5)
    assert math.isnan(paired(pd.Series([1.0]), pd.Series([2.0])).half_width)


def test_rows_are_compared_over_seeds_where_one_has_several_and_else_over_replications():
    several = of_trials(a=[40.0, 42.0], b=[44.0, 46.0])
    single = of_trials(c=[30.0, 32.0])
    by_seeds = difference(several, of_trials(c=[30.0, 32.0], d=[40.0, 42.0]))
    assert (by_seeds.mean, by_seeds.basis) == (7.0, "seeds")
    assert by_seeds.half_width == pytest.approx(welch(pd.Series([41.0, 45.0]), pd.Series([31.0, 41.0])).half_width)
    assert difference(several, single).basis == "seeds"
    assert difference(single, of_trials(d=[31.0, 33.0])) == Difference(-1.0, 0.0, "replications")


def test_a_difference_is_distinguished_where_its_interval_leaves_out_0():
    assert Difference(-2.0, 1.9, "seeds").is_distinguished
    assert not Difference(-2.0, 2.0, "seeds").is_distinguished
    assert not Difference(2.0, float("nan"), "replications").is_distinguished
    assert not Difference(0.0, 0.0, "replications").is_distinguished
