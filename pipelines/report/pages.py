"""The pages of a sweep's report: its tables, plots, cost and notes as one document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from intermoe.evaluation.conventions import RUN_HERE
from intermoe.evaluation.measures import MEASURES
from pipelines.documents import Block, BulletList, Document, Paragraph, Picture, Section, TextTable
from pipelines.report.outcomes import Outcomes
from pipelines.report.plots import Plot, plots
from pipelines.report.tables import PaperTable, ReportTable, paper_table, points_table, settled_table

_COSTS = {
    "trainable": "trainable",
    "active": "active per token",
    "seconds_training": "training, s",
    "tokens_per_second": "tokens/s",
    "seconds_evaluating": "evaluation, s",
}
_BY_REPLICATIONS = (
    "by replications, the paired t interval over those of evaluation, which have the same samples in every row; how "
    "much another seed of the training would change is not in it."
)
# By whether there are several seeds.
_DIFFERENCES = {
    False: _BY_REPLICATIONS,
    True: (
        "by seeds, Welch's t interval over the seeds' means (a row of a single seed is taken to vary as the other); "
        f"where both rows have a single seed, {_BY_REPLICATIONS}"
    ),
}


# What is said of recorded motion.
_OF_RECORDED = ("r_precision_top1", "fid", "hands_met", "foot_skating_cm_s", "jerk_m_s3")


@dataclass(frozen=True, eq=False)
class ReportData:
    """The data of a report.

    Attributes:
        note: the sweep's own.
        outcomes: of the trials that are done.
        tables: of the paper, by number.
        points: the table of all points.
        settled: the same of the motion that users get.
        plots: the pictures.
    """

    note: Mapping[str, Any]
    outcomes: Outcomes
    tables: Mapping[str, PaperTable]
    points: ReportTable
    settled: ReportTable
    plots: Sequence[Plot]

    @classmethod
    def of(cls, note: Mapping[str, Any], outcomes: Outcomes) -> Self:
        """The tables and plots of a sweep, from its note and what is done of it."""
        tables = {number: paper_table(number, table, outcomes) for number, table in note["tables"].items()}
        return cls(note, outcomes, tables, points_table(outcomes), settled_table(outcomes), plots(outcomes))

    @property
    def num_seeds(self) -> int:
        """The number of planned seeds."""
        return len({trial["seed"] for trial in self.note["trials"]})

    @property
    def unfinished(self) -> list[str]:
        """The trials that are neither done nor failed."""
        names = [trial["name"] for trial in self.note["trials"]]
        return [name for name in names if name not in self.outcomes.trials.index and name not in self.note["failed"]]


def report_document(data: ReportData) -> Document:
    """The report, ready to be written as Markdown or HTML."""
    seeds = data.num_seeds
    return Document(
        data.note["name"],
        [
            *(Section(table.title, _blocks(table, seeds)) for table in data.tables.values()),
            *(Section(table.title, [table.shown(seeds)]) for table in (data.points, data.settled)),
            *(Section(plot.title, [Picture(plot.png, plot.text, plot.file)]) for plot in data.plots),
            Section("Cost", [_costs(data.outcomes)]),
            Section("Notes", [BulletList(_notes(data))]),
        ],
    )


def _blocks(table: PaperTable, seeds: int) -> list[Block]:
    notes: list[Block] = [BulletList(table.note_lines)] if table.notes else []
    return [table.shown(seeds), *notes, Paragraph(table.order())]


def _costs(outcomes: Outcomes) -> TextTable:
    costs = outcomes.trials[list(_COSTS)].rename(columns=_COSTS)
    return TextTable(costs.map("{:,.0f}".format).where(costs.notna(), ""))


def _notes(data: ReportData) -> list[str]:
    note, trials = data.note, data.outcomes.trials
    # The same motion for every trial, so that one of them speaks for all.
    recorded = data.outcomes.replications.query("trial == @trials.index[0] and row == 'recorded'").mean()
    named = [name for name in _OF_RECORDED if name in recorded.dropna()]
    numbers = ", ".join(
        f"{MEASURES[name].heading} {recorded[name]:.3f} {MEASURES[name].unit}".strip() for name in named
    )
    training, evaluation = trials["seconds_training"].sum(), trials["seconds_evaluating"].sum()
    shared = note["seconds_shared"]
    notes = [
        f"Profile {note['profile']}. Published: the paper's numbers, on its data, copied from it.",
        (
            "Run here: of what the network makes, as in the paper (the row raw of an evaluation), but for the table of "
            f"what users get, settled motion (its row generated): mean and 95% interval over {_over(data.num_seeds)}."
        ),
        (
            "Bold: the best, and all that cannot be distinguished from it. Two rows are distinguished where the 95% "
            "interval of their difference leaves out 0, each pair by itself: "
            f"{_DIFFERENCES[data.num_seeds > 1]} All pairs are in orders.csv."
        ),
        f"Recorded motion by the same evaluator, {RUN_HERE}: {numbers}.",
        f"The training of VAEs took {shared['vae']:,.0f} s, the evaluator {shared['evaluator']:,.0f} s.",
        f"Of the trials' time, evaluation took {evaluation / (training + evaluation):.0%}.",
        *(f"Failed: {name}: {reason}" for name, reason in note["failed"].items()),
    ]
    if data.unfinished:
        notes.append(f"Not done, or stopped early: {', '.join(data.unfinished)}.")
    return notes


def _over(num_seeds: int) -> str:
    """What the intervals are over."""
    if num_seeds == 1:
        return "the replications of evaluation; how much another seed of the training would change is not in it"
    return f"{num_seeds} seeds (of each the mean of its replications, by Student's t)"
