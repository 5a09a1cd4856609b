"""The report's tables, orders and groups, on made-up outcomes; tests/pipelines/test_sweep.py has it of a real sweep."""

import csv
import html
import io
from dataclasses import replace
from typing import Any

import pytest

from intermoe.errors import UserError
from intermoe.evaluation.metrics import Interval
from pipelines.report.outcomes import Outcome
from pipelines.report.plots import PLOTS, Plot, _imbalance, _spread, plots
from pipelines.report.report import (
    Agreement,
    Made,
    _cells,
    _csv,
    _markdown,
    _order_line,
    _page,
    _points,
    _table,
    report,
)

TABLE: dict[str, Any] = {
    "title": "Experts & <such>",
    "rows": {
        "none": {"fid": [5.0, 0.1], "r_precision_top1": [0.4, 0.01]},
        "four": {"fid": [4.0, 0.1], "r_precision_top1": [0.5, 0.01]},
        "eight": {"fid": [3.0, 0.1], "r_precision_top1": [0.6, 0.01]},
    },
}


def outcome(name: str, row: str, fid: list[float], r: list[float], **settings: object) -> Outcome:
    return Outcome(
        name=name,
        point=name.partition("-")[0],
        rows=(("4", row),),
        settings={"moe.experts": 8, "moe.c_exp": 1.0, "moe.selection": "dynamic", "seed": 0, "name": "x", **settings},
        values={"fid": fid, "r_precision_top1": r, "mm_dist": fid},
        real={"fid": [1.0], "r_precision_top1": [0.7]},
        parameters={"trainable": 2_000_000, "active": 1_000_000},
        seconds=(90.0, 10.0),
        tokens_a_second=1000.0,
        curves={
            "train/loss": [(10, 1.0), (20, 0.5)],
            "moe/layer0/load0": [(10, 1.0), (20, 2.0)],
            "moe/layer0/load1": [(10, 3.0), (20, 2.0)],
        },
    )


@pytest.fixture
def outcomes() -> list[Outcome]:
    return [
        outcome("none", "none", [50.0, 52.0], [0.2, 0.2], **{"moe.selection": "dense"}),
        outcome("four", "four", [30.0, 32.0], [0.3, 0.3], **{"moe.experts": 4}),
        outcome("eight", "eight", [40.0, 42.0], [0.3, 0.3]),
        outcome("eight-1", "eight", [44.0, 46.0], [0.3, 0.3], seed=1),
    ]


def test_ours_is_over_the_replications_of_one_seed_or_the_means_of_several(outcomes):
    table = _table("4", TABLE, outcomes)
    assert table.lines[1].ours["fid"] == Interval.of([30.0, 32.0])
    line = table.lines[2]
    # Two means, 41 and 45: 12.706 standard errors of 2 to each side.
    assert line.ours["fid"].mean == 43.0
    assert line.ours["fid"].half_width == pytest.approx(12.706 * 2, rel=1e-4)
    assert [line.seeds for line in table.lines] == [1, 1, 2]
    assert line.paper["fid"] == Interval(3.0, 0.1)
    assert table.measures == ("r_precision_top1", "fid")


def test_the_papers_order_is_counted_by_pairs(outcomes):
    table = _table("4", TABLE, outcomes)
    # Four and eight have changed places; only none and four, 51 ±1.4 and 31 ±1.4, are told apart.
    assert table.agreement("fid") == Agreement(same=2, pairs=3, clear_same=1, clear=1)
    # Equal is no order.
    assert table.agreement("r_precision_top1") == Agreement(same=2, pairs=3, clear_same=2, clear=2)
    text = "by FID it does not hold (2 of 3 pairs of rows, 1 of the 1 whose intervals do not overlap)"
    assert text in _order_line(table)
    assert _table("4", TABLE, outcomes[:2]).agreement("fid") == Agreement(1, 1, 1, 1)
    near = [replace(outcomes[1], values={"fid": [30.0, 46.0]}), outcomes[2]]
    assert _table("4", TABLE, near).agreement("fid") == Agreement(0, 1, 0, 0)
    equal = {**TABLE, "rows": {row: {**numbers, "fid": [3.0, 0.1]} for row, numbers in TABLE["rows"].items()}}
    assert _table("4", equal, outcomes).agreement("fid") == Agreement(0, 0, 0, 0)
    assert "too few rows" in _order_line(_table("4", TABLE, outcomes[:1]))


