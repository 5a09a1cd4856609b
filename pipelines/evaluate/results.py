"""The table of an evaluation: in the terminal, as JSON, Markdown and one self-contained HTML page with a plot."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import pandas as pd
from rich.markup import escape
from rich.table import Table

from intermoe.evaluation.conventions import RUN_HERE
from intermoe.evaluation.measures import MEASURES, TABLES
from intermoe.evaluation.metrics import SCALES, Interval
from intermoe.files import read_note, whole_file, whole_folder, write_note
from intermoe.places import Place
from intermoe.render.page import Scene, write_page
from pipelines.documents import (
    Block,
    BulletList,
    Document,
    Paragraph,
    Picture,
    Section,
    TextTable,
    code,
    escaped,
    interval_texts,
    png,
)
from pipelines.evaluate.recorded_row import RecordedRow

RESULTS = "results.json"
"""Name of the file of all numbers in a folder of results."""
_MARKDOWN, _HTML, _SAMPLES = "results.md", "results.html", "samples.html"


@dataclass(frozen=True, eq=False)
class Results:
    """The outcome of an evaluation.

    Attributes:
        values: every replication, indexed by ``row`` and ``replication``, a column per measure; NaN where not known.
        about: what was evaluated, with what, and how.
    """

    values: pd.DataFrame
    about: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Place) -> Self:
        """The results that :func:`publish` wrote into a folder."""
        document = read_note(folder / RESULTS)
        values = {
            row: {name: summary["replications"] for name, summary in measures.items()}
            for row, measures in document["rows"].items()
        }
        return cls(replications_frame(values), document["about"])

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Mean, half_width of the 95% interval and replications of each ``row`` and ``measure``.

        Example:
            >>> values = replications_frame({"recorded": {"fid": [1.0, 3.0]}, "generated": {"fid": [5.0]}})
            >>> Results(values, {}).summary.round(3).loc["recorded"].to_dict("index")
            {'fid': {'mean': 2.0, 'half_width': 1.386, 'replications': [1.0, 3.0]}}
        """
        known = self.values.melt(var_name="measure", ignore_index=False).dropna()
        groups = known.groupby(["row", "measure"], sort=False)["value"]
        intervals = groups.apply(lambda numbers: Interval.of(numbers.to_list()))
        return pd.DataFrame(intervals.tolist(), index=intervals.index).assign(replications=groups.agg(list))

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The numbers for people, by row and measure: with an interval where there is more than one replication."""
        several = self.summary["replications"].str.len() > 1
        texts = interval_texts(self.summary["mean"], self.summary["half_width"].where(several)).unstack("measure")
        names = [name for name in MEASURES if name in texts]
        return texts.reindex(index=self.values.index.unique("row"), columns=names).fillna("")

    @cached_property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Those of ``TABLES`` that some row has a measure of: title -> their columns of ``cells``."""
        tables = {title: self.cells[self.cells.columns.intersection(list(names))] for title, names in TABLES.items()}
        return {title: cells for title, cells in tables.items() if not cells.empty}

    @property
    def recorded(self) -> RecordedRow:
        """Recorded motion beside what the evaluator is known to give for it."""
        texts = self.cells.loc["recorded"].to_dict() if "recorded" in self.cells.index else {}
        return RecordedRow.of(self.metrics("recorded"), {str(name): text for name, text in texts.items()}, self.about)

    def metrics(self, row: str | None = None) -> dict[str, float]:
        """The means as plain numbers, ``generated/fid`` and so on; of one row alone without its name.

        A row that was not evaluated has none.
        """
        means = self.summary["mean"]
        if row is None:
            means = means.set_axis(means.index.map("/".join))
        else:
            means = means[means.index.get_level_values("row") == row].droplevel("row")
        return {str(name): float(mean) for name, mean in means.items()}

    def columns(self) -> dict[str, list[str]]:
        """The table by columns, the second says where each row is from; a cell that is not known is empty."""
        cells = _shown(self.cells).reset_index()
        return {str(name): texts.to_list() for name, texts in cells.items()}

    def json_document(self) -> dict[str, Any]:
        """All there is, as plain values; what is not known is left out."""
        rows = {row: self.summary.loc[row].to_dict("index") for row in self.cells.index}
        return {"about": dict(self.about), "source": RUN_HERE, "rows": rows}

    def notes(self) -> list[str]:
        """The conditions behind the numbers, in sentences."""
        config = self.about["evaluation"]
        pool, variety = config["pool"], config["multimodality"]
        chance = ", ".join(f"{top / pool:.3f}" for top in (1, 2, 3))
        recordings = self.about["recordings"]
        # Results from before they were noted have InterGen's.
        scales = self.about.get("scales") or SCALES.model_dump()
        notes = [
            (
                f"{config['replications']} replications from seed {self.about['seed']}: mean and 95% interval, 1.96 "
                "standard deviations over the root of their number."
            ),
            (
                f"{recordings} recordings of the {self.about['split']} split. R-precision in pools of {pool} (chance: "
                f"{chance}). FID of embeddings times {scales['fid']:g}, Diversity of embeddings times "
                f"{scales['diversity']:g}, over {min(config['diversity_pairs'], recordings)} pairs."
            ),
            *self._sampling_notes(),
            *(note for row, note in _ROW_NOTES.items() if row in self.cells.index),
        ]
        if variety["captions"] and "multimodality" in self.cells:
            notes.append(
                f"MultiModality: {min(variety['captions'], recordings)} captions, {variety['samples']} motions of "
                f"each, {min(variety['pairs'], variety['samples'])} pairs; of embeddings times "
                f"{scales['multimodality']:g}."
            )
        if "identity" in self.cells:
            notes.append(
                "Identity is judged by rules of mechanics, not by a network. By chance it is 0.5; where the person "
                "named first is the first (data.persons), the untrained row shows what a single motion gives. Swapped: "
                "the captions name the persons the other way round (recorded: of the same motions, hence 1 - identity; "
                "generated: of motions made from them, in the first replication). Shuffled: captions of other samples."
            )
        return notes

    def _sampling_notes(self) -> list[str]:
        """How motions were sampled; nothing where recorded motion alone was measured."""
        if "sampler" not in self.about:
            return []
        start, end = self.about["guidance_interval"]
        only = f" from {start:g} to {end:g} of the noise's steps" if (start, end) != (0, 1) else ""
        sampler, steps = self.about["sampler"], self.about["sampler_steps"]
        return [f"Sampler {sampler}, {steps} steps; guidance {self.about['guidance']:g}{only}."]


