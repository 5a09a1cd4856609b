"""The report's tables: numbers, the paper's order, and the best of each column."""

import csv
import io

import pytest

from intermoe.evaluation.metrics import Interval
from pipelines.report.outcomes import Outcomes
from pipelines.report.tables import orders_csv, paper_table, points_table, settled_table, tables_csv


def test_rows_have_ours_and_the_papers(outcomes, table):
    numbers = paper_table("4", table, outcomes).numbers
    assert list(numbers.columns) == ["run_here", "run_here_half_width", "published", "published_half_width"]
    assert numbers.index.unique("row").to_list() == ["none", "four", "eight"]
    # Not in the file's order but in that of the measures.
    assert numbers.index.unique("measure").to_list() == ["r_precision_top1", "fid"]
    assert Interval(*numbers.loc[("four", "fid")].iloc[:2]) == Interval.of([30.0, 32.0])
    ours, half_width, *paper = numbers.loc[("eight", "fid")].to_list()
    assert ours == 43.0
    assert half_width == pytest.approx(12.706 * 2, rel=1e-4)
    assert paper == [3.0, 0.1]


def bold(table, measure: str) -> list[bool]:
    """Whether the numbers of a column are bold, by row."""
    shown = table.shown(1).bold
    assert shown is not None
    return list(shown[measure])


def orders(table) -> list[tuple[str, ...]]:
    """Measure, rows, basis and verdict of each order."""
    return list(table.orders[["measure", "first", "second", "by", "order"]].itertuples(index=False, name=None))


def test_the_order_of_two_rows_holds_or_is_reversed_or_cannot_be_distinguished(make_outcome, table):
    trials = [
        make_outcome("none", [40.0, 44.0, 42.0], [0.20, 0.22, 0.18], rows=("none",)),
        make_outcome("four", [30.0, 31.0, 32.0], [0.21, 0.19, 0.20], rows=("four",)),
        make_outcome("eight", [50.0, 54.0, 51.0], [0.30, 0.33, 0.27], rows=("eight",)),
    ]
    ours = paper_table("4", table, Outcomes.joined(trials))
    assert orders(ours) == [
        ("r_precision_top1", "none", "four", "replications", "cannot be distinguished"),
        ("r_precision_top1", "none", "eight", "replications", "holds"),
        ("r_precision_top1", "four", "eight", "replications", "holds"),
        ("fid", "none", "four", "replications", "holds"),
        ("fid", "none", "eight", "replications", "is reversed"),
        ("fid", "four", "eight", "replications", "is reversed"),
    ]
    assert ours.order() == (
        "Order of each row and the paper's best: ✓ holds, ✗ is reversed, ≈ cannot be distinguished (by replications). "
        "Of all pairs of rows that the paper distinguishes: R top 1 ✓ 2, ✗ 0, ≈ 1; FID ✓ 1, ✗ 2, ≈ 0."
    )
    assert ours.shown(1).markdown() == (
        "|       |   R top 1 ↑, run here |   R top 1, order |   R top 1 ↑, published |"
        "   FID ↓, run here |   FID, order |   FID ↓, published |\n"
        "|:------|----------------------:|-----------------:|-----------------------:|"
        "------------------:|-------------:|-------------------:|\n"
        "| none  |          0.200 ±0.018 |                ✓ |           0.400 ±0.010 |"
        "     42.000 ±1.848 |            ✗ |       5.000 ±0.100 |\n"
        "| four  |          0.200 ±0.009 |                ✓ |           0.500 ±0.010 |"
        " **31.000 ±0.924** |            ✗ |       4.000 ±0.100 |\n"
        "| eight |      **0.300 ±0.028** |                  |       **0.600 ±0.010** |"
        "     51.667 ±1.923 |              |   **3.000 ±0.100** |"
    )


def test_means_far_within_their_spread_are_both_bold_and_have_no_order(make_outcome, table):
    near = {"none": [9.3857, 17.3857, 13.3857], "four": [17.3863, 9.3863, 13.3863], "eight": [60.0, 61.0, 62.0]}
    ours = paper_table(
        "4", table, Outcomes.joined([make_outcome(row, near[row], [0.3] * 3, rows=(row,)) for row in near])
    )
    assert ("fid", "none", "four", "replications", "cannot be distinguished") in orders(ours)
    assert bold(ours, "FID ↓, run here") == [True, True, False]


