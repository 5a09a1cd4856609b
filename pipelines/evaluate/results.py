"""The table of an evaluation: in the terminal, as JSON, Markdown and one self-contained HTML page with a plot."""

import html
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.table import Table

from intermoe.evaluation.measures import HEADINGS, TABLES
from intermoe.evaluation.metrics import Interval
from intermoe.evaluation.protocol import Row
from intermoe.files import write_json
from pipelines.documents import html_page, html_table, image, markdown_table, png


@dataclass(frozen=True)
class Results:
    """What an evaluation found.

    Attributes:
        values: row -> measure -> one value a replication.
        about: what was evaluated, with what, and how.
    """

    values: Mapping[Row, Mapping[str, Sequence[float]]]
    about: Mapping[str, Any]

    @cached_property
    def intervals(self) -> dict[Row, dict[str, Interval]]:
        """Mean and 95% interval of each measure of each row."""
        return {
            row: {name: Interval.of(values) for name, values in measures.items()}
            for row, measures in self.values.items()
        }

    @cached_property
    def measures(self) -> list[str]:
        """The measures that some row has, in the order of their headings."""
        return [name for name in HEADINGS if any(name in measured for measured in self.values.values())]

    def metrics(self, row: Row | None = None) -> dict[str, float]:
        """The means as plain numbers, ``generated/fid`` and so on; of one row alone without its name."""
        return {
            name if row else f"{which}/{name}": interval.mean
            for which, measures in self.intervals.items()
            if row in (None, which)
            for name, interval in measures.items()
        }

    def columns(self) -> dict[str, list[Any]]:
        """The table by columns; a cell that is not known is empty."""
        found: dict[str, list[Any]] = {"row": list(self.intervals)}
        return found | {HEADINGS[name]: [self.cell(row, name) for row in self.intervals] for name in self.measures}

    def cell(self, row: Row, name: str) -> str:
        """One number with its interval, where there is more than one replication.

        Example:
            >>> Results({"real": {"fid": [1.0, 3.0]}}, {}).cell("real", "fid")
            '2.000 ±1.386'
        """
        if name not in self.values[row]:
            return ""
        interval = self.intervals[row][name]
        return str(interval) if len(self.values[row][name]) > 1 else f"{interval.mean:.3f}"

    def document(self) -> dict[str, Any]:
        """All there is, as plain values."""
        return {
            "about": dict(self.about),
            "rows": {
                row: {
                    name: {
                        "mean": interval.mean,
                        "half_width": interval.half_width,
                        "replications": list(self.values[row][name]),
                    }
                    for name, interval in measures.items()
                }
                for row, measures in self.intervals.items()
            },
        }

    def notes(self) -> list[str]:
        """What has to be known to read the numbers."""
        config = self.about["evaluation"]
        pool = config["pool"]
        chance = ", ".join(f"{top / pool:.3f}" for top in (1, 2, 3))
        few = config["multimodality"]
        recordings = self.about["recordings"]
        notes = [
            (
                f"{config['replications']} replications from seed {self.about['seed']}: mean and 95% interval, 1.96 "
                "standard deviations over the root of their number."
            ),
            (
                f"{recordings} recordings of the {self.about['split']} split. R-precision in pools of {pool} (chance: "
                f"{chance}). FID and Diversity of embeddings times 6, Diversity halved, over "
                f"{min(config['diversity_pairs'], recordings)} pairs."
            ),
            (
                f"Guidance {self.about['guidance']:g}. The untrained row: the model's VAE, and weights as before "
                "training, in a quarter of the replications."
            ),
        ]
        if few["captions"]:
            notes.append(
                f"MultiModality: {min(few['captions'], recordings)} captions, {few['samples']} motions of each, "
                f"{min(few['pairs'], few['samples'])} pairs."
            )
        if "identity" in self.measures:
            notes.append(
                "Identity is told by rules of mechanics, not by a network. By chance it is 0.5; where the person named "
                "first is the first (data.persons), the untrained row tells what one same motion gives. Swapped: "
                "the captions name the persons the other way round (real: of the same motions, so it is 1 - identity; "
                "generated: of motions made from them, in the first replication). Shuffled: captions of other samples."
            )
        return notes