def replications_frame(values: Mapping[Any, Mapping[str, Sequence[float]]]) -> pd.DataFrame:
    """Replications by row and measure as the frame of ``Results``; shorter ones are those of the first replications."""
    frames = {
        row: pd.DataFrame({name: pd.Series(numbers, dtype=float) for name, numbers in measures.items()})
        for row, measures in values.items()
    }
    frame = pd.concat(frames, names=["row", "replication"])
    return frame[[name for name in MEASURES if name in frame]]


def terminal_table(results: Results) -> Table:
    """The table for people at a terminal: a line per measure, so that it fits into 80 columns."""
    table = Table()
    table.add_column("")
    every = [str(row) for row in results.cells.index]
    rows = [row for row in every if row not in _NOT_IN_TERMINAL] or every
    for row in rows:
        table.add_column(row, justify="right", no_wrap=True)
    for title, cells in results.tables.items():
        table.add_section()
        table.add_row(f"[bold]{title}[/bold]")
        for name in cells:
            table.add_row(_title(str(name)), *(_short(results, row, str(name)) for row in rows))
    lines = [f"Every number: {RUN_HERE}."]
    if len(rows) < len(every):
        lines.append(f"{_HTML} has the rows of reconstructed motion, too.")
    table.caption_justify = "left"
    table.caption = "\n".join([*lines, *(f"[bold]{escape(warning)}[/bold]" for warning in results.recorded.warnings())])
    return table


def _short(results: Results, row: str, name: str) -> str:
    """A cell with no more decimals than large numbers need."""
    values = results.values.loc[row].get(name, pd.Series(dtype=float)).dropna().to_list()
    if not values:
        return ""
    interval = Interval.of(values)
    decimals = 3 if abs(interval.mean) < 10 else 1 if abs(interval.mean) < 1000 else 0
    return f"{interval.mean:.{decimals}f}" + (f" ±{interval.half_width:.{decimals}f}" if len(values) > 1 else "")


def description(results: Results) -> str:
    """What was evaluated and the tables, as Markdown for the page of a run."""
    about = results.about
    model, data = (code(str(about[name])) for name in ("model", "data"))
    first = f"Evaluation of {model} on the {escaped(str(about['split']))} split of {data}."
    warnings = [escaped(warning) for warning in results.recorded.warnings()]
    return "\n\n".join([first, *warnings, *(TextTable(_shown(cells)).markdown() for cells in results.tables.values())])


