"""The tables of a sweep's report: the paper's with ours beside them, and one of all points.

Of every number they say whether it was published by others or run here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from intermoe.evaluation.conventions import PUBLISHED, RUN_HERE
from intermoe.evaluation.measures import HANDS, MEASURES, TABLES, TEXT_AND_MOTION
from pipelines.documents import TextTable, interval_texts
from pipelines.report.differences import Difference, difference
from pipelines.report.outcomes import Outcomes, summarise

# Of every number, in the order of the CSV.
_NUMBERS = ("run_here", "run_here_half_width", "published", "published_half_width")
# Of every order of two rows, in the order of the CSV.
_ORDERS = ("measure", "first", "second", "published", "run_here", "run_here_half_width", "by", "order")
# What the tables of all points show, as far as it was measured: of what the networks make, and of what users get.
_SHOWN = (*TABLES[TEXT_AND_MOTION], "identity")
_SHOWN_SETTLED = ("r_precision_top1", "fid", "identity", *TABLES[HANDS], "foot_skating_cm_s", "jerk_m_s3")


Order = Literal["holds", "is reversed", "cannot be distinguished"]
"""What ours say about two rows that the paper distinguishes."""
_MARKS: Mapping[str, str] = {"holds": "✓", "is reversed": "✗", "cannot be distinguished": "≈"}
_BY_REPLICATIONS = "†"  # beside a mark, where others of the table are by seeds


@dataclass(frozen=True)
class TableNote:
    """What is to be known of published numbers, such as a fault of theirs.

    Attributes:
        text: for people.
        rows: of the table, that it is on; of the table as a whole where there are none.
    """

    text: str
    rows: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ReportTable:
    """Our numbers by row and measure.

    Attributes:
        title: its heading.
        numbers: ``run_here`` and ``run_here_half_width``, indexed by ``row`` and ``measure``; NaN where not known.
        replications: what ours are of: indexed by ``row``, ``trial`` and ``replication``, a column per measure.
        num_seeds: how many seeds ours are over, by row.
    """

    SIDES: ClassVar[tuple[str, ...]] = ("run_here",)

    title: str
    numbers: pd.DataFrame
    replications: pd.DataFrame
    num_seeds: pd.Series

    def column(self, measure: str) -> pd.DataFrame:
        """The numbers of one measure, by row."""
        return self.numbers[self.numbers.index.get_level_values("measure") == measure].droplevel("measure")

    def difference(self, measure: str, first: str, second: str) -> Difference:
        """The difference of two rows of ours."""
        values = self.replications[measure].dropna()
        return difference(values.xs(first, level="row"), values.xs(second, level="row"))

    def shown(self, planned_seeds: int) -> TextTable:
        """The table for people; a row of which seeds are missing says how many it has.

        Bold are the best of each column, and every row that cannot be distinguished from them.
        """
        columns: dict[str, pd.DataFrame] = {}
        for name in self.numbers.index.unique("measure"):
            columns |= self._columns(name)
        labels = [self._label(row, planned_seeds) for row in self.numbers.index.unique("row")]
        texts, bold = (
            pd.DataFrame({heading: column[part] for heading, column in columns.items()}).set_axis(labels)
            for part in ("text", "bold")
        )
        return TextTable(texts, bold)

    def _columns(self, measure: str) -> dict[str, pd.DataFrame]:
        """What is shown of a measure: each column's heading, and its ``text`` and ``bold`` by row."""
        return {f"{MEASURES[measure].title}, {RUN_HERE}": self._side(measure, "run_here")}

    def _side(self, measure: str, side: str) -> pd.DataFrame:
        numbers = self.column(measure)
        texts = interval_texts(numbers[side], numbers[f"{side}_half_width"])
        return pd.DataFrame({"text": texts, "bold": [self._is_best(measure, side, row) for row in numbers.index]})

    def _is_best(self, measure: str, side: str, row: str) -> bool:
        """Whether a row has the best number of its column, or cannot be distinguished from one that has."""
        means = self.column(measure)[side]
        best = MEASURES[measure].best(means)
        return bool(pd.notna(means[row])) and any(
            row == other or not self._is_distinguished(measure, side, row, other) for other in best
        )

    def _is_distinguished(self, measure: str, side: str, first: str, second: str) -> bool:
        if side == "run_here":
            return self.difference(measure, first, second).is_distinguished
        # Only means and intervals are known: the half width of a difference of independent means.
        pair = self.column(measure).loc[[first, second]]
        return bool(abs(pair[side].diff().iloc[1]) > np.hypot(*pair[f"{side}_half_width"]))

    def _label(self, row: str, planned_seeds: int) -> str:
        """The row's name, with how many of the planned seeds are done where some are missing."""
        seeds = self.num_seeds.get(row, 0)
        return row if seeds in (0, planned_seeds) else f"{row} ({seeds} of {planned_seeds} seeds)"