def terminal_table(results: Results) -> Table:
    """The table for people at a terminal: a measure a line, so that it fits."""
    table = Table()
    table.add_column("")
    for row in results.values:
        table.add_column(row, justify="right", no_wrap=True)
    for title, names in _known(results):
        table.add_section()
        table.add_row(f"[bold]{title}[/bold]")
        for name in names:
            table.add_row(HEADINGS[name], *(results.cell(row, name) for row in results.values))
    return table


def markdown(results: Results) -> str:
    """The tables as Markdown."""
    lines = [f"# {results.about['name']}: evaluation", ""]
    for title, head, rows in _plain_tables(results):
        lines += [f"## {title}", "", *markdown_table(head, rows)]
    lines += [f"- {note}" for note in results.notes()]
    lines += ["", *(f"- {name}: `{results.about[name]}`" for name in ("model", "evaluator", "data"))]
    return "\n".join(lines) + "\n"


def page(results: Results) -> str:
    """The tables and the plot as one HTML page that needs nothing else."""
    body = [f"<h1>{html.escape(results.about['name'])}: evaluation</h1>"]
    for title, head, rows in _plain_tables(results):
        escaped = [[html.escape(cell) for cell in row] for row in (head, *rows)]
        body.append(f"<h2>{html.escape(title)}</h2>{html_table(escaped[0], escaped[1:])}")
    body.append(f"<h2>All measures</h2>{plot(results)}")
    body.append("<ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in results.notes()) + "</ul>")
    about = "".join(
        f"<tr><th>{name}</th><td><code>{html.escape(json.dumps(value))}</code></td></tr>"
        for name, value in results.about.items()
    )
    body.append(f"<h2>What was evaluated</h2><table class='about'>{about}</table>")
    return html_page("Evaluation", body)


def plot(results: Results) -> str:
    """One small plot a measure, the rows below each other with their intervals, as an ``<img>``."""
    from matplotlib.figure import Figure

    rows = list(results.intervals)
    names = results.measures
    across = 4
    down = -(-len(names) // across)
    figure = Figure(figsize=(3.2 * across, (0.8 + 0.35 * len(rows)) * down), layout="constrained", dpi=110)
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis, name in zip(axes, names, strict=False):
        axis.set_title(HEADINGS[name], fontsize=9)
        for place, row in enumerate(rows):
            if name in results.intervals[row]:
                interval = results.intervals[row][name]
                axis.errorbar(
                    interval.mean,
                    place,
                    xerr=interval.half_width,
                    fmt="o",
                    color=_COLOURS[row],
                    capsize=3,
                    markersize=5,
                )
        axis.set_yticks(range(len(rows)), rows, fontsize=8)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(axis="x", alpha=0.3)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    return image(png(figure), "mean and interval of each measure")


def publish(results: Results, folder: Path, out: Path, used: Sequence[str]) -> list[Path]:
    """Write the results into a folder and give it its name; the files.

    Args:
        results: what was found.
        folder: where they are written, beside ``out``.
        out: the name, of a folder that is not there or empty.
        used: what else lies in the folder, removed once the results are written.
    """
    write_json(folder / "results.json", results.document())
    (folder / "results.md").write_text(markdown(results), "utf-8")
    (folder / "results.html").write_text(page(results), "utf-8")
    for name in used:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    folder.replace(out)
    return [out / f"results.{suffix}" for suffix in ("json", "md", "html")]


def _known(results: Results) -> list[tuple[str, list[str]]]:
    """The titles of the tables, and the measures in them that some row has."""
    tables = [(title, [name for name in names if name in results.measures]) for title, names in TABLES.items()]
    return [(title, names) for title, names in tables if names]


def _plain_tables(results: Results) -> list[tuple[str, list[str], list[list[str]]]]:
    """Of each table its title, its headings, and its rows; their first column names the row."""
    return [
        (
            title,
            ["", *(HEADINGS[name] for name in names)],
            [[row, *(results.cell(row, name) for name in names)] for row in results.values],
        )
        for title, names in _known(results)
    ]


_COLOURS: Mapping[Row, str] = {
    "real": "#333333",
    "generated": "#d1495b",
    "raw": "#edae49",
    "untrained": "#9a9a9a",
}
