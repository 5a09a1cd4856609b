"""Trials that differ in their seeds alone become one number with one interval."""

import math

import pandas as pd
import pytest

from intermoe.evaluation.metrics import Interval
from pipelines.report.outcomes import pooled, summarise


def replications(**values: list[float]) -> pd.Series:
    return pd.concat({trial: pd.Series(numbers) for trial, numbers in values.items()}, names=["trial", "replication"])


def test_one_seed_is_over_its_replications_and_several_over_their_means():
    assert pooled(replications(a=[1.0, 2.0, 6.0])) == Interval.of([1.0, 2.0, 6.0])
    several = pooled(replications(a=[40.0, 42.0], b=[44.0, 46.0]))
    assert several.mean == 43.0
    # Two means, 41 and 45: 12.706 standard errors of 2 to each side.
    assert several.half_width == pytest.approx(12.706 * 2, rel=1e-4)
    # Each seed counts alike, however many replications it has.
    assert pooled(replications(a=[1.0], b=[3.0, 3.0, 3.0])).mean == 2.0


def test_a_single_replication_of_a_single_seed_has_no_interval():
    interval = pooled(replications(a=[1.5]))
    assert interval.mean == 1.5
    assert math.isnan(interval.half_width)


def test_summaries_leave_out_what_is_not_known():
    frame = pd.DataFrame({"fid": replications(a=[1.0, 3.0], b=[2.0, 4.0]), "identity": replications(a=[0.5])})
    summary = summarise(frame, pd.Series({"a": "x", "b": "y"}))
    assert summary.index.to_list() == [("x", "fid"), ("x", "identity"), ("y", "fid")]
    assert summary.loc[("y", "fid"), "mean"] == 3.0
    assert summary.index.names == ["group", "measure"]


def test_a_trial_may_be_in_several_groups_and_a_group_may_have_none():
    frame = pd.DataFrame({"fid": replications(a=[1.0, 3.0])})
    summary = summarise(frame, pd.Series(["x", "y", "z"], index=["a", "a", "missing"]))
    assert summary["mean"].to_dict() == {("x", "fid"): 2.0, ("y", "fid"): 2.0}
    assert summarise(frame, pd.Series(dtype=object)).empty


def test_outcomes_are_joined_trial_by_trial(outcomes):
    names = ["none-seed0", "four-seed0", "eight-seed0", "eight-seed1"]
    assert list(outcomes.trials.index) == names
    assert list(outcomes.settings.index) == names
    assert list(outcomes.rows["trial"]) == names
    assert list(outcomes.raw.index.unique("trial")) == names
    assert outcomes.raw.index.names == ["trial", "replication"]
    assert list(outcomes.raw.loc["eight-seed1", "fid"]) == [44.0, 46.0]
    assert outcomes.curves["four-seed0", "loss/train", 20] == 0.5