@dataclass(frozen=True, eq=False)
class PaperTable(ReportTable):
    """A table of the paper with ours beside it: its numbers have ``published`` and ``published_half_width`` too.

    Attributes:
        notes: what is to be known of the paper's numbers.

    Two rows of the paper, of which only means and intervals are known, are distinguished where the means differ by more
    than the root of the sum of their squared half widths: the half width of the difference of independent means.
    """

    SIDES = ("run_here", "published")

    notes: tuple[TableNote, ...] = ()

    @property
    def note_lines(self) -> list[str]:
        """The notes for people; those on some rows alone begin with the mark that these rows have."""
        return [f"{self._note_marks[note]}{note.text}" for note in self.notes]

    @cached_property
    def _note_marks(self) -> dict[TableNote, str]:
        """The mark of each note and a blank after it; empty where it is on the table as a whole."""
        on_rows = [note for note in self.notes if note.rows]
        return {note: f"[{on_rows.index(note) + 1}] " if note.rows else "" for note in self.notes}

    def _label(self, row: str, planned_seeds: int) -> str:
        marks = "".join(f" {self._note_marks[note].rstrip()}" for note in self.notes if row in note.rows)
        return super()._label(row, planned_seeds) + marks

    @cached_property
    def orders(self) -> pd.DataFrame:
        """Whether ours order two rows as the paper does, for all pairs of rows that the paper distinguishes.

        Columns: ``measure``; ``first`` and ``second``, the rows; ``published`` and ``run_here``, the first less the
        second; ``run_here_half_width``; ``by``, what that interval is over; ``order``.
        """
        lines = []
        for name in self.numbers.index.unique("measure"):
            known = self.column(name).dropna(subset=["run_here", "published"])
            for first, second in combinations(known.index, 2):
                if self._is_distinguished(name, "published", first, second):
                    paper = known["published"][first] - known["published"][second]
                    ours = self.difference(name, first, second)
                    order = _order(ours, paper)
                    lines.append((name, first, second, paper, ours.mean, ours.half_width, ours.basis, order))
        return pd.DataFrame(lines, columns=list(_ORDERS))

    def order(self) -> str:
        """In words, whether the paper's order of rows holds, with the legend of its marks."""
        if self.orders.empty:
            return "The paper's order of rows: no two rows that it distinguishes are done."
        # Before the paper's best row is done, there are no marks.
        by = (self.orders if self._marked.empty else self._marked)["by"].unique()
        basis = f"by seeds, {_BY_REPLICATIONS} by replications" if len(by) > 1 else f"by {by[0]}"
        marks = ", ".join(f"{mark} {order}" for order, mark in _MARKS.items())
        counts = "; ".join(self._count(name) for name in self.orders["measure"].unique())
        return (
            f"Order of each row and the paper's best: {marks} ({basis}). Of all pairs of rows that the paper "
            f"distinguishes: {counts}."
        )

    def _count(self, measure: str) -> str:
        orders = self.orders["order"][self.orders["measure"] == measure]
        counts = ", ".join(f"{mark} {(orders == order).sum()}" for order, mark in _MARKS.items())
        return f"{MEASURES[measure].heading} {counts}"

    def _columns(self, measure: str) -> dict[str, pd.DataFrame]:
        title = MEASURES[measure].title
        marks = [self._mark(measure, row) for row in self.column(measure).index]
        ours = self._side(measure, "run_here")
        return {
            f"{title}, {RUN_HERE}": ours,
            f"{MEASURES[measure].heading}, order": pd.DataFrame({"text": marks, "bold": False}, index=ours.index),
            f"{title}, {PUBLISHED}": self._side(measure, "published"),
        }

    def _mark(self, measure: str, row: str) -> str:
        """Whether the order of a row and of the paper's best holds; empty where one of them is not known."""
        marked = self._marked[self._marked["measure"] == measure]
        pair = marked[(marked["first"] == row) | (marked["second"] == row)]
        if pair.empty or row in self._best_of_paper(measure):
            return ""
        is_exception = pair["by"].iloc[0] == "replications" and self._marked["by"].nunique() > 1
        return _MARKS[pair["order"].iloc[0]] + (_BY_REPLICATIONS if is_exception else "")

    @cached_property
    def _marked(self) -> pd.DataFrame:
        """The orders of the paper's best row, in each measure, and others."""
        best = [self._best_of_paper(name) for name in self.orders["measure"]]
        rows = zip(self.orders["first"], self.orders["second"], best, strict=True)
        return self.orders[np.array([bool({first, second} & names) for first, second, names in rows], dtype=bool)]

    def _best_of_paper(self, measure: str) -> set[str]:
        return MEASURES[measure].best(self.column(measure)["published"])


