"""The report's tables: numbers, the paper's order, and the best of each column."""

import csv
import io

import pytest

from intermoe.evaluation.metrics import Interval
from pipelines.report.outcomes import Outcomes
from pipelines.report.tables import Agreement, paper_table, points_table, tables_csv


def test_rows_have_ours_and_the_papers(outcomes, table):
    numbers = paper_table("4", table, outcomes).numbers
    assert list(numbers.columns) == ["ours", "ours_half_width", "paper", "paper_half_width"]
    assert numbers.index.unique("row").to_list() == ["none", "four", "eight"]
    # Not in the file's order but in that of the measures.
    assert numbers.index.unique("measure").to_list() == ["r_precision_top1", "fid"]
    assert Interval(*numbers.loc[("four", "fid")].iloc[:2]) == Interval.of([30.0, 32.0])
    eight = numbers.loc[("eight", "fid")]
    assert eight["ours"] == 43.0
    assert eight["ours_half_width"] == pytest.approx(12.706 * 2, rel=1e-4)
    assert list(eight.iloc[2:]) == [3.0, 0.1]


def test_the_papers_order_is_counted_by_pairs(parts, outcomes, table, make_outcome):
    ours = paper_table("4", table, outcomes)
    # Four and eight have changed places; only none and four, 51 ±1.4 and 31 ±1.4, are told apart.
    assert ours.agreement("fid") == Agreement(same=2, pairs=3, clear_same=1, clear=1)
    # Equal is no order.
    assert ours.agreement("r_precision_top1") == Agreement(same=2, pairs=3, clear_same=2, clear=2)
    assert ours.order() == (
        "The paper's order of rows: by R top 1 it does not hold (2 of 3 pairs of rows, 2 of the 2 whose intervals do "
        "not overlap); by FID it does not hold (2 of 3 pairs of rows, 1 of the 1 whose intervals do not overlap)."
    )
    two = paper_table("4", table, Outcomes.joined(parts[:2]))
    assert two.agreement("fid") == Agreement(1, 1, 1, 1)
    assert "by FID it holds (1 of 1 pairs of rows, 1 of the 1" in two.order()
    near = Outcomes.joined([make_outcome("four", [30.0, 46.0], [0.3, 0.3], rows=("four",)), parts[2]])
    assert paper_table("4", table, near).agreement("fid") == Agreement(0, 1, 0, 0)
    one = paper_table("4", table, parts[0])
    assert one.agreement("fid") == Agreement(0, 0, 0, 0)
    assert one.order() == "The paper's order of rows: too few rows to compare."
    for numbers in table["rows"].values():
        numbers["fid"] = [3.0, 0.1]
    assert paper_table("4", table, outcomes).agreement("fid") == Agreement(0, 0, 0, 0)


def test_numbers_without_an_interval_are_never_clear(make_outcome, table):
    single = [make_outcome(row, [fid], [0.3], rows=(row,)) for row, fid in (("none", 50.0), ("four", 30.0))]
    ours = paper_table("4", table, Outcomes.joined(single))
    assert ours.agreement("fid") == Agreement(same=1, pairs=1, clear_same=0, clear=0)
    assert ours.shown(1).cells["FID ↓, ours"].to_list() == ["50.000", "30.000", ""]


def test_the_best_of_each_side_are_bold(parts, outcomes, table):
    shown = paper_table("4", table, outcomes).shown(2)
    assert list(shown.cells.columns) == ["R top 1 ↑, ours", "R top 1 ↑, paper", "FID ↓, ours", "FID ↓, paper"]
    assert shown.bold.to_numpy().tolist() == [
        [False, False, False, False],
        [True, False, True, False],
        [True, True, False, True],
    ]
    assert list(shown.cells.index) == ["none (1 of 2 seeds)", "four (1 of 2 seeds)", "eight"]
    assert list(shown.bold.index) == list(shown.cells.index)
    first = paper_table("4", table, parts[0]).shown(1)
    assert first.cells.loc["four"].to_list() == ["", "0.500 ±0.010", "", "4.000 ±0.100"]


def test_all_points_are_shown_whether_or_not_they_stand_for_a_row_of_the_paper(make_outcome):
    ours = points_table(
        Outcomes.joined(
            [make_outcome("none", [50.0, 52.0], [0.2, 0.2]), make_outcome("four", [30.0, 32.0], [0.3, 0.3])]
        )
    )
    assert ours.numbers.index.unique("measure").to_list() == ["r_precision_top1", "fid", "mm_dist"]
    shown = ours.shown(1)
    assert list(shown.cells.columns) == ["R top 1 ↑", "FID ↓", "MM Dist ↓"]
    assert shown.cells.loc["four"].to_list() == ["0.300 ±0.000", "31.000 ±1.386", "31.000 ±1.386"]
    assert shown.bold.loc["four"].all()
    assert not shown.bold.loc["none"].any()


def test_a_table_of_nothing_is_empty(outcomes):
    nothing = paper_table("4", {"title": "Nothing", "rows": {"four": {}}}, outcomes)
    assert nothing.order() == "The paper's order of rows: too few rows to compare."
    assert nothing.shown(1).cells.empty


def test_the_csv_has_every_number(parts, outcomes, table):
    text = tables_csv({"4": paper_table("4", table, outcomes)}, points_table(outcomes))
    assert text.splitlines()[0] == "table,row,measure,ours,ours_half_width,paper,paper_half_width"
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 6 + 9
    assert [row["paper"] for row in rows if not row["table"]] == [""] * 9
    fid = next(row for row in rows if (row["row"], row["measure"]) == ("four", "fid"))
    assert (float(fid["ours"]), float(fid["paper"]), float(fid["paper_half_width"])) == (31.0, 4.0, 0.1)
    missing = list(
        csv.DictReader(io.StringIO(tables_csv({"4": paper_table("4", table, parts[0])}, points_table(parts[0]))))
    )
    assert missing[2] == {
        "table": "4",
        "row": "four",
        "measure": "r_precision_top1",
        "ours": "",
        "ours_half_width": "",
        "paper": "0.5",
        "paper_half_width": "0.01",
    }
