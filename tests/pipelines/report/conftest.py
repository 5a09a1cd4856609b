"""Made-up outcomes of a sweep."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from pipelines.report.outcomes import Outcomes

TABLE: dict[str, Any] = {
    "title": "Experts & <such>",
    "rows": {
        "none": {"fid": [5.0, 0.1], "r_precision_top1": [0.4, 0.01]},
        "four": {"fid": [4.0, 0.1], "r_precision_top1": [0.5, 0.01]},
        "eight": {"fid": [3.0, 0.1], "r_precision_top1": [0.6, 0.01]},
    },
}


@pytest.fixture
def table() -> dict:
    """A table of the paper, number 4, as a sweep notes it."""
    return {"title": TABLE["title"], "rows": {row: dict(numbers) for row, numbers in TABLE["rows"].items()}}


@pytest.fixture
def make_outcome() -> Callable[..., Outcomes]:
    """A function from a point, FIDs and values of R-precision to the outcome of its trial."""

    def make_outcome(
        point: str, fid: list[float], r: list[float], *, seed: int = 0, rows: tuple[str, ...] = (), **settings: object
    ) -> Outcomes:
        trial = f"{point}-seed{seed}"
        index = pd.Index([trial], name="trial")
        values = {"moe.experts": 8, "moe.c_exp": 1.0, "moe.selection": "dynamic", "seed": seed, "name": "x", **settings}
        replications = {
            "raw": pd.DataFrame({"r_precision_top1": r, "fid": fid, "mm_dist": fid}),
            "generated": pd.DataFrame({"fid": [2 * value for value in fid], "jerk_m_s3": [80.0] * len(fid)}),
            "recorded": pd.DataFrame({"r_precision_top1": [0.7], "fid": [1.0], "jerk_m_s3": [40.0]}),
        }
        curves = {
            "loss/train": [1.0, 0.5],
            "moe/imbalance": [0.5, 0.0],
        }
        costs = {"trainable": 2_000_000, "active": 1_000_000, "seconds_training": 90.0, "seconds_evaluating": 10.0}
        return Outcomes(
            trials=pd.DataFrame([{"point": point, "seed": seed, **costs, "tokens_per_second": 1000.0}], index=index),
            rows=pd.DataFrame([(trial, "4", row) for row in rows], columns=["trial", "table", "row"]),
            settings=pd.DataFrame([values], index=index, dtype=object),
            replications=pd.concat(
                {(trial, row): frame for row, frame in replications.items()}, names=["trial", "row", "replication"]
            ),
            curves=pd.Series(
                {(trial, curve, step): v for curve, vs in curves.items() for step, v in zip((10, 20), vs, strict=True)}
            ).rename_axis(["trial", "curve", "step"]),
        )

    return make_outcome


@pytest.fixture
def parts(make_outcome) -> list[Outcomes]:
    """Three points of a table, the last with two seeds."""
    return [
        make_outcome("none", [50.0, 52.0], [0.2, 0.2], rows=("none",), **{"moe.selection": "dense"}),
        make_outcome("four", [30.0, 32.0], [0.3, 0.3], rows=("four",), **{"moe.experts": 4}),
        make_outcome("eight", [40.0, 42.0], [0.3, 0.3], rows=("eight",)),
        make_outcome("eight", [44.0, 46.0], [0.3, 0.3], rows=("eight",), seed=1),
    ]


@pytest.fixture
def outcomes(parts) -> Outcomes:
    """All of these."""
    return Outcomes.joined(parts)
