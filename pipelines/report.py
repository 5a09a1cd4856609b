"""From a sweep to the paper's tables, ours beside theirs, and plots: Markdown, one HTML page, CSV."""

import csv
import html
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from intermoe import checkpoint
from intermoe.errors import UserError
from intermoe.evaluation.metrics import Interval
from intermoe.model import STRIDE, trained_folder
from intermoe.shards import DatasetFolder
from pipelines.results import HEADINGS, html_page, html_table, markdown_table, picture
from pipelines.settings import flatten
from pipelines.sweep import SWEEP_FILE
from pipelines.tracking import Run, curves
from pipelines.train import run_file
from pipelines.trial import OUTCOME

_CURVES = re.compile(r"train/loss|train/samples_a_second|moe/layer\d+/load\d+")
_SPREAD = ("moe.experts", "moe.c_exp")


@dataclass(frozen=True)
class Outcome:
    """What became of one trial.

    Attributes:
        name: of its first point and seed.
        rows: the tables and rows that it stands for.
        settings: all settings, under dotted names.
        values: measure -> one value a replication; of its generated row.
        real: the same of recorded motion.
        parameters: trainable and active.
        seconds: of training and of evaluating.
        tokens_a_second: latent frames of both persons that a training step took, by the second.
        curves: what it logged, by name: points of step and value.
    """

    name: str
    rows: tuple[tuple[str, str], ...]
    settings: Mapping[str, Any]
    values: Mapping[str, Sequence[float]]
    real: Mapping[str, Sequence[float]]
    parameters: Mapping[str, int]
    seconds: tuple[float, float]
    tokens_a_second: float
    curves: Mapping[str, Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class Line:
    """One row of a table: by measure ours and the paper's mean and half width, each None where it is not known."""

    row: str
    ours: Mapping[str, Interval | None]
    paper: Mapping[str, Interval]


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper with ours beside it."""

    number: str
    title: str
    measures: tuple[str, ...]
    lines: tuple[Line, ...]

    def order(self, measure: str) -> tuple[int, int]:
        """How many pairs of rows stand in the paper's order by ours too, of how many that both know."""
        known = [line for line in self.lines if line.ours.get(measure) and measure in line.paper]
        pairs = list(combinations(known, 2))
        same = 0
        for one, other in pairs:
            ours = _mean(one.ours[measure]) - _mean(other.ours[measure])
            same += ours * (one.paper[measure].mean - other.paper[measure].mean) > 0
        return same, len(pairs)

    def best(self, measure: str, side: Callable[[Line], Interval | None]) -> set[str]:
        """The rows that are best by a measure, on one side; several where they are equal, none where none can be."""
        known = {line.row: _mean(side(line)) for line in self.lines if side(line) is not None}
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
    outcomes = [_outcome(folder, trial, note["tracking_uri"]) for trial in note["trials"] if trial["key"] in done]
    if not outcomes:
        raise UserError("no trial is done", where=folder, allowed="`intermoe sweep --resume`")
    tables = [_table(number, table, outcomes) for number, table in note["tables"].items()]
    missing = [trial["points"][0] for trial in note["trials"] if trial["key"] not in done]
    plots = _plots(outcomes)
    partial = out.with_name(f".{out.name}.{uuid4().hex}")
    partial.mkdir(parents=True)
    (partial / "report.md").write_text(_markdown(note, tables, outcomes, missing), "utf-8")
    (partial / "report.html").write_text(_page(note, tables, outcomes, missing, plots), "utf-8")
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


def _outcome(folder: Path, trial: Mapping[str, Any], uri: str) -> Outcome:
    place = folder / "trials" / trial["key"]
    outcome = json.loads((place / OUTCOME).read_text("utf-8"))
    rows = json.loads((place / "evaluation" / "results.json").read_text("utf-8"))["rows"]
    values, real = ({name: m["replications"] for name, m in rows[row].items()} for row in ("generated", "real"))
    config = checkpoint.documents(trained_folder(place / "denoiser"))["config"]
    logged = curves(uri, outcome["run"], _CURVES)
    speed = [value for _, value in logged.get("train/samples_a_second", [])]
    return Outcome(
        name=f"{trial['points'][0]}" + (f" (seed {trial['seed']})" if trial["seed"] else ""),
        rows=tuple((table, row) for table, row in trial["rows"]),
        settings=flatten(config),
        values=values,
        real=real,
        parameters=outcome["parameters"],
        seconds=(outcome["seconds_training"], outcome["seconds_evaluating"]),
        tokens_a_second=float(np.median(speed)) * _tokens(place, config) if speed else 0.0,
        curves=logged,
    )


def _tokens(place: Path, config: Mapping[str, Any]) -> float:
    """Latent frames of both persons in a training sample, on average."""
    frames = DatasetFolder.open(run_file(place / "denoiser")["data"]).index("train").frames
    return float(2 * ((frames.clip(max=config["data"]["max_frames"]) - 1) // STRIDE).mean())


def _table(number: str, table: Mapping[str, Any], outcomes: Sequence[Outcome]) -> PaperTable:
    measures = tuple(name for name in HEADINGS if any(name in row for row in table["rows"].values()))
    lines = []
    for row, paper in table["rows"].items():
        own = [outcome for outcome in outcomes if (number, row) in outcome.rows]
        ours = {name: _pooled([outcome.values.get(name, ()) for outcome in own]) for name in measures}
        lines.append(Line(row, ours, {name: Interval(*numbers) for name, numbers in paper.items()}))
    return PaperTable(number, table["title"], measures, tuple(lines))


def _pooled(values: Sequence[Sequence[float]]) -> Interval | None:
    """Over seeds and replications."""
    joined = [value for one in values for value in one]
    return Interval.of(joined) if joined else None


def _mean(interval: Interval | None) -> float:
    return float("nan") if interval is None else interval.mean


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
        same, pairs = table.order(name)
        if pairs:
            verdict = "holds" if same == pairs else "does not hold"
            parts.append(f"by {HEADINGS[name].rstrip(' ↑↓→')} it {verdict} ({same} of {pairs} pairs of rows)")
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
        f"Profile {note['profile']}. Ours: mean and 95% interval over seeds and replications. The paper's: InterHuman.",
        f"Recorded motion by the same evaluator: {real}.",
        f"Training the VAE took {shared['vae']:,.0f} s, the evaluator {shared['evaluator']:,.0f} s.",
        f"Of the trials' time, evaluation took {evaluated / (trained + evaluated):.0%}.",
    ]
    found += [f"Failed: {name}: {reason}" for name, reason in note["failed"].items()]
    if missing:
        found.append(f"Not done, or stopped early: {', '.join(missing)}.")
    return found


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
    plots: Mapping[str, str],
) -> str:
    body = [f"<h1>{html.escape(note['name'])}</h1>"]
    for table in tables:
        body.append(f"<h2>Table {html.escape(table.number)}: {html.escape(table.title)}</h2>")
        rows = [[html.escape(x.row), *_cells(table, x, "<b>{}</b>".format)] for x in table.lines]
        body.append(html_table(["", *map(html.escape, _heads(table))], rows))
        body.append(f"<p>{html.escape(_order_line(table))}</p>")
    body += [f"<h2>{html.escape(title)}</h2>{image}" for title, image in plots.items()]
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


def _plots(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Pictures by their titles, each an ``<img>`` that holds its data."""
    from matplotlib.figure import Figure

    found = {}
    for key in _SPREAD:
        group = _spread(outcomes, key)
        if len(group) < 2:
            continue
        figure = Figure(figsize=(9, 3), layout="constrained", dpi=110)
        for axis, name in zip(figure.subplots(1, 3), ("fid", "r_precision_top1", "mm_dist"), strict=True):
            intervals = [_pooled([one.values[name] for one in group[value]]) for value in group]
            means = [_mean(interval) for interval in intervals]
            widths = [interval.half_width if interval else 0.0 for interval in intervals]
            axis.errorbar(range(len(group)), means, yerr=widths, fmt="o-", capsize=3, color="#d1495b")
            axis.set_xticks(range(len(group)), [f"{value:g}" for value in group])
            axis.set_xlabel(key)
            axis.set_title(HEADINGS[name], fontsize=10)
            axis.grid(alpha=0.3)
        found[f"Over {key}"] = picture(figure, f"measures over {key}")
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=110)
    loss, balance = figure.subplots(1, 2)
    for one in outcomes:
        points = one.curves.get("train/loss", [])
        loss.plot([step for step, _ in points], [value for _, value in points], label=one.name, linewidth=1)
        steps, spread = _imbalance(one)
        balance.plot(steps, spread, label=one.name, linewidth=1)
    loss.set(title="Training loss", xlabel="step", yscale="log")
    balance.set(title="Imbalance: deviation of the experts' loads over their mean", xlabel="step")
    balance.title.set_fontsize(9)
    loss.legend(fontsize=6)
    for axis in (loss, balance):
        axis.grid(alpha=0.3)
    found["Training"] = picture(figure, "training loss and load balance of all trials")
    figure = Figure(figsize=(9, 0.8 + 0.28 * len(outcomes)), layout="constrained", dpi=110)
    sizes = {
        "training, s": [one.seconds[0] for one in outcomes],
        "tokens/s": [one.tokens_a_second for one in outcomes],
        "trainable, millions": [one.parameters["trainable"] / 1e6 for one in outcomes],
        "active, millions": [one.parameters["active"] / 1e6 for one in outcomes],
    }
    for number, (axis, (title, values)) in enumerate(zip(figure.subplots(1, 4), sizes.items(), strict=True)):
        axis.barh(range(len(outcomes)), values, color="#5b7f95")
        axis.set_yticks(range(len(outcomes)), [one.name for one in outcomes] if number == 0 else [""] * len(outcomes))
        axis.tick_params(labelsize=7)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=9)
    found["Cost by trial"] = picture(figure, "time, speed and size of all trials")
    return found


def _spread(outcomes: Sequence[Outcome], key: str) -> dict[float, list[Outcome]]:
    """The largest set of trials that differ in that setting alone (and in their seeds), by its values."""
    groups: dict[str, dict[float, list[Outcome]]] = {}
    for one in outcomes:
        rest = {name: value for name, value in one.settings.items() if name not in (key, "seed", "name")}
        if rest.get("moe.selection") != "dense":
            values = groups.setdefault(json.dumps(rest, sort_keys=True, default=str), {})
            values.setdefault(float(one.settings[key]), []).append(one)
    largest = max(groups.values(), key=len, default={})
    return dict(sorted(largest.items()))


def _imbalance(one: Outcome) -> tuple[list[int], list[float]]:
    """Standard deviation of the experts' loads over their mean, averaged over the layers, by step."""
    layers: dict[str, dict[int, list[float]]] = {}
    for name, points in one.curves.items():
        if name.startswith("moe/"):
            for step, value in points:
                layers.setdefault(name.split("/")[1], {}).setdefault(step, []).append(value)
    steps = sorted({step for layer in layers.values() for step in layer})
    spread = []
    for step in steps:
        loads = [np.array(layer[step]) for layer in layers.values() if step in layer]
        spread.append(float(np.mean([load.std() / max(load.mean(), 1e-9) for load in loads])))
    return steps, spread
