"""From a sweep to the paper's tables, ours beside theirs, and plots: Markdown, one HTML page, CSV."""

import csv
import html
import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from intermoe.errors import UserError
from intermoe.evaluation.measures import HEADINGS
from intermoe.evaluation.metrics import Interval
from pipelines.documents import html_page, html_table, image, markdown_table
from pipelines.report.outcomes import Outcome, pooled, read_outcome
from pipelines.report.plots import PLOTS, Plot, plots
from pipelines.sweep.request import sweep_note
from pipelines.sweep.trial import OUTCOME
from pipelines.tracking.runs import Run

_FILES = ("report.html", "report.md", "tables.csv")
# What the table of all points shows, as far as it was measured.
_SHOWN = ("r_precision_top1", "r_precision_top2", "r_precision_top3", "fid", "mm_dist", "diversity", "identity")


@dataclass(frozen=True)
class Line:
    """One row of a table.

    Attributes:
        row: its name.
        ours: by measure our mean and half width, None where nothing is done yet.
        paper: the paper's.
        seeds: how many ours are over.
    """

    row: str
    ours: Mapping[str, Interval | None]
    paper: Mapping[str, Interval]
    seeds: int = 0


@dataclass(frozen=True)
class Agreement:
    """How many pairs of rows stand in the paper's order by ours too.

    Attributes:
        same: of all pairs.
        pairs: that both know.
        clear_same: of those that are told apart.
        clear: pairs whose intervals, of ours, do not overlap.
    """

    same: int
    pairs: int
    clear_same: int
    clear: int


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper with ours beside it."""

    number: str
    title: str
    measures: tuple[str, ...]
    lines: tuple[Line, ...]

    def agreement(self, measure: str) -> Agreement:
        """Whether ours order the rows as the paper's do."""
        known = [(ours, line.paper[measure]) for line in self.lines if (ours := line.ours.get(measure))]
        found = []
        for (ours, paper), (other_ours, other_paper) in combinations(known, 2):
            if paper.mean == other_paper.mean:
                continue
            apart = abs(ours.mean - other_ours.mean) > ours.half_width + other_ours.half_width
            found.append(((ours.mean - other_ours.mean) * (paper.mean - other_paper.mean) > 0, apart))
        clear = [same for same, apart in found if apart]
        return Agreement(sum(same for same, _ in found), len(found), sum(clear), len(clear))

    def best(self, measure: str, side: Callable[[Line], Interval | None]) -> set[str]:
        """The rows that are best by a measure, on one side; several where they are equal, none where none can be."""
        known = {line.row: interval.mean for line in self.lines if (interval := side(line)) is not None}
        if not known or "→" in HEADINGS[measure]:
            return set()
        best = max(known.values()) if "↑" in HEADINGS[measure] else min(known.values())
        return {row for row, mean in known.items() if mean == best}


@dataclass(frozen=True)
class Made:
    """What a report is made of.

    Attributes:
        note: the sweep's own.
        tables: of the paper.
        outcomes: of the trials that are done.
        missing: the names of the others.
        plots: the pictures.
    """

    note: Mapping[str, Any]
    tables: Sequence[PaperTable]
    outcomes: Sequence[Outcome]
    missing: Sequence[str]
    plots: Sequence[Plot] = ()

    @property
    def seeds(self) -> int:
        """How many seeds are planned."""
        return len({trial["seed"] for trial in self.note["trials"]})

    @property
    def points(self) -> PaperTable:
        """A table of all points."""
        return _points(self.outcomes)


def report(folder: Path, out: Path) -> list[Path]:
    """Write the report of a sweep, also of one that is running, and record it on the sweep's MLflow run.

    Args:
        folder: of the sweep; trials that are not done are left out.
        out: the folder of the report; one of an earlier report is replaced.

    Returns:
        ``report.html``, ``report.md`` and ``tables.csv``.

    Raises:
        UserError: no sweep there, or no trial of it is done.
    """
    note = _note(folder)
    _check_out(out)
    done = {trial["key"] for trial in note["trials"] if (folder / "trials" / trial["key"] / OUTCOME).is_file()}
    outcomes = [read_outcome(folder, trial, note["tracking_uri"]) for trial in note["trials"] if trial["key"] in done]
    if not outcomes:
        raise UserError("no trial is done", where=folder, allowed="`intermoe sweep --resume`")
    tables = [_table(number, table, outcomes) for number, table in note["tables"].items()]
    missing = [f"{trial['points'][0]} (seed {trial['seed']})" for trial in note["trials"] if trial["key"] not in done]
    made = Made(note, tables, outcomes, missing, plots(outcomes))
    contents = {"report.html": _page(made).encode(), "report.md": _markdown(made).encode()}
    contents |= {"tables.csv": _csv([*tables, made.points]).encode()}
    contents |= {plot.name: plot.png for plot in made.plots}
    _write(contents, out.absolute())
    # Not reopened: whether the sweep's run is at its end is not for a report to say.
    run = Run.attach(note["tracking_uri"], note["run_id"])
    for name in contents:
        run.log_artifact(out / name)
    return [out / name for name in _FILES]


