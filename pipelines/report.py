"""From a sweep to the paper's tables, ours beside theirs, and plots: Markdown, one HTML page, CSV."""

import csv
import html
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from intermoe.errors import UserError
from intermoe.evaluation.metrics import Interval
from pipelines.outcomes import Outcome, mean_of, pooled, read_outcome
from pipelines.plots import plots
from pipelines.results import HEADINGS, html_page, html_table, markdown_table
from pipelines.sweep import SWEEP_FILE
from pipelines.tracking import Run
from pipelines.trial import OUTCOME


@dataclass(frozen=True)
class Line:
    """One row of a table: by measure ours and the paper's mean and half width, each None where it is not known."""

    row: str
    ours: Mapping[str, Interval | None]
    paper: Mapping[str, Interval]


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
            apart = abs(ours.mean - other_ours.mean) > ours.half_width + other_ours.half_width
            found.append(((ours.mean - other_ours.mean) * (paper.mean - other_paper.mean) > 0, apart))
        clear = [same for same, apart in found if apart]
        return Agreement(sum(same for same, _ in found), len(found), sum(clear), len(clear))

    def best(self, measure: str, side: Callable[[Line], Interval | None]) -> set[str]:
        """The rows that are best by a measure, on one side; several where they are equal, none where none can be."""
        known = {line.row: mean_of(side(line)) for line in self.lines if side(line) is not None}
        if not known or "→" in HEADINGS[measure]:
            return set()
        best = max(known.values()) if "↑" in HEADINGS[measure] else min(known.values())
        return {row for row, mean in known.items() if mean == best}


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
    missing = [trial["points"][0] for trial in note["trials"] if trial["key"] not in done]
    partial = out.with_name(f".{out.name}.{uuid4().hex}")
    partial.mkdir(parents=True)
    (partial / "report.md").write_text(_markdown(note, tables, outcomes, missing), "utf-8")
    (partial / "report.html").write_text(_page(note, tables, outcomes, missing, plots(outcomes)), "utf-8")
    (partial / "tables.csv").write_text(_csv(tables), "utf-8")
    if out.exists():
        shutil.rmtree(out)
    partial.replace(out)
    files = [out / name for name in ("report.html", "report.md", "tables.csv")]
    # Not reopened: whether the sweep's run is at its end is not for a report to say.
    run = Run(note["tracking_uri"], note["run_id"])
    for file in files:
        run.log_artifact(file)
    return files


def _check_out(out: Path) -> None:
    """Raise where something else than an earlier report lies in the report's place."""
    known = {"report.html", "report.md", "tables.csv"}
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= known):
        raise UserError("holds something else than a report", where=out, allowed="another --out")


def _note(folder: Path) -> dict[str, Any]:
    file = folder / SWEEP_FILE
    if not file.is_file():
        raise UserError("holds no sweep", where=folder, allowed="a folder of `intermoe sweep`")
    note: dict[str, Any] = json.loads(file.read_text("utf-8"))
    if "trials" not in note:
        raise UserError("the sweep has not begun its trials yet", where=folder, allowed="`intermoe sweep --resume`")
    return note


def _table(number: str, table: Mapping[str, Any], outcomes: Sequence[Outcome]) -> PaperTable:
    measures = tuple(name for name in HEADINGS if any(name in row for row in table["rows"].values()))
    lines = []
    for row, paper in table["rows"].items():
        own = [outcome for outcome in outcomes if (number, row) in outcome.rows]
        ours = {name: pooled([outcome.values.get(name, ()) for outcome in own]) for name in measures}
        lines.append(Line(row, ours, {name: Interval(*numbers) for name, numbers in paper.items()}))
    return PaperTable(number, table["title"], measures, tuple(lines))