def paper_table(number: str, table: Mapping[str, Any], outcomes: Outcomes) -> PaperTable:
    """A table of the paper, with what is done of ours.

    Args:
        number: of the table.
        table: its title, rows and notes, as in the sweep file.
        outcomes: of the trials that are done.
    """
    standing = outcomes.rows[outcomes.rows["table"] == number].set_index("trial")["row"]
    paper = pd.DataFrame(
        [(row, name, *numbers) for row, measures in table["rows"].items() for name, numbers in measures.items()],
        columns=["row", "measure", "published", "published_half_width"],
    ).set_index(["row", "measure"])
    names = [name for name in MEASURES if name in paper.index.unique("measure")]
    numbers = _ours(outcomes.raw, standing, list(table["rows"]), names).join(paper)
    title = f"Table {number}: {table['title']}"
    notes = tuple(TableNote(note["text"], tuple(note["rows"])) for note in table.get("notes", ()))
    return PaperTable(title, numbers, _members(outcomes.raw, standing), standing.value_counts(sort=False), notes)


def points_table(outcomes: Outcomes) -> ReportTable:
    """All points, whether or not they stand for a row of the paper."""
    return _all_points("All points", outcomes, outcomes.raw, _SHOWN)


def settled_table(outcomes: Outcomes) -> ReportTable:
    """All points by the motion that users get, with what is seen of it."""
    return _all_points("All points, as users get them", outcomes, outcomes.settled, _SHOWN_SETTLED)


def _all_points(title: str, outcomes: Outcomes, replications: pd.DataFrame, shown: Sequence[str]) -> ReportTable:
    points = outcomes.trials["point"]
    measured = replications.dropna(axis="columns", how="all").columns
    names = [name for name in shown if name in measured]
    numbers = _ours(replications, points, list(points.unique()), names)
    return ReportTable(title, numbers, _members(replications, points), points.value_counts(sort=False))


def tables_csv(paper: Mapping[str, PaperTable], points: ReportTable, settled: ReportTable) -> str:
    """Every number of the paper's tables and of all points, whose table has no number, as CSV.

    That of the motion that users get is called "settled".
    """
    named = {**paper, "": points, "settled": settled}
    tables = pd.concat({number: table.numbers for number, table in named.items()}, names=["table"])
    return tables.reindex(columns=list(_NUMBERS)).to_csv()


def orders_csv(paper: Mapping[str, PaperTable]) -> str:
    """Whether the paper's order of two rows holds, for every pair of its tables that it distinguishes, as CSV."""
    if not paper:
        return pd.DataFrame(columns=["table", *_ORDERS]).to_csv(index=False)
    tables = pd.concat({number: table.orders for number, table in paper.items()}, names=["table", "pair"])
    return tables.droplevel("pair").to_csv()


def _order(ours: Difference, paper: float) -> Order:
    if not ours.is_distinguished:
        return "cannot be distinguished"
    return "holds" if ours.mean * paper > 0 else "is reversed"


def _members(replications: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """The replications of the trials of each row, indexed by ``row``, ``trial`` and ``replication``."""
    members = groups.rename_axis("trial").rename("row").reset_index()
    return members.merge(replications.reset_index(), on="trial").set_index(["row", "trial", "replication"])


def _ours(replications: pd.DataFrame, groups: pd.Series, rows: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    """Our numbers of rows that groups of trials stand for, and of those that none stands for yet."""
    index = pd.MultiIndex.from_product([rows, names], names=["row", "measure"])
    summary = summarise(replications, groups).rename_axis(index.names)
    return summary.reindex(index).rename(columns={"mean": "run_here", "half_width": "run_here_half_width"})
