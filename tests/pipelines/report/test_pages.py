"""The report's pages: what is done, what is missing, and what failed."""

from dataclasses import replace

import pytest

from pipelines.report.pages import ReportData, report_document
from pipelines.report.plots import Plot


@pytest.fixture
def data(outcomes, table) -> ReportData:
    """A report of four trials that are done and of another that has failed."""
    trials = [{"name": f"{name}-seed0", "seed": 0} for name in ("none", "four", "eight", "bad")]
    note = {
        "name": "toy",
        "profile": "tiny",
        "trials": trials,
        "tables": {"4": table},
        "failed": {"bad-seed0": "no such file"},
        "seconds_shared": {"vae": 20.0, "evaluator": 5.0},
    }
    plot = Plot("cost.png", "Cost <of it>", "bars", b"PNG")
    return replace(ReportData.of(note, outcomes), plots=[plot])


def test_rows_name_the_seeds_that_are_missing(data):
    text = report_document(data).markdown()
    assert "mean and 95% interval over the replications of evaluation; how much another seed" in text
    data.note["trials"].append({"name": "late-seed7", "seed": 7})
    text = report_document(data).markdown()
    assert "over 2 seeds (of each the mean of its replications, by Student's t)." in text
    assert "\n| four (1 of 2 seeds) |" in text
    assert "\n| eight               |" in text


def test_a_trial_has_one_name_and_a_failed_one_is_listed_once(data):
    data.note["trials"].append({"name": "late-seed7", "seed": 7})
    for text in (report_document(data).markdown(), report_document(data).html()):
        assert "Failed: bad-seed0: no such file" in text
        assert text.count("bad-seed0") == 1
        assert "Not done, or stopped early: late-seed7." in text
    assert "eight-seed1" in report_document(data).markdown()


def test_a_whole_sweep_has_nothing_missing(data):
    del data.note["trials"][-1]
    data.note["failed"].clear()
    text = report_document(data).markdown()
    assert "Not done" not in text
    assert "Failed" not in text


def test_the_pages_have_tables_plots_costs_and_notes(data):
    text, page = report_document(data).markdown(), report_document(data).html()
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# toy",
        "## Table 4: Experts & &lt;such>",
        "## All points",
        "## All points, as users get them",
        "## Cost &lt;of it>",
        "## Cost",
        "## Notes",
    ]
    assert "![bars](cost.png)" in text
    assert '<h2>Cost &lt;of it&gt;</h2><img alt="bars" src="data:image/png;base64,UE5H">' in page
    assert "<h2>Table 4: Experts &amp; &lt;such&gt;</h2>" in page
    assert "| none-seed0  |   2,000,000 |          1,000,000 |            90 |      1,000 |              10 |" in text
    assert "Recorded motion by the same evaluator, run here: R top 1 0.700, FID 1.000, Jerk 40.000 m/s³." in text
    assert "Of the trials' time, evaluation took 10%." in text
    assert "**31.000 ±1.386**" in text
    assert "<b>31.000 ±1.386</b>" in page
    assert "Of all pairs of rows that the paper distinguishes: R top 1 ✓ 2, ✗ 0, ≈ 1; FID ✓ 1, ✗ 0, ≈ 2." in text
    assert "FID ✓ 1, ✗ 0, ≈ 2.</p>" in page


def test_notes_stand_below_their_table_and_nothing_in_them_is_a_tag(data, outcomes, table):
    table["notes"] = [{"text": "<b>One</b> seed | `all`", "rows": ["four"]}]
    noted = replace(ReportData.of(data.note | {"tables": {"4": table}}, outcomes), plots=[])
    text, page = report_document(noted).markdown(), report_document(noted).html()
    note = r"- [1] &lt;b>One&lt;/b> seed \| \`all\`"
    assert "\n| four [1]" in text
    assert f"|\n\n{note}\n\nOrder of each row" in text
    assert "<th>four [1]</th>" in page
    assert "</table><ul><li>[1] &lt;b&gt;One&lt;/b&gt; seed | `all`</li></ul><p>Order of each row" in page


def test_every_column_of_numbers_says_whether_they_are_published_or_run_here(data):
    text = report_document(data).markdown()
    heads = [
        [cell.strip() for cell in line.strip("|").split("|")[1:]]
        for line in text.splitlines()
        if line.startswith("|") and "FID ↓" in line
    ]
    assert heads == [
        [
            *("R top 1 ↑, run here", "R top 1, order", "R top 1 ↑, published"),
            *("FID ↓, run here", "FID, order", "FID ↓, published"),
        ],
        ["R top 1 ↑, run here", "FID ↓, run here", "MM Dist ↓, run here"],
        ["FID ↓, run here", "Jerk, m/s³ →, run here"],
    ]
    assert "- Profile tiny. Published: the paper's numbers, on its data, copied from it.\n- Run here: of what" in text


def test_a_speed_that_was_not_logged_is_empty(data):
    data.outcomes.trials.loc["none-seed0", "tokens_per_second"] = float("nan")
    text = report_document(data).markdown()
    assert "| none-seed0  |   2,000,000 |          1,000,000 |            90 |            |              10 |" in text


def test_the_notes_name_the_test_that_distinguishes_rows(data):
    rule = (
        "- Bold: the best, and all that cannot be distinguished from it. Two rows are distinguished where the 95% "
        "interval of their difference leaves out 0, each pair by itself: "
    )
    by_replications = (
        "by replications, the paired t interval over those of evaluation, which have the same samples in every row; "
        "how much another seed of the training would change is not in it. All pairs are in orders.csv.\n"
    )
    assert rule + by_replications in report_document(data).markdown()
    data.note["trials"].append({"name": "late-seed7", "seed": 7})
    assert (
        f"{rule}by seeds, Welch's t interval over the seeds' means (a row of a single seed is taken to vary as the "
        f"other); where both rows have a single seed, {by_replications}"
    ) in report_document(data).markdown()
