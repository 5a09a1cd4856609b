"""The report's plots, and the numbers that they show."""

from pipelines.report.outcomes import Outcomes
from pipelines.report.plots import PLOTS, plots, varied


def test_trials_that_differ_in_one_setting_alone_make_a_curve(outcomes):
    values = varied(outcomes.settings, "moe.experts")
    assert list(values.items()) == [("four-seed0", 4.0), ("eight-seed0", 8.0), ("eight-seed1", 8.0)]
    assert varied(outcomes.settings, "moe.c_exp").nunique() == 1


def test_the_largest_such_set_is_taken(make_outcome):
    trials = [
        make_outcome(f"p{number}", [1.0], [0.1], **{"moe.experts": experts, "moe.alpha": alpha})
        for number, (experts, alpha) in enumerate([(2, 0.5), (4, 0.9), (8, 0.9), (16, 0.9), (4, 0.5)])
    ]
    values = varied(Outcomes.joined(trials).settings, "moe.experts")
    assert values.to_dict() == {"p1-seed0": 4.0, "p2-seed0": 8.0, "p3-seed0": 16.0}


def test_a_setting_that_has_no_value_keeps_no_trials_apart(outcomes):
    settings = outcomes.settings.assign(**{"workers.min_count": float("nan")})
    assert varied(settings, "moe.experts").equals(varied(outcomes.settings, "moe.experts"))


def test_points_without_experts_make_no_curve(parts):
    assert varied(parts[0].settings, "moe.experts").empty


def test_plots_are_drawn_and_named(outcomes, parts):
    drawn = plots(outcomes)
    assert [plot.file for plot in drawn] == ["over-moe.experts.png", "training.png", "cost.png"]
    assert {plot.file for plot in drawn} <= set(PLOTS)
    assert all(plot.png.startswith(b"\x89PNG") for plot in drawn)
    assert [plot.file for plot in plots(parts[0])] == ["training.png", "cost.png"]
