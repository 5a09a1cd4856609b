"""From a sweep to the paper's tables, ours beside theirs, and plots: Markdown, one HTML page, CSV."""

import re
from collections.abc import Sequence
from typing import Any

from intermoe.errors import UserError
from intermoe.files import contents, whole_file, whole_folder
from intermoe.locks import locked
from intermoe.places import Place, exists, is_folder
from intermoe.render.page import Scene, write_page
from pipelines.report.gallery import gallery_scenes
from pipelines.report.outcomes import Outcomes, is_done, read_outcome
from pipelines.report.pages import ReportData, report_document
from pipelines.report.plots import PLOTS
from pipelines.report.tables import orders_csv, tables_csv
from pipelines.sweep.request import sweep_note
from pipelines.tracking.address import as_noted, tracking_uri
from pipelines.tracking.runs import Run

_HTML, _MARKDOWN, _TABLES, _ORDERS = "report.html", "report.md", "tables.csv", "orders.csv"
_FILES = (_HTML, _MARKDOWN, _TABLES, _ORDERS)
_GALLERY = "gallery.html"


def report(folder: Place, out: Place, *, patience: float = 0.0, gallery: bool = False) -> list[Place]:
    """Write the report of a sweep, also of one that is running, and record it on the sweep's MLflow run.

    Args:
        folder: of the sweep; trials that are not done are left out.
        out: the folder of the report; one of an earlier report is replaced.
        patience: seconds to wait for another process that writes there.
        gallery: also generate motions with the model of each point, here, and show them in 3D.

    Returns:
        ``report.html``, ``report.md``, ``tables.csv`` and ``orders.csv``, and ``gallery.html`` if it is asked for.

    Raises:
        UserError: no sweep there, no trial of it is done, or something else than a report lies in ``out``.
    """
    note = _note(folder)
    uri = as_noted(note["tracking_uri"], tracking_uri())
    _check_out(out)
    done = [trial for trial in note["trials"] if is_done(folder, trial)]
    outcomes = [read_outcome(folder, trial, uri) for trial in done]
    if not outcomes:
        raise UserError("no trial is done", where=folder, allowed="`intermoe sweep --resume`")
    with locked(out, patience=patience):
        scenes = gallery_scenes(folder, done) if gallery else []
        files = write_report(ReportData.of(note, Outcomes.joined(outcomes)), out, scenes)
        # Not reopened: whether the sweep's run is at its end is not for a report to say.
        run = Run.attach(uri, note["run_id"], folder, part="report")
        for file in files:
            run.log_artifact(file)
        text = (out / _MARKDOWN).read_text("utf-8")
        run.describe(re.sub(r"!\[(.*?)\]\((.*?)\)", lambda link: run.picture(link[2], link[1]), text))
        run.close()
    return [out / name for name in (*_FILES, *([_GALLERY] if gallery else []))]


def write_report(data: ReportData, out: Place, gallery: Sequence[Scene] = ()) -> list[Place]:
    """Write a report's pages, its CSV and its plots into a folder, in place of an earlier report; its files."""
    document = report_document(data)
    pages = {
        _HTML: document.html().encode(),
        _MARKDOWN: document.markdown().encode(),
        _TABLES: tables_csv(data.tables, data.points, data.settled).encode(),
        _ORDERS: orders_csv(data.tables).encode(),
        **{plot.file: plot.png for plot in data.plots},
    }
    with whole_folder(out, seal=_HTML, replace=True) as partial:
        if gallery:
            with whole_file(partial / _GALLERY) as file:
                write_page(gallery, file, title=f"{data.note['name']}: the same captions under all points")
        for name, content in reversed(pages.items()):
            with whole_file(partial / name) as file:
                file.write_bytes(content)
    return [out / name for name in (*pages, *([_GALLERY] if gallery else []))]


def _check_out(out: Place) -> None:
    """Raise where something else than an earlier report lies in the report's place."""
    if exists(out) and not (is_folder(out) and {path.name for path in contents(out)} <= {*_FILES, _GALLERY, *PLOTS}):
        raise UserError("holds something else than a report", where=out, allowed="another --out")


def _note(folder: Place) -> dict[str, Any]:
    note = sweep_note(folder)
    if not note:
        raise UserError("holds no sweep", where=folder, allowed="a folder of `intermoe sweep`")
    if "trials" not in note:
        raise UserError("the sweep has not begun its trials yet", where=folder, allowed="`intermoe sweep --resume`")
    return note
