"""The table of an evaluation, on numbers that are made up; test_evaluate.py has it of a real one."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from intermoe.body.skeletons import SMPL22
from intermoe.errors import UserError
from intermoe.evaluation.measures import MEASURES, PLAUSIBILITY, TEXT_AND_MOTION, WHO_ACTS
from intermoe.evaluation.metrics import Interval
from intermoe.motion import Motion
from intermoe.render.page import Panel, Scene
from pipelines.evaluate.recorded_row import recorded_tags
from pipelines.evaluate.results import (
    Results,
    description,
    publish,
    replications_frame,
    results_document,
    terminal_table,
)

ABOUT = {
    "name": "<b>toy</b>",
    "model": "runs/toy",
    "split": "test",
    "recordings": 40,
    "seed": 0,
    "sampler": "ddim",
    "sampler_steps": 50,
    "spacing": None,
    "guidance": 3.5,
    "guidance_interval": [0.0, 1.0],
    "scales": {"fid": 6.0, "diversity": 3.0, "multimodality": 1.0},
    "known_row": None,
    "protocol_differences": [],
    "evaluation": {
        "replications": 2,
        "pool": 10,
        "diversity_pairs": 300,
        "multimodality": {"captions": 100, "samples": 4, "pairs": 10},
    },
}
NAN = float("nan")


@pytest.fixture
def results() -> Results:
    """Two replications of all rows but the untrained one, as scoring.score gives them."""
    rows = [
        ("recorded", 0),
        ("recorded", 1),
        ("generated", 0),
        ("generated", 1),
        ("raw", 0),
        ("raw", 1),
        ("untrained", 0),
    ]
    values = pd.DataFrame(
        {
            "r_precision_top1": [0.5, 0.7, 0.3, 0.4, 0.3, 0.3, 0.1],
            "fid": [1.0, 3.0, 5.0, 6.0, 7.0, 7.0, 90.5],
            "multimodality": [NAN, NAN, 2.0, 2.5, NAN, NAN, NAN],
            "identity": [1.0, 1.0, 0.75, 0.5, 0.75, 0.5, 0.5],
            "identity_swapped": [0.0, 0.0, 0.25, NAN, NAN, NAN, NAN],
            "jerk_m_s3": [10.0, 12.0, 20.0, 22.0, 30.0, 32.0, 40.0],
        },
        index=pd.MultiIndex.from_tuples(rows, names=["row", "replication"]),
    )
    return Results(values, ABOUT)


def test_mean_and_interval_are_over_the_known_replications(results):
    summary = results.summary
    assert summary.loc[("recorded", "fid"), "mean"] == 2.0
    assert summary.loc[("recorded", "fid"), "half_width"] == pytest.approx(1.96 * np.std([1.0, 3.0]) / np.sqrt(2))
    fid = summary.loc[("generated", "r_precision_top1")]
    assert Interval(fid["mean"], fid["half_width"]) == Interval.of([0.3, 0.4])
    assert summary.loc[("generated", "identity_swapped"), "replications"] == [0.25]
    assert ("recorded", "multimodality") not in summary.index
    assert len(summary) == 4 * 4 + 1 + 2


def test_cells_have_an_interval_only_over_several_replications(results):
    cells = results.cells
    assert list(cells.index) == ["recorded", "generated", "raw", "untrained"]
    assert list(cells.columns) == list(results.values.columns)
    assert list(cells["fid"]) == ["2.000 ±1.386", "5.500 ±0.693", "7.000 ±0.000", "90.500"]
    assert list(cells["identity_swapped"]) == ["0.000 ±0.000", "0.250", "", ""]
    assert list(cells["multimodality"]) == ["", "2.250 ±0.346", "", ""]


def test_columns_stand_in_the_order_of_the_measures(results):
    turned = Results(results.values[results.values.columns[::-1]], ABOUT)
    assert list(turned.cells.columns) == [name for name in MEASURES if name in results.values]
    assert {title: list(cells) for title, cells in turned.tables.items()} == {
        TEXT_AND_MOTION: ["r_precision_top1", "fid", "multimodality"],
        WHO_ACTS: ["identity", "identity_swapped"],
        PLAUSIBILITY: ["jerk_m_s3"],
    }
    assert list(Results(results.values[["fid"]], ABOUT).tables) == [TEXT_AND_MOTION]
    assert results.columns()["source"] == ["run here"] * 4
    assert list(results.columns()) == ["row", "source", *(MEASURES[name].title for name in results.cells)]
    assert results.columns()["FID ↓"] == list(results.cells["fid"])


def test_metrics_are_the_means(results):
    metrics = results.metrics()
    assert metrics["generated/fid"] == 5.5
    assert metrics["untrained/jerk_m_s3"] == 40.0
    assert "real/multimodality" not in metrics
    assert len(metrics) == len(results.summary)
    assert Results(results.values.loc[["recorded"]], ABOUT).metrics("generated") == {}
    assert results.metrics("raw") == {"r_precision_top1": 0.3, "fid": 7.0, "identity": 0.625, "jerk_m_s3": 31.0}


def test_the_json_document_leaves_out_what_is_not_known(results):
    rows = results.json_document()["rows"]
    assert list(rows) == ["recorded", "generated", "raw", "untrained"]
    assert list(rows["raw"]) == ["r_precision_top1", "fid", "identity", "jerk_m_s3"]
    assert rows["generated"]["identity_swapped"] == {"mean": 0.25, "half_width": 0.0, "replications": [0.25]}
    assert "NaN" not in json.dumps(rows)


def test_published_results_are_read_as_they_were(results, tmp_path):
    files = publish(results, tmp_path / "out")
    assert files == [tmp_path / "out" / name for name in ("results.json", "results.md", "results.html")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(file.name for file in files)
    read = Results.read(tmp_path / "out")
    pd.testing.assert_frame_equal(read.values, results.values)
    assert read.about == ABOUT
    assert files[1].read_text() == results_document(results).markdown()
    with pytest.raises(UserError, match="exists already and is not overwritten"):
        publish(results, tmp_path / "out")


def test_a_page_of_samples_is_published_with_them(results, tmp_path):
    joints = np.zeros((3, 2, 22, 3), np.float32) + np.linspace(0, 1.7, 22, dtype=np.float32)[:, None]
    motion = Motion(joints, np.zeros((3, 2, 21, 6), np.float32), 30, "a", SMPL22)
    files = publish(results, tmp_path / "out", [Scene("Nearest 1: a", [Panel(motion, "recorded")])])
    assert [file.name for file in files] == ["results.json", "results.md", "results.html", "samples.html"]
    assert '"caption":"Nearest 1: a"' in files[-1].read_text("utf-8")
    assert Results.read(tmp_path / "out").about == ABOUT


def test_results_that_are_not_finite_are_not_published(results, tmp_path):
    results.values.loc[("recorded", 0), "fid"] = float("inf")
    with pytest.warns(RuntimeWarning), pytest.raises(ValueError, match=r"results\.json: Out of range float"):
        publish(results, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_page_needs_nothing_else_and_escapes_names(results):
    page = results_document(results).html()
    assert "<b>toy" not in page
    assert "<h1>&lt;b&gt;toy&lt;/b&gt;: evaluation</h1>" in page
    assert page.count("<img") == 1
    assert 'src="data:image/png;base64,iVBOR' in page
    assert "<script" not in page
    for name in results.cells:
        assert f"<th>{MEASURES[name].title}</th>" in page
    assert "<td>5.500 ±0.693</td>" in page
    assert "<th>split</th>\n      <td>&quot;test&quot;</td>" in page


def known(fid: tuple[float, float]) -> dict:
    """What an evaluator might be known to give, as results have it."""
    values = {"dataset": "toy", "skeleton": "smpl22", "split": "test", "origin": "published", "source": "<i>"}
    return values | {"ranges": {"fid": list(fid), "mm_dist": [3.0, 4.0]}}


def test_recorded_motion_outside_of_what_is_known_is_told_before_all_else(results):
    differences = ["evaluation.pool is 10, the evaluator's own is 96"]
    about = ABOUT | {"known_row": known((3.0, 4.5)), "protocol_differences": differences, "data": "d"}
    warned = Results(results.values, about)
    warning = (
        "Warning: recorded motion is outside of what this evaluator is known to give: FID is 2.000, known 3.000 to "
        "4.500 (published: <i>). Until that is explained, no other number counts."
    )
    protocol = "The protocol is not the evaluator's own: evaluation.pool is 10, the evaluator's own is 96."
    assert warned.recorded.warnings() == [warning, protocol]
    head = "## Recorded motion, beside what the evaluator is known to give"
    text, page = results_document(warned).markdown(), results_document(warned).html()
    assert text.splitlines()[2] == head
    assert text.split("\n## ")[1] == (
        f"{head[3:]}\n\n{warning.replace('<i>', '&lt;i>')}\n\n{protocol}\n\n"
        "|           |   recorded, run here |   known, published |      verdict |\n"
        "|:----------|---------------------:|-------------------:|-------------:|\n"
        "| FID ↓     |         2.000 ±1.386 |     3.000 to 4.500 |      outside |\n"
        "| MM Dist ↓ |                      |     3.000 to 4.000 | not measured |\n"
    )
    assert "<p>Warning: recorded motion is outside" in page
    assert "(published: &lt;i&gt;)" in page
    assert description(warned).split("\n\n")[1:3] == [warning.replace("<i>", "&lt;i>"), protocol]
    output = io.StringIO()
    Console(width=80, file=output).print(terminal_table(warned))
    assert warning in " ".join(output.getvalue().split())
    assert recorded_tags(warned.recorded) == {
        "intermoe.recorded_motion": "outside: FID is 2.000, known 3.000 to 4.500",
        "intermoe.protocol": "evaluation.pool is 10, the evaluator's own is 96",
    }


def test_recorded_motion_as_it_is_known_brings_no_warning(results):
    as_known = Results(results.values, ABOUT | {"known_row": known((1.0, 2.0)), "data": "d"})
    assert as_known.recorded.warnings() == []
    assert "| FID ↓     |         2.000 ±1.386 |     1.000 to 2.000 |       inside |" in (
        results_document(as_known).markdown()
    )
    assert "Warning" not in description(as_known)
    assert recorded_tags(as_known.recorded) == {
        "intermoe.recorded_motion": "as known",
        "intermoe.protocol": "the evaluator's own",
    }


def test_what_is_not_known_or_not_measured_is_not_compared(results):
    assert "Recorded motion, beside" not in results_document(results).markdown()
    assert recorded_tags(results.recorded)["intermoe.recorded_motion"] == "not known"
    generated = Results(results.values.loc[["generated"]], ABOUT | {"known_row": known((9.0, 10.0))})
    assert generated.recorded.warnings() == []
    assert "Recorded motion, beside" not in results_document(generated).markdown()
    assert recorded_tags(generated.recorded)["intermoe.recorded_motion"] == "not measured"


def test_every_row_says_that_it_was_run_here(results):
    text = results_document(results).markdown()
    rows = [line for line in text.splitlines() if line.startswith(("| recorded ", "| generated ", "| raw ", "| untr"))]
    # Four rows in each of three tables.
    assert [line.split("|")[2].strip() for line in rows] == ["run here"] * 12
    assert results.json_document()["source"] == "run here"
    assert "## All measures, run here" not in text  # a picture, which Markdown cannot show
    assert "<h2>All measures, run here</h2>" in results_document(results).html()


def test_notes_are_of_what_is_shown(results):
    notes = "\n".join(results.notes())
    assert "Generated: the settled motion that users get" in notes
    assert "Raw: the network's output before settling" in notes
    assert "Untrained: weights as before training" in notes
    assert "R-precision in pools of 10 (chance: 0.100, 0.200, 0.300)" in notes
    assert "MultiModality: 40 captions, 4 motions of each, 4 pairs; of embeddings times 1." in notes
    assert "Identity is judged by rules" in notes
    about = ABOUT | {"evaluation": ABOUT["evaluation"] | {"multimodality": {"captions": 0}}}
    notes = "\n".join(Results(results.values.loc[["recorded"]][["fid"]], about).notes())
    for word in ("Generated", "Raw", "Untrained", "MultiModality", "Identity"):
        assert word not in notes


def test_the_terminal_has_a_line_per_measure(results):
    output = io.StringIO()
    Console(width=120, file=output).print(terminal_table(results))
    lines = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in output.getvalue().splitlines()
        if line.startswith("│")
    ]
    assert [TEXT_AND_MOTION, "", "", "", ""] in lines
    assert ["FID ↓", "2.000 ±1.386", "5.500 ±0.693", "7.000 ±0.000", "90.5"] in lines
    assert len(lines) == 3 + 6


def test_the_terminal_table_fits_into_80_columns(results):
    output = io.StringIO()
    Console(width=80, file=output).print(terminal_table(results))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)


def test_shorter_replications_are_the_first_ones():
    frame = replications_frame({"recorded": {"fid": [1.0, 2.0]}, "generated": {"fid": [3.0, 4.0], "identity": [0.5]}})
    assert frame.index.names == ["row", "replication"]
    assert frame.loc[("generated", 0), "identity"] == 0.5
    assert frame["identity"].notna().sum() == 1


def test_names_add_nothing_to_the_description_of_a_run(results):
    hostile = Results(results.values, ABOUT | {"model": "a`b", "split": "<i>", "data": "d\n# x"})
    assert description(hostile).splitlines()[0] == "Evaluation of `` a`b `` on the &lt;i> split of `d # x`."


def test_measures_of_two_persons_are_in_no_table_of_one(results):
    """They are not known in any row: no column, no table, no number, and no line of theirs."""
    of_two = ("hands_met", "hands_apart_cm", "interpenetration_cm", "identity_shuffled")
    of_one = results.values.drop(columns=["identity", "identity_swapped"]).assign(**dict.fromkeys(of_two, NAN))
    found = Results(of_one, ABOUT)
    assert list(found.cells.columns) == ["r_precision_top1", "fid", "multimodality", "jerk_m_s3"]
    assert list(found.tables) == [TEXT_AND_MOTION, PLAUSIBILITY]
    assert list(found.tables[PLAUSIBILITY].columns) == ["jerk_m_s3"]
    assert set(found.metrics("recorded")) == {"r_precision_top1", "fid", "jerk_m_s3"}
    assert set(found.json_document()["rows"]["generated"]) == set(found.cells.columns)
    shown = results_document(found).markdown() + json.dumps(found.columns())
    for name in (*of_two, "identity"):
        assert MEASURES[name].title not in shown