def test_the_best_of_each_side_are_marked(outcomes):
    table = _table("4", TABLE, outcomes)
    marked = [[cell.startswith("*") for cell in _cells(table, line, "*{}".format)] for line in table.lines]
    # R-precision ours and the paper's, FID ours and the paper's.
    assert marked == [[False, False, False, False], [True, False, True, False], [True, True, False, True]]
    missing = _table("4", TABLE, outcomes[:1])
    assert _cells(missing, missing.lines[1], str)[0] == ""


def test_all_points_are_shown_whether_or_not_they_stand_for_a_row_of_the_paper(outcomes):
    table = _points([replace(one, rows=()) for one in outcomes])
    assert table.measures == ("r_precision_top1", "fid", "mm_dist")
    assert [line.row for line in table.lines] == ["none", "four", "eight"]
    assert _cells(table, table.lines[1], "*{}".format) == ["*0.300 ±0.000", "*31.000 ±1.386", "*31.000 ±1.386"]


def test_the_csv_has_every_number(outcomes):
    rows = list(csv.DictReader(io.StringIO(_csv([_table("4", TABLE, outcomes), _points(outcomes)]))))
    assert len(rows) == 6 + 9
    assert [row["paper"] for row in rows if not row["table"]] == [""] * 9
    fid = next(row for row in rows if (row["row"], row["measure"]) == ("four", "fid"))
    assert (float(fid["ours"]), float(fid["paper"]), float(fid["paper_half_width"])) == (31.0, 4.0, 0.1)


def test_trials_that_differ_in_one_setting_alone_make_a_curve(outcomes):
    group = _spread(outcomes, "moe.experts")
    assert {value: [one.name for one in found] for value, found in group.items()} == {
        4.0: ["four"],
        8.0: ["eight", "eight-1"],
    }
    assert list(_spread(outcomes, "moe.c_exp")) == [1.0]


def test_imbalance_is_the_deviation_over_the_mean(outcomes):
    assert _imbalance(outcomes[0]) == ([10, 20], [0.5, 0.0])


def test_pages_say_what_is_missing_and_quote_what_is_html(outcomes):
    note: dict[str, Any] = {
        "name": "toy",
        "profile": "tiny",
        "failed": {"bad-seed0": "no such file"},
        "seconds_shared": {"vae": 20.0, "evaluator": 5.0},
    }
    note["trials"] = [{"seed": 0}]
    tables = [_table("4", TABLE, outcomes)]
    made = Made(note, tables, outcomes, ["late (seed 3)"], [Plot("cost.png", "Cost <of it>", "bars", b"PNG")])
    assert "over the replications of evaluation; how much" in _markdown(made)
    note["trials"] = [{"seed": 0}, {"seed": 0}, {"seed": 7}]
    assert "over 2 seeds (of each the mean" in _markdown(made)
    assert "\n| four (1 of 2 seeds) |" in _markdown(made)
    assert "\n| eight |" in _markdown(made)
    assert "![bars](cost.png)" in _markdown(made)
    assert '<h2>Cost &lt;of it&gt;</h2><img alt="bars" src="data:image/png;base64,UE5H">' in _page(made)
    for text in (_markdown(made), _page(made)):
        assert "Failed: bad-seed0: no such file" in text
        assert "Not done, or stopped early: late (seed 3)." in text
        assert "Of the trials' time, evaluation took 10%." in html.unescape(text)
    assert "Experts &amp; &lt;such&gt;" in _page(made)


def test_plots_are_drawn_and_named(outcomes):
    made = plots(outcomes)
    assert [plot.name for plot in made] == ["over-moe.experts.png", "training.png", "cost.png"]
    assert {plot.name for plot in made} <= set(PLOTS)
    assert all(plot.png.startswith(b"\x89PNG") for plot in made)


def test_a_folder_that_is_no_sweep_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no sweep"):
        report(tmp_path, tmp_path / "report")
    (tmp_path / "sweep.json").write_text('{"run_id": "x", "tracking_uri": "y"}')
    with pytest.raises(UserError, match="has not begun its trials yet"):
        report(tmp_path, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_nothing_but_an_earlier_report_is_replaced(tmp_path):
    (tmp_path / "sweep.json").write_text('{"trials": [], "tables": {}, "tracking_uri": "y", "run_id": "x"}')
    for out in (tmp_path, tmp_path / "sweep.json"):
        with pytest.raises(UserError, match="holds something else than a report"):
            report(tmp_path, out)
    assert (tmp_path / "sweep.json").is_file()
