"""The one table of measures: what each is called, its unit, which way is better, and the table it stands in."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import pandas as pd

Better = Literal["higher", "lower", "recorded"]
"""Which way a measure is better; "recorded" is as near to recorded motion as can be."""

TEXT_AND_MOTION = "Text and motion"
WHO_ACTS = "Who acts: share of motions that agree with the caption"
PLAUSIBILITY = "Physical plausibility"
_ARROWS: Mapping[Better | None, str] = {"higher": " ↑", "lower": " ↓", "recorded": " →", None: ""}


@dataclass(frozen=True)
class Measure:
    """A column of an evaluation's tables.

    Attributes:
        name: in ``results.json``, sweep files and MLflow.
        heading: for people.
        table: title of the table that it stands in.
        better: which way is better; None where neither is.
        unit: empty for a plain number.
    """

    name: str
    heading: str
    table: str
    better: Better | None = None
    unit: str = ""

    @property
    def title(self) -> str:
        """Heading, unit and which way is better, for the top of a column.

        Example:
            >>> MEASURES["jerk_m_s3"].title
            'Jerk, m/s³ →'
        """
        unit = f", {self.unit}" if self.unit else ""
        return f"{self.heading}{unit}{_ARROWS[self.better]}"

    def best(self, means: "pd.Series[float]") -> set[str]:
        """The rows with the best mean; several where they are equal, none where no row is better than another.

        Example:
            >>> sorted(MEASURES["fid"].best(pd.Series({"a": 2.0, "b": 1.0, "c": 1.0, "d": float("nan")})))
            ['b', 'c']
        """
        known = means.dropna()
        if known.empty or self.better not in ("higher", "lower"):
            return set()
        best = known.max() if self.better == "higher" else known.min()
        return set(known.index[known == best])


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        measure.name: measure
        for measure in (
            Measure("r_precision_top1", "R top 1", TEXT_AND_MOTION, "higher"),
            Measure("r_precision_top2", "R top 2", TEXT_AND_MOTION, "higher"),
            Measure("r_precision_top3", "R top 3", TEXT_AND_MOTION, "higher"),
            Measure("fid", "FID", TEXT_AND_MOTION, "lower"),
            Measure("mm_dist", "MM Dist", TEXT_AND_MOTION, "lower"),
            Measure("diversity", "Diversity", TEXT_AND_MOTION, "recorded"),
            Measure("multimodality", "MultiModality", TEXT_AND_MOTION, "higher"),
            Measure("identity", "Identity", WHO_ACTS, "higher"),
            Measure("identity_swapped", "with swapped captions", WHO_ACTS),
            Measure("identity_shuffled", "with shuffled captions", WHO_ACTS),
            Measure("foot_skating_cm_s", "Foot skating", PLAUSIBILITY, "recorded", "cm/s"),
            Measure("floor_penetration_cm", "In the floor", PLAUSIBILITY, "lower", "cm"),
            Measure("bone_length_deviation_cm", "Bone deviation", PLAUSIBILITY, "lower", "cm"),
            Measure("interpenetration_cm", "In each other", PLAUSIBILITY, "recorded", "cm"),
            Measure("jerk_m_s3", "Jerk", PLAUSIBILITY, "recorded", "m/s³"),
        )
    }
)
TABLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        table: tuple(name for name, measure in MEASURES.items() if measure.table == table)
        for table in dict.fromkeys(measure.table for measure in MEASURES.values())
    }
)
"""Title of each table -> names of the measures in it, in their order."""

HEADINGS: Mapping[str, str] = MappingProxyType({name: measure.title for name, measure in MEASURES.items()})
