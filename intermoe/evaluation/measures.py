"""The one table of measures: name, unit, which direction is better, the table it stands in, and how it is computed.

A measure is one entry of ``MEASURES``: evaluation takes it, and the tables, plots and sweep files show it.

Legend: N motions, E embedding, C captions, S motions of one caption.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from intermoe.body.skeletons import Skeleton
from intermoe.evaluation.hands import MEETING, hands_apart_cm, hands_met
from intermoe.evaluation.identity import KINDS
from intermoe.evaluation.metrics import diversity, fid, multimodality
from intermoe.evaluation.plausibility import (
    bone_length_deviation_cm,
    floor_penetration_cm,
    foot_height_cm,
    foot_skating_cm_s,
    interpenetration_cm,
    jerk_m_s3,
)
from intermoe.evaluation.replication import Replication

Better = Literal["higher", "lower", "recorded"]
"""Which way a measure is better; "recorded" is as near to recorded motion as can be."""

OfMotion = Callable[[NDArray[Any], Skeleton], float]
OfReplication = Callable[[Replication], float | None]

TEXT_AND_MOTION = "Text and motion"
WHO_ACTS = "Who acts: share of motions that agree with the caption"
HANDS = "Hands that meet: shaking hands, high five, handing over"
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
        of_motion: takes it of one motion, of joints [T, P, J, 3] in metres and their skeleton, NaN where it is of
            two persons and there is one; the measure of a replication is the mean over its motions.
        kinds: of interactions, of which alone it is taken; None for all. Where the data do not say of which kind a
            caption is, such a measure is not known.
        of_replication: takes it of a whole replication; None where it is not known for that row. A measure has either
            this or ``of_motion``.
    """

    name: str
    heading: str
    table: str
    better: Better | None = None
    unit: str = ""
    of_motion: OfMotion | None = None
    kinds: tuple[str, ...] | None = None
    of_replication: OfReplication | None = None

    def __post_init__(self) -> None:
        if (self.of_motion is None) == (self.of_replication is None):
            raise ValueError(f"{self.name}: a measure has either of_motion or of_replication")

    def value(self, replication: Replication) -> float:
        """The measure of a replication; NaN where it is not known."""
        if self.of_replication is None:
            return _mean_over(replication, self.name, self.kinds)
        value = self.of_replication(replication)
        return float("nan") if value is None else value

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


def _mean_over(replication: Replication, name: str, kinds: tuple[str, ...] | None) -> float:
    of_motions_N = replication.of_motions[name]
    if kinds is not None:
        if replication.roles is None:
            return float("nan")
        of_motions_N = of_motions_N[np.isin(replication.roles.kind_N, [KINDS.index(kind) for kind in kinds])]
    return float(np.mean(of_motions_N)) if len(of_motions_N) else float("nan")


def _r_precision(top: int) -> OfReplication:
    return lambda replication: float(replication.matching[0][top - 1])


def _fid(replication: Replication) -> float:
    return fid(replication.motion_NE, replication.reference_NE, replication.scales.fid)


def _diversity(replication: Replication) -> float:
    return diversity(replication.motion_NE, replication.diversity_pairs, replication.scales.diversity)


def _multimodality(replication: Replication) -> float | None:
    if replication.many_CSE is None:
        return None
    return multimodality(replication.many_CSE, replication.multimodality_pairs, replication.scales.multimodality)


def _identity(replication: Replication) -> float | None:
    return None if replication.roles is None else replication.roles.agreement()


def _identity_shuffled(replication: Replication) -> float | None:
    return None if replication.roles is None else replication.roles.agreement(shift=1)


def _identity_swapped(replication: Replication) -> float | None:
    if replication.row == "recorded" and replication.roles is not None:
        # The same motions against captions that name the persons the other way round.
        return 1 - replication.roles.agreement()
    return None if replication.exchanged_roles is None else replication.exchanged_roles.agreement()


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        measure.name: measure
        for measure in (
            Measure("r_precision_top1", "R top 1", TEXT_AND_MOTION, "higher", of_replication=_r_precision(1)),
            Measure("r_precision_top2", "R top 2", TEXT_AND_MOTION, "higher", of_replication=_r_precision(2)),
            Measure("r_precision_top3", "R top 3", TEXT_AND_MOTION, "higher", of_replication=_r_precision(3)),
            Measure("fid", "FID", TEXT_AND_MOTION, "lower", of_replication=_fid),
            Measure("mm_dist", "MM Dist", TEXT_AND_MOTION, "lower", of_replication=lambda r: r.matching[1]),
            Measure("diversity", "Diversity", TEXT_AND_MOTION, "recorded", of_replication=_diversity),
            Measure("multimodality", "MultiModality", TEXT_AND_MOTION, "higher", of_replication=_multimodality),
            Measure("identity", "Identity", WHO_ACTS, "higher", of_replication=_identity),
            Measure("identity_swapped", "with swapped captions", WHO_ACTS, of_replication=_identity_swapped),
            Measure("identity_shuffled", "with shuffled captions", WHO_ACTS, of_replication=_identity_shuffled),
            Measure("hands_met", "Met", HANDS, "higher", of_motion=hands_met, kinds=MEETING),
            Measure("hands_apart_cm", "Apart", HANDS, "lower", "cm", of_motion=hands_apart_cm, kinds=MEETING),
            Measure("foot_skating_cm_s", "Foot skating", PLAUSIBILITY, "recorded", "cm/s", of_motion=foot_skating_cm_s),
            Measure(
                "floor_penetration_cm", "In the floor", PLAUSIBILITY, "lower", "cm", of_motion=floor_penetration_cm
            ),
            Measure("foot_height_cm", "Feet above it", PLAUSIBILITY, "recorded", "cm", of_motion=foot_height_cm),
            Measure(
                "bone_length_deviation_cm",
                "Bone deviation",
                PLAUSIBILITY,
                "lower",
                "cm",
                of_motion=bone_length_deviation_cm,
            ),
            Measure(
                "interpenetration_cm", "In each other", PLAUSIBILITY, "recorded", "cm", of_motion=interpenetration_cm
            ),
            Measure("jerk_m_s3", "Jerk", PLAUSIBILITY, "recorded", "m/s³", of_motion=jerk_m_s3),
        )
    }
)
"""Name -> measure, in the order in which tables show them."""
TABLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        table: tuple(name for name, measure in MEASURES.items() if measure.table == table)
        for table in dict.fromkeys(measure.table for measure in MEASURES.values())
    }
)
"""Title of each table -> names of the measures in it, in their order."""


def of_each_motion() -> dict[str, OfMotion]:
    """The measures that are taken of every motion for itself, by name."""
    return {name: measure.of_motion for name, measure in MEASURES.items() if measure.of_motion is not None}