def _write(contents: Mapping[str, bytes], out: Path) -> None:
    """The files of a report in their folder, all at once."""
    partial = out.with_name(f".{out.name}.{uuid4().hex}")
    try:
        partial.mkdir(parents=True)
        for name, content in contents.items():
            (partial / name).write_bytes(content)
        if out.exists():
            shutil.rmtree(out)
        partial.replace(out)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=out) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_out(out: Path) -> None:
    """Raise where something else than an earlier report lies in the report's place."""
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= {*_FILES, *PLOTS}):
        raise UserError("holds something else than a report", where=out, allowed="another --out")


def _note(folder: Path) -> dict[str, Any]:
    note = sweep_note(folder)
    if not note:
        raise UserError("holds no sweep", where=folder, allowed="a folder of `intermoe sweep`")
    if "trials" not in note:
        raise UserError("the sweep has not begun its trials yet", where=folder, allowed="`intermoe sweep --resume`")
    return note


def _table(number: str, table: Mapping[str, Any], outcomes: Sequence[Outcome]) -> PaperTable:
    measures = tuple(name for name in HEADINGS if any(name in row for row in table["rows"].values()))
    lines = []
    for row, paper in table["rows"].items():
        own = [outcome for outcome in outcomes if (number, row) in outcome.rows]
        lines.append(_line(row, own, measures, {name: Interval(*numbers) for name, numbers in paper.items()}))
    return PaperTable(number, table["title"], measures, tuple(lines))


def _points(outcomes: Sequence[Outcome]) -> PaperTable:
    """All points, whether or not they stand for a row of the paper."""
    measures = tuple(name for name in _SHOWN if any(name in one.values for one in outcomes))
    lines = []
    for point in dict.fromkeys(one.point for one in outcomes):
        own = [one for one in outcomes if one.point == point]
        lines.append(_line(point, own, measures, {}))
    return PaperTable("", "All points", measures, tuple(lines))


def _line(row: str, own: Sequence[Outcome], measures: Sequence[str], paper: Mapping[str, Interval]) -> Line:
    """The row that some trials, of one seed each, stand for."""
    ours = {name: pooled([one.values.get(name, ()) for one in own]) for name in measures}
    return Line(row, ours, paper, len(own))


def _cells(table: PaperTable, line: Line, mark: Callable[[str], str]) -> list[str]:
    """Ours and, in a table of the paper, its number of each measure, the best of a column marked."""
    cells = []
    for name in table.measures:
        for side in (lambda one, name=name: one.ours.get(name), lambda one, name=name: one.paper.get(name)):
            interval = side(line)
            text = "" if interval is None else str(interval)
            cells.append(mark(text) if line.row in table.best(name, side) else text)
    return cells if table.number else cells[::2]


def _heads(table: PaperTable) -> list[str]:
    if not table.number:
        return [HEADINGS[name] for name in table.measures]
    return [f"{HEADINGS[name]}, {who}" for name in table.measures for who in ("ours", "paper")]


def _label(line: Line, planned: int) -> str:
    """The row's name, with how many of the planned seeds are done where that is not all."""
    return line.row if line.seeds in (0, planned) else f"{line.row} ({line.seeds} of {planned} seeds)"


def _order_line(table: PaperTable) -> str:
    parts = []
    for name in table.measures:
        found = table.agreement(name)
        if found.pairs:
            verdict = "holds" if found.same == found.pairs else "does not hold"
            counts = f"{found.same} of {found.pairs} pairs of rows"
            counts += f", {found.clear_same} of the {found.clear} whose intervals do not overlap" if found.clear else ""
            parts.append(f"by {HEADINGS[name].rstrip(' ↑↓→')} it {verdict} ({counts})")
    return "The paper's order of rows: " + ("; ".join(parts) if parts else "too few rows to compare") + "."


