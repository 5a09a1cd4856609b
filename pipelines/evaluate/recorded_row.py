"""Recorded motion beside what its evaluator is known to give for it: the check that comes before any model's number."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from intermoe.evaluation.conventions import RUN_HERE, KnownRow, Verdict
from intermoe.evaluation.measures import MEASURES


@dataclass(frozen=True)
class RecordedRow:
    """The means of recorded motion, beside the evaluator's known row of this data set.

    Attributes:
        means: by measure, over the replications.
        texts: the same for people, with their intervals.
        known: None where the evaluator has none for this split of this data set.
        differences: how the protocol differs from the evaluator's own, in phrases.
    """

    means: Mapping[str, float]
    texts: Mapping[str, str]
    known: KnownRow | None
    differences: tuple[str, ...]

    @classmethod
    def of(cls, means: Mapping[str, float], texts: Mapping[str, str], about: Mapping[str, Any]) -> "RecordedRow":
        """The row of results that say of themselves what ``Judge.about`` gives; nothing is known where they do not."""
        known = about.get("known_row")
        differences = tuple(about.get("protocol_differences", ()))
        return cls(means, texts, KnownRow.parse(known) if known else None, differences)

    @property
    def verdicts(self) -> list[Verdict]:
        """What is known, beside what was measured; empty where recorded motion was not measured at all."""
        return self.known.verdicts(self.means) if self.known and self.means else []

    @property
    def outside(self) -> list[Verdict]:
        """Those that are not in their range."""
        return [verdict for verdict in self.verdicts if verdict.is_outside]

    @property
    def cells(self) -> pd.DataFrame:
        """A line for each measure: the number measured here, the known range with its origin, and the verdict."""
        verdicts = {verdict.measure: verdict for verdict in self.verdicts}
        origin = f", {self.known.origin}" if self.known else ""
        lines = {
            MEASURES[name].title: {
                f"recorded, {RUN_HERE}": self.texts.get(name, ""),
                f"known{origin}": _range(verdicts[name]) if name in verdicts else "",
                "verdict": _word(verdicts.get(name)),
            }
            for name in MEASURES
            if name in self.means or name in verdicts
        }
        return pd.DataFrame.from_dict(lines, orient="index")

    def warnings(self) -> list[str]:
        """What there is to know before any other row is believed, in sentences; empty where all is as it is known."""
        lines = []
        if self.known and self.outside:
            measures = "; ".join(described(verdict) for verdict in self.outside)
            lines.append(
                f"Warning: recorded motion is outside of what this evaluator is known to give: {measures} "
                f"({self.known.origin}: {self.known.source}). Until that is explained, no other number counts."
            )
        if self.differences:
            lines.append(f"The protocol is not the evaluator's own: {'; '.join(self.differences)}.")
        return lines


def recorded_tags(recorded: RecordedRow) -> dict[str, str]:
    """What a run in MLflow is found by, and says on its page.

    ``intermoe.recorded_motion`` is "as known", "not known", "not measured", or which measures are outside of their
    range; ``intermoe.protocol`` is "the evaluator's own", or how it differs.
    """
    checked = "not known" if not recorded.known else "as known" if recorded.means else "not measured"
    outside = "; ".join(map(described, recorded.outside))
    return {
        "intermoe.recorded_motion": f"outside: {outside}" if outside else checked,
        "intermoe.protocol": "; ".join(recorded.differences) or "the evaluator's own",
    }


def described(verdict: Verdict) -> str:
    """A measure with its number and its range.

    Example:
        >>> described(Verdict("fid", 0.5, 0.25, 0.3))
        'FID is 0.500, known 0.250 to 0.300'
    """
    return f"{MEASURES[verdict.measure].heading} is {verdict.value:.3f}, known {_range(verdict)}"


def _range(verdict: Verdict) -> str:
    return f"{verdict.low:.3f} to {verdict.high:.3f}"


def _word(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    if verdict.value is None:
        return "not measured"
    return "outside" if verdict.is_outside else "inside"
