"""The table of an evaluation: in the terminal, as JSON, Markdown and one self-contained HTML page with a plot."""

import base64
import html
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.table import Table

from intermoe.disk import write_json
from intermoe.evaluation.metrics import Interval
from intermoe.evaluation.protocol import Row

# What stands above a column, and which way is better: "↑" more, "↓" less, "→" as near to the real row as can be.
HEADINGS: Mapping[str, str] = {
    "r_precision_top1": "R top 1 ↑",
    "r_precision_top2": "R top 2 ↑",
    "r_precision_top3": "R top 3 ↑",
    "fid": "FID ↓",
    "mm_dist": "MM Dist ↓",
    "diversity": "Diversity →",
    "multimodality": "MultiModality ↑",
    "identity": "Identity ↑",
    "identity_swapped": "with swapped captions",
    "identity_shuffled": "with shuffled captions",
    "foot_skating_cm_s": "Foot skating, cm/s →",
    "floor_penetration_cm": "In the floor, cm ↓",
    "bone_length_deviation_cm": "Bone deviation, cm ↓",
    "interpenetration_cm": "In each other, cm →",
    "jerk_m_s3": "Jerk, m/s³ →",
}
TABLES: Mapping[str, Sequence[str]] = {
    "Text and motion": tuple(HEADINGS)[:7],
    "Who acts: share of motions that agree with the caption": tuple(HEADINGS)[7:10],
    "Physical plausibility": tuple(HEADINGS)[10:],
}


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


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, numbers to the right, and the empty line that ends it."""
    bars = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in (head, *rows)]
    return [bars[0], f"|---|{'---:|' * (len(head) - 1)}", *bars[1:], ""]


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of cells that are HTML already; the first of a row is its heading."""
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    for first, *rest in rows:
        lines.append(f"<tr><th>{first}</th>" + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


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


def png(figure: Any) -> bytes:
    """A matplotlib figure as the bytes of a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


def image(data: bytes, text: str) -> str:
    """A PNG as an ``<img>`` that holds its data, with a text for those who do not see it."""
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


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


_COLOURS: Mapping[Row, str] = {"real": "#333333", "generated": "#d1495b", "untrained": "#9a9a9a"}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 0.5em 0 1.5em }
th, td { padding: 0.25em 0.8em; border-bottom: 1px solid #ddd }
td { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
th { text-align: left; font-weight: 600 }
tr:first-child th:not(:first-child) { text-align: right }
.about td { text-align: left; overflow-wrap: anywhere; white-space: normal } img { max-width: 100% }
h1 { font-size: 1.5em } h2 { font-size: 1.15em }
"""


def html_page(title: str, body: Sequence[str]) -> str:
    """One self-contained HTML page."""
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'
