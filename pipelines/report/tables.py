"""The tables of a sweep's report: the paper's with ours beside them, and one of all points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from intermoe.evaluation.measures import MEASURES, TABLES, TEXT_AND_MOTION
from pipelines.documents import TextTable, interval_texts
from pipelines.report.outcomes import Outcomes, summarise

# Of every number, in the order of the CSV.
_NUMBERS = ("ours", "ours_half_width", "paper", "paper_half_width")
# What the table of all points shows, as far as it was measured.
_SHOWN = (*TABLES[TEXT_AND_MOTION], "identity")


@dataclass(frozen=True, eq=False)
class ReportTable:
    """Our numbers by row and measure.

    Attributes:
        title: its heading.
        numbers: ``ours`` and ``ours_half_width``, indexed by ``row`` and ``measure``; NaN where not known.
        num_seeds: how many seeds ours are over, by row.
    """

    SIDES: ClassVar[tuple[str, ...]] = ("ours",)

    title: str
    numbers: pd.DataFrame
    num_seeds: pd.Series

    def column(self, measure: str) -> pd.DataFrame:
        """The numbers of one measure, by row."""
        return self.numbers[self.numbers.index.get_level_values("measure") == measure].droplevel("measure")

    def shown(self, planned_seeds: int) -> TextTable:
        """The table for people, the best of each column bold; a row of which seeds are missing says how many it has."""
        texts, bold = {}, {}
        for name in self.numbers.index.unique("measure"):
            numbers = self.column(name)
            for side in self.SIDES:
                heading = MEASURES[name].title + (f", {side}" if len(self.SIDES) > 1 else "")
                texts[heading] = interval_texts(numbers[side], numbers[f"{side}_half_width"])
                bold[heading] = numbers.index.isin(MEASURES[name].best(numbers[side]))
        labels = [self._label(row, planned_seeds) for row in self.numbers.index.unique("row")]
        return TextTable(pd.DataFrame(texts).set_axis(labels), pd.DataFrame(bold, index=labels))

    def _label(self, row: str, planned_seeds: int) -> str:
        """The row's name, with how many of the planned seeds are done where some are missing."""
        seeds = self.num_seeds.get(row, 0)
        return row if seeds in (0, planned_seeds) else f"{row} ({seeds} of {planned_seeds} seeds)"


@dataclass(frozen=True)
class Agreement:
    """The number of pairs of rows whose order in our numbers is the paper's.

    Attributes:
        same: of all pairs.
        pairs: that both know.
        clear_same: of those that are distinguished.
        clear: pairs whose intervals, of ours, do not overlap.
    """

    same: int
    pairs: int
    clear_same: int
    clear: int


@dataclass(frozen=True, eq=False)
class PaperTable(ReportTable):
    """A table of the paper with ours beside it: its numbers have ``paper`` and ``paper_half_width`` too."""

    SIDES = ("ours", "paper")

    def agreement(self, measure: str) -> Agreement:
        """Whether ours order the rows as the paper's do."""
        known = self.column(measure).dropna(subset=["ours", "paper"])
        first, second = (known.iloc[rows].reset_index(drop=True) for rows in np.triu_indices(len(known), 1))
        ordered = first["paper"] != second["paper"]
        first, second = first[ordered], second[ordered]
        same = (first["ours"] - second["ours"]) * (first["paper"] - second["paper"]) > 0
        widths = first["ours_half_width"] + second["ours_half_width"]
        clear = (first["ours"] - second["ours"]).abs() > widths
        return Agreement(int(same.sum()), len(same), int((same & clear).sum()), int(clear.sum()))

    def order(self) -> str:
        """In words, whether the paper's order of rows holds."""
        verdicts = []
        for name in self.numbers.index.unique("measure"):
            agreement = self.agreement(name)
            if not agreement.pairs:
                continue
            verdict = "holds" if agreement.same == agreement.pairs else "does not hold"
            counts = f"{agreement.same} of {agreement.pairs} pairs of rows"
            if agreement.clear:
                counts += f", {agreement.clear_same} of the {agreement.clear} whose intervals do not overlap"
            verdicts.append(f"by {MEASURES[name].heading} it {verdict} ({counts})")
        return f"The paper's order of rows: {'; '.join(verdicts) or 'too few rows to compare'}."


def paper_table(number: str, table: Mapping[str, Any], outcomes: Outcomes) -> PaperTable:
    """A table of the paper, with what is done of ours.

    Args:
        number: of the table.
        table: its title and rows, as in the sweep file.
        outcomes: of the trials that are done.
    """
    standing = outcomes.rows[outcomes.rows["table"] == number].set_index("trial")["row"]
    paper = pd.DataFrame(
        [(row, name, *numbers) for row, measures in table["rows"].items() for name, numbers in measures.items()],
        columns=["row", "measure", "paper", "paper_half_width"],
    ).set_index(["row", "measure"])
    names = [name for name in MEASURES if name in paper.index.unique("measure")]
    numbers = _ours(outcomes, standing, list(table["rows"]), names).join(paper)
    return PaperTable(f"Table {number}: {table['title']}", numbers, standing.value_counts(sort=False))


def points_table(outcomes: Outcomes) -> ReportTable:
    """All points, whether or not they stand for a row of the paper."""
    points = outcomes.trials["point"]
    measured = outcomes.raw.dropna(axis="columns", how="all").columns
    names = [name for name in _SHOWN if name in measured]
    numbers = _ours(outcomes, points, list(points.unique()), names)
    return ReportTable("All points", numbers, points.value_counts(sort=False))


def tables_csv(paper: Mapping[str, PaperTable], points: ReportTable) -> str:
    """Every number of the paper's tables and of all points, whose table has no number, as CSV."""
    tables = pd.concat({number: table.numbers for number, table in {**paper, "": points}.items()}, names=["table"])
    return tables.reindex(columns=list(_NUMBERS)).to_csv()


def _ours(outcomes: Outcomes, groups: pd.Series, rows: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    """Our numbers of rows that groups of trials stand for, and of those that none stands for yet."""
    index = pd.MultiIndex.from_product([rows, names], names=["row", "measure"])
    summary = summarise(outcomes.raw, groups).rename_axis(index.names)
    return summary.reindex(index).rename(columns={"mean": "ours", "half_width": "ours_half_width"})