def _cost(outcomes: Sequence[Outcome]) -> tuple[list[str], list[list[str]]]:
    head = ["trial", "trainable", "active a token", "training, s", "tokens/s", "evaluation, s"]
    rows = [
        [
            one.name,
            f"{one.parameters['trainable']:,}",
            f"{one.parameters['active']:,}",
            f"{one.seconds[0]:,.0f}",
            f"{one.tokens_a_second:,.0f}",
            f"{one.seconds[1]:,.0f}",
        ]
        for one in outcomes
    ]
    return head, rows


def _notes(made: Made) -> list[str]:
    note, outcomes = made.note, made.outcomes
    trained, evaluated = (sum(one.seconds[place] for one in outcomes) for place in (0, 1))
    shared = note["seconds_shared"]
    real = ", ".join(f"{HEADINGS[name]} {np.mean(outcomes[0].real[name]):.3f}" for name in ("r_precision_top1", "fid"))
    found = [
        f"Profile {note['profile']}. Ours: mean and 95% interval over {_over(made.seeds)}. The paper's: InterHuman.",
        f"Recorded motion by the same evaluator: {real}.",
        f"Training the VAE took {shared['vae']:,.0f} s, the evaluator {shared['evaluator']:,.0f} s.",
        f"Of the trials' time, evaluation took {evaluated / (trained + evaluated):.0%}.",
    ]
    found += [f"Failed: {name}: {reason}" for name, reason in note["failed"].items()]
    if made.missing:
        found.append(f"Not done, or stopped early: {', '.join(made.missing)}.")
    return found


def _over(seeds: int) -> str:
    """What the intervals are over."""
    if seeds == 1:
        return "the replications of evaluation; how much another seed of the training would change is not in it"
    return f"{seeds} seeds (of each the mean of its replications, by Student's t)"


def _title(table: PaperTable) -> str:
    return f"Table {table.number}: {table.title}" if table.number else table.title


def _markdown(made: Made) -> str:
    lines = [f"# {made.note['name']}", ""]
    for table in (*made.tables, made.points):
        rows = [[_label(line, made.seeds), *_cells(table, line, "**{}**".format)] for line in table.lines]
        lines += [f"## {_title(table)}", "", *markdown_table(["", *_heads(table)], rows)]
        lines += [_order_line(table), ""] if table.number else []
    for plot in made.plots:
        lines += [f"## {plot.title}", "", f"![{plot.text}]({plot.name})", ""]
    lines += ["## Cost", "", *markdown_table(*_cost(made.outcomes))]
    return "\n".join([*lines, *(f"- {text}" for text in _notes(made)), ""])


def _page(made: Made) -> str:
    body = [f"<h1>{html.escape(made.note['name'])}</h1>"]
    for table in (*made.tables, made.points):
        body.append(f"<h2>{html.escape(_title(table))}</h2>")
        rows = [[html.escape(_label(x, made.seeds)), *_cells(table, x, "<b>{}</b>".format)] for x in table.lines]
        body.append(html_table(["", *map(html.escape, _heads(table))], rows))
        body += [f"<p>{html.escape(_order_line(table))}</p>"] if table.number else []
    body += [f"<h2>{html.escape(plot.title)}</h2>{image(plot.png, plot.text)}" for plot in made.plots]
    head, rows = _cost(made.outcomes)
    body.append(f"<h2>Cost</h2>{html_table(head, [[html.escape(cell) for cell in row] for row in rows])}")
    notes = "".join(f"<li>{html.escape(text)}</li>" for text in _notes(made))
    return html_page(made.note["name"], [*body, f"<ul>{notes}</ul>"])


def _csv(tables: Sequence[PaperTable]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["table", "row", "measure", "ours", "ours_half_width", "paper", "paper_half_width"])
    for table in tables:
        for line in table.lines:
            for name in table.measures:
                sides = [line.ours.get(name), line.paper.get(name)]
                numbers = [n for side in sides for n in ((side.mean, side.half_width) if side else ("", ""))]
                writer.writerow([table.number, line.row, name, *numbers])
    return stream.getvalue()