def test_replications_are_compared_in_pairs(make_outcome, table):
    # A spread of 20 that both have, and 1 between them in each replication.
    spread = {"none": [30.0, 40.0, 50.5], "four": [29.0, 39.0, 49.4]}
    ours = paper_table("4", table, Outcomes.joined([make_outcome(r, spread[r], [0.3] * 3, rows=(r,)) for r in spread]))
    assert ("fid", "none", "four", "replications", "holds") in orders(ours)
    assert bold(ours, "FID ↓, run here") == [False, True, False]


def test_an_order_is_by_seeds_where_a_row_has_several_and_says_so(outcomes, table):
    ours = paper_table("4", table, outcomes)
    # Eight are of two seeds, 41 and 45: 12.706 standard errors of the difference of one value and two.
    assert ours.orders.query("measure == 'fid'").round(3).to_dict("list") == {
        "measure": ["fid"] * 3,
        "first": ["none", "none", "four"],
        "second": ["four", "eight", "eight"],
        "published": [1.0, 2.0, 1.0],
        "run_here": [20.0, 8.0, -12.0],
        "run_here_half_width": [0.0, 44.016, 44.016],
        "by": ["replications", "seeds", "seeds"],
        "order": ["holds", "cannot be distinguished", "cannot be distinguished"],
    }
    assert "≈ cannot be distinguished (by seeds). Of all" in ours.order()


def test_marks_by_replications_are_told_from_marks_by_seeds(outcomes, table):
    table["rows"]["four"]["fid"], table["rows"]["eight"]["fid"] = [3.0, 0.1], [4.0, 0.1]
    ours = paper_table("4", table, outcomes)
    assert ours.shown(2).cells["FID, order"].to_list() == ["✓†", "", "≈"]
    assert "≈ cannot be distinguished (by seeds, † by replications). Of all" in ours.order()


def test_orders_that_the_paper_does_not_distinguish_are_left_out(parts, outcomes, table):
    table["rows"]["four"]["fid"] = [3.1, 0.08]  # eight: 3.0 ±0.1; the difference, 0.1 ±0.128
    ours = paper_table("4", table, outcomes)
    assert [(first, second) for name, first, second, *_ in orders(ours) if name == "fid"] == [
        ("none", "four"),
        ("none", "eight"),
    ]
    shown = ours.shown(2)
    assert shown.cells["FID, order"].to_list() == ["≈", "", ""]
    assert bold(ours, "FID ↓, published") == [False, True, True]
    assert (
        paper_table("4", table, parts[0]).order()
        == "The paper's order of rows: no two rows that it distinguishes are done."
    )


def test_numbers_without_an_interval_cannot_be_distinguished(make_outcome, table):
    single = [make_outcome(row, [fid], [0.3], rows=(row,)) for row, fid in (("none", 50.0), ("four", 30.0))]
    ours = paper_table("4", table, Outcomes.joined(single))
    assert ("fid", "none", "four", "replications", "cannot be distinguished") in orders(ours)
    shown = ours.shown(1)
    assert shown.cells["FID ↓, run here"].to_list() == ["50.000", "30.000", ""]
    assert bold(ours, "FID ↓, run here") == [True, True, False]


def test_all_that_cannot_be_distinguished_from_the_best_is_bold(parts, outcomes, table):
    shown = paper_table("4", table, outcomes).shown(2)
    assert list(shown.cells.columns) == [
        *("R top 1 ↑, run here", "R top 1, order", "R top 1 ↑, published"),
        *("FID ↓, run here", "FID, order", "FID ↓, published"),
    ]
    assert shown.bold.to_numpy().tolist() == [
        [False, False, False, False, False, False],
        [True, False, False, True, False, False],
        [True, False, True, True, False, True],
    ]
    assert list(shown.cells.index) == ["none (1 of 2 seeds)", "four (1 of 2 seeds)", "eight"]
    assert list(shown.bold.index) == list(shown.cells.index)
    missing = paper_table("4", table, parts[0]).shown(1)
    assert missing.cells.loc["four"].to_list() == ["", "", "0.500 ±0.010", "", "", "4.000 ±0.100"]


def test_all_points_are_shown_whether_or_not_they_stand_for_a_row_of_the_paper(make_outcome):
    ours = points_table(
        Outcomes.joined(
            [make_outcome("none", [50.0, 52.0], [0.2, 0.2]), make_outcome("four", [30.0, 32.0], [0.3, 0.3])]
        )
    )
    assert ours.numbers.index.unique("measure").to_list() == ["r_precision_top1", "fid", "mm_dist"]
    shown = ours.shown(1)
    assert list(shown.cells.columns) == ["R top 1 ↑, run here", "FID ↓, run here", "MM Dist ↓, run here"]
    assert shown.cells.loc["four"].to_list() == ["0.300 ±0.000", "31.000 ±1.386", "31.000 ±1.386"]
    assert shown.bold.loc["four"].all()
    assert not shown.bold.loc["none"].any()