def _cells(table: PaperTable, line: Line, mark: Callable[[str], str]) -> list[str]:
    """Ours and the paper's number of each measure, the best of a column marked."""
    cells = []
    for name in table.measures:
        for side in (lambda one, name=name: one.ours.get(name), lambda one, name=name: one.paper.get(name)):
            interval = side(line)
            text = "" if interval is None else str(interval)
            cells.append(mark(text) if line.row in table.best(name, side) else text)
    return cells


def _heads(table: PaperTable) -> list[str]:
    return [f"{HEADINGS[name]}, {who}" for name in table.measures for who in ("ours", "paper")]


def _order_line(table: PaperTable) -> str:
    parts = []
    for name in table.measures:
        found = table.agreement(name)
        if found.pairs:
            verdict = "holds" if found.same == found.pairs else "does not hold"
            counts = f"{found.same} of {found.pairs} pairs of rows"
            counts += f", {found.clear_same} of the {found.clear} whose intervals do not overlap"
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


def _notes(note: Mapping[str, Any], outcomes: Sequence[Outcome], missing: Sequence[str]) -> list[str]:
    trained, evaluated = (sum(one.seconds[place] for one in outcomes) for place in (0, 1))
    shared = note["seconds_shared"]
    real = ", ".join(f"{HEADINGS[name]} {np.mean(outcomes[0].real[name]):.3f}" for name in ("r_precision_top1", "fid"))
    found = [
        f"Profile {note['profile']}. Ours: mean and 95% interval over {_seeds(note)}. The paper's: InterHuman.",
        f"Recorded motion by the same evaluator: {real}.",
        f"Training the VAE took {shared['vae']:,.0f} s, the evaluator {shared['evaluator']:,.0f} s.",
        f"Of the trials' time, evaluation took {evaluated / (trained + evaluated):.0%}.",
    ]
    found += [f"Failed: {name}: {reason}" for name, reason in note["failed"].items()]
    if missing:
        found.append(f"Not done, or stopped early: {', '.join(missing)}.")
    return found


def _seeds(note: Mapping[str, Any]) -> str:
    """What the intervals are over."""
    seeds = len({trial["seed"] for trial in note["trials"]})
    if seeds == 1:
        return "the replications of evaluation; how much another seed of the training would change is not in it"
    return f"{seeds} seeds and the replications of evaluation"


def _markdown(
    note: Mapping[str, Any], tables: Sequence[PaperTable], outcomes: Sequence[Outcome], missing: Sequence[str]
) -> str:
    lines = [f"# {note['name']}", ""]
    for table in tables:
        lines += [f"## Table {table.number}: {table.title}", ""]
        lines += markdown_table(
            ["", *_heads(table)], [[x.row, *_cells(table, x, "**{}**".format)] for x in table.lines]
        )
        lines += [_order_line(table), ""]
    lines += ["## Cost", "", *markdown_table(*_cost(outcomes))]
    return "\n".join([*lines, *(f"- {text}" for text in _notes(note, outcomes, missing)), ""])


def _page(
    note: Mapping[str, Any],
    tables: Sequence[PaperTable],
    outcomes: Sequence[Outcome],
    missing: Sequence[str],
    pictures: Mapping[str, str],
) -> str:
    body = [f"<h1>{html.escape(note['name'])}</h1>"]
    for table in tables:
        body.append(f"<h2>Table {html.escape(table.number)}: {html.escape(table.title)}</h2>")
        rows = [[html.escape(x.row), *_cells(table, x, "<b>{}</b>".format)] for x in table.lines]
        body.append(html_table(["", *map(html.escape, _heads(table))], rows))
        body.append(f"<p>{html.escape(_order_line(table))}</p>")
    body += [f"<h2>{html.escape(title)}</h2>{image}" for title, image in pictures.items()]
    head, rows = _cost(outcomes)
    body.append(f"<h2>Cost</h2>{html_table(head, [[html.escape(cell) for cell in row] for row in rows])}")
    notes = "".join(f"<li>{html.escape(text)}</li>" for text in _notes(note, outcomes, missing))
    return html_page(note["name"], [*body, f"<ul>{notes}</ul>"])


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