def results_document(results: Results) -> Document:
    """The tables, the plot and what was evaluated."""
    about = pd.Series({name: json.dumps(value, ensure_ascii=False) for name, value in results.about.items()})
    return Document(
        f"{results.about['name']}: evaluation",
        [
            *_recorded_sections(results.recorded),
            *(Section(title, [TextTable(_shown(cells))]) for title, cells in results.tables.items()),
            Section(f"All measures, {RUN_HERE}", [Picture(plot(results), "mean and interval of each measure")]),
            Section("Notes", [BulletList(results.notes())]),
            Section("What was evaluated", [TextTable(about.to_frame("value").rename_axis("setting"), numeric=False)]),
        ],
    )


def _recorded_sections(recorded: RecordedRow) -> list[Section]:
    """What is to be read before any other row; nothing where nothing is known and the protocol is the evaluator's."""
    cells = recorded.cells
    table = [TextTable(cells[cells["verdict"] != ""])] if recorded.verdicts else []
    blocks: list[Block] = [*map(Paragraph, recorded.warnings()), *table]
    return [Section("Recorded motion, beside what the evaluator is known to give", blocks)] if blocks else []


def _shown(cells: pd.DataFrame) -> pd.DataFrame:
    """A table for people: its measures by their titles, after where each row is from."""
    shown = cells.rename(columns=_title)
    shown.insert(0, "source", RUN_HERE)
    return shown


def plot(results: Results) -> bytes:
    """One small plot per measure, the rows below each other with their intervals, as a PNG."""
    from matplotlib.figure import Figure

    rows, names = list(results.cells.index), list(results.cells.columns)
    across = 4
    down = -(-len(names) // across)
    figure = Figure(figsize=(3.2 * across, (0.8 + 0.35 * len(rows)) * down), layout="constrained", dpi=110)
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis, name in zip(axes, names, strict=False):
        axis.set_title(_title(name), fontsize=9)
        for row, interval in results.summary.xs(name, level="measure").iterrows():
            axis.errorbar(
                interval["mean"],
                rows.index(row),
                xerr=interval["half_width"],
                fmt="o",
                color=_COLOURS[str(row)],
                capsize=3,
                markersize=5,
            )
        axis.set_yticks(range(len(rows)), rows, fontsize=8)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.tick_params(axis="x", labelsize=8)
        axis.locator_params(axis="x", nbins=4)
        axis.grid(axis="x", alpha=0.3)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    return png(figure)


def publish(results: Results, out: Place, scenes: Sequence[Scene] = ()) -> list[Place]:
    """Write the results as JSON, Markdown and HTML, and a page of scenes if there are any, into a new folder.

    Returns:
        Its files: ``results.json``, ``results.md``, ``results.html``, ``samples.html``.

    Raises:
        UserError: ``out`` is taken, or cannot be written.
        ValueError: a number is not finite.
    """
    document = results_document(results)
    with whole_folder(out, seal=RESULTS) as folder:
        for name, text in ((_MARKDOWN, document.markdown()), (_HTML, document.html())):
            with whole_file(folder / name) as file:
                file.write_text(text, "utf-8")
        if scenes:
            title = f"{results.about['name']}: samples nearest to their caption, and farthest from it"
            with whole_file(folder / _SAMPLES) as file:
                write_page(scenes, file, title=title)
        write_note(folder / RESULTS, results.json_document())
    return [out / name for name in (RESULTS, _MARKDOWN, _HTML, *([_SAMPLES] if scenes else []))]


def _title(name: str) -> str:
    return MEASURES[name].title


_ROW_NOTES: Mapping[str, str] = {
    "reconstructed": "Reconstructed: recorded motion through the VAE and back, settled; raw: before settling. What is "
    "lost there, no denoiser can bring back.",
    "generated": "Generated: the settled motion that users get, with bones of constant length and on the ground.",
    "raw": "Raw: the network's output before settling, as the literature measures it.",
    "untrained": "Untrained: weights as before training, but for those of a VAE, in a quarter of the replications.",
}
_COLOURS: Mapping[str, str] = {
    "recorded": "#333333",
    "reconstructed": "#2a6f97",
    "reconstructed_raw": "#89b6d0",
    "generated": "#d1495b",
    "raw": "#e8a04c",
    "untrained": "#9a9a9a",
}
# Rows for whoever looks for where quality is lost: a terminal has room for the others.
_NOT_IN_TERMINAL = ("reconstructed", "reconstructed_raw")