def test_what_users_get_has_a_table_with_what_is_seen_of_it(outcomes):
    settled = settled_table(outcomes)
    shown = settled.shown(1)
    assert settled.title == "All points, as users get them"
    assert list(shown.cells.columns) == ["FID ↓, run here", "Jerk, m/s³ →, run here"]
    assert shown.cells.loc["four"].to_list() == ["62.000 ±2.772", "80.000 ±0.000"]
    assert shown.bold is not None
    assert shown.bold["FID ↓, run here"].to_dict() == {"none": False, "four": True, "eight (2 of 1 seeds)": True}


def test_a_table_of_nothing_is_empty(outcomes):
    nothing = paper_table("4", {"title": "Nothing", "rows": {"four": {}}}, outcomes)
    assert nothing.order() == "The paper's order of rows: no two rows that it distinguishes are done."
    assert nothing.shown(1).cells.empty


def test_the_csv_has_every_number(parts, outcomes, table):
    text = tables_csv({"4": paper_table("4", table, outcomes)}, points_table(outcomes), settled_table(outcomes))
    assert text.splitlines()[0] == "table,row,measure,run_here,run_here_half_width,published,published_half_width"
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 6 + 9 + 6
    assert [row["row"] for row in rows if row["table"] == "settled"] == ["none"] * 2 + ["four"] * 2 + ["eight"] * 2
    assert [row["published"] for row in rows if not row["table"]] == [""] * 9
    fid = next(row for row in rows if (row["row"], row["measure"]) == ("four", "fid"))
    assert (float(fid["run_here"]), float(fid["published"]), float(fid["published_half_width"])) == (31.0, 4.0, 0.1)
    of_first = tables_csv({"4": paper_table("4", table, parts[0])}, points_table(parts[0]), settled_table(parts[0]))
    missing = list(csv.DictReader(io.StringIO(of_first)))
    assert missing[2] == {
        "table": "4",
        "row": "four",
        "measure": "r_precision_top1",
        "run_here": "",
        "run_here_half_width": "",
        "published": "0.5",
        "published_half_width": "0.01",
    }


def test_orders_are_written_by_pair(make_outcome, table):
    trials = [
        make_outcome(row, [fid, fid + 2], [0.5, 0.25], rows=(row,)) for row, fid in (("none", 5.0), ("four", 4.0))
    ]
    assert orders_csv({"4": paper_table("4", table, Outcomes.joined(trials))}) == (
        "table,measure,first,second,published,run_here,run_here_half_width,by,order\n"
        "4,r_precision_top1,none,four,-0.09999999999999998,0.0,0.0,replications,cannot be distinguished\n"
        "4,fid,none,four,1.0,1.0,0.0,replications,holds\n"
    )


def test_without_tables_of_the_paper_the_orders_are_a_head():
    assert orders_csv({}) == "table,measure,first,second,published,run_here,run_here_half_width,by,order\n"


def test_orders_are_told_while_the_papers_best_row_is_not_done(make_outcome, table):
    trials = [
        make_outcome(row, [fid, fid + 2], [0.5, 0.25], rows=(row,)) for row, fid in (("none", 5.0), ("four", 4.0))
    ]
    ours = paper_table("4", table, Outcomes.joined(trials))
    assert ours.shown(1).cells["FID, order"].to_list() == ["", "", ""]
    assert ours.order().endswith(
        "Of all pairs of rows that the paper distinguishes: R top 1 ✓ 0, ✗ 0, ≈ 1; FID ✓ 1, ✗ 0, ≈ 0."
    )


def test_rows_have_the_marks_of_the_notes_on_them(outcomes, table):
    table["notes"] = [
        {"text": "Copied by hand.", "rows": []},
        {"text": "By another evaluator.", "rows": ["none", "eight"]},
        {"text": "One seed.", "rows": ["eight"]},
    ]
    noted = paper_table("4", table, outcomes)
    assert noted.note_lines == ["Copied by hand.", "[1] By another evaluator.", "[2] One seed."]
    assert list(noted.shown(2).cells.index) == [
        "none (1 of 2 seeds) [1]",
        "four (1 of 2 seeds)",
        "eight [1] [2]",
    ]
    # The names by which numbers are found stay.
    assert noted.numbers.index.unique("row").to_list() == ["none", "four", "eight"]
    assert paper_table("4", table | {"notes": []}, outcomes).note_lines == []
