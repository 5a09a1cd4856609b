"""The plots of a sweep's report: measures over a setting, training curves, load balance, cost."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, product

import pandas as pd

from intermoe.evaluation.conventions import RUN_HERE
from intermoe.evaluation.measures import MEASURES
from pipelines.documents import png
from pipelines.report.outcomes import Outcomes, summarise

_LEGEND_COLUMNS = 5
_VARIED = ("moe.experts", "moe.c_exp")
PLOTS = (*(f"over-{key}.png" for key in _VARIED), "training.png", "cost.png")
"""Names of the files that a report may have plots in."""

# The names of a trial and its seed do not make it another configuration.
_UNLIKE = ("seed", "name")


@dataclass(frozen=True)
class Plot:
    """A picture of the report.

    Attributes:
        file: its name.
        title: above it.
        text: for those who do not see it.
        png: its bytes.
    """

    file: str
    title: str
    text: str
    png: bytes


def plots(outcomes: Outcomes) -> list[Plot]:
    """The plots of a report; one over a setting only where trials differ in it alone."""
    return [*_over_settings(outcomes), _training(outcomes), _cost(outcomes.trials)]


def varied(settings: pd.DataFrame, key: str) -> pd.Series:
    """The largest set of trials that differ in that setting alone (and in their seeds): its values, by trial.

    Args:
        settings: indexed by trial, a column per dotted name.
        key: name of the setting, a number; points without experts have none.

    Example:
        >>> columns = ["moe.experts", "moe.alpha", "moe.selection", "seed", "name"]
        >>> rows = [(8, 0.5, "dynamic", 0, "a"), (4, 0.5, "dynamic", 0, "a"), (2, 0.9, "dynamic", 0, "a")]
        >>> settings = pd.DataFrame(rows, columns=columns, index=["eight", "four", "other"])
        >>> varied(settings, "moe.experts").to_dict()
        {'four': 4.0, 'eight': 8.0}
    """
    settings = settings[settings["moe.selection"] != "dense"]
    if settings.empty:
        return pd.Series(dtype=float)
    others = settings.drop(columns=[key, *_UNLIKE]).map(str).agg("\n".join, axis="columns")
    values = settings[key].astype(float)
    largest = values.groupby(others, sort=False).nunique().idxmax()
    return values[others == largest].sort_values(kind="stable")


def _over_settings(outcomes: Outcomes) -> Iterator[Plot]:
    from matplotlib.figure import Figure

    for key in _VARIED:
        values = varied(outcomes.settings, key)
        if values.nunique() < 2:
            continue
        summary = summarise(outcomes.raw, values)
        figure = Figure(figsize=(9, 3), layout="constrained", dpi=110)
        for axis, name in zip(figure.subplots(1, 3), ("fid", "r_precision_top1", "mm_dist"), strict=True):
            numbers = summary.query("measure == @name").droplevel("measure").reindex(values.unique())
            places = range(len(numbers))
            axis.errorbar(places, numbers["mean"], yerr=numbers["half_width"], fmt="o-", capsize=3, color="#d1495b")
            axis.set_xticks(places, [f"{value:g}" for value in numbers.index])
            axis.set_xlabel(key)
            axis.set_title(MEASURES[name].title, fontsize=10)
            axis.grid(alpha=0.3)
        yield Plot(f"over-{key}.png", f"Over {key}, {RUN_HERE}", f"measures over {key}", png(figure))


def _training(outcomes: Outcomes) -> Plot:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    rows = math.ceil(len(outcomes.trials) / _LEGEND_COLUMNS)
    figure = Figure(figsize=(9, 3.6 + 0.15 * rows), layout="constrained", dpi=110)
    loss, balance = figure.subplots(1, 2)
    names = outcomes.curves.index.get_level_values("curve")
    shown = tuple(
        (axis, outcomes.curves[names == name].droplevel("curve"))
        for axis, name in ((loss, "loss/train"), (balance, "moe/imbalance"))
    )
    # Of so many curves none looks like another.
    styles = cycle(product(("-", "--", ":"), [colormaps["tab20"](number) for number in range(20)]))
    for trial, (dash, colour) in zip(outcomes.trials.index, styles, strict=False):
        for axis, curves in shown:
            curve = curves[curves.index.get_level_values("trial") == trial].droplevel("trial")
            axis.plot(curve.index, curve, label=trial, linewidth=1, linestyle=dash, color=colour)
    loss.set(title="Training loss", xlabel="step", yscale="log")
    balance.set(title="Imbalance: deviation of the experts' loads over their mean", xlabel="step")
    balance.title.set_fontsize(9)
    # Below the plots: of many trials it would cover them.
    figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=_LEGEND_COLUMNS, fontsize=6)
    for axis in (loss, balance):
        axis.grid(alpha=0.3)
    return Plot("training.png", "Training", "training loss and load balance of all trials", png(figure))


def _cost(trials: pd.DataFrame) -> Plot:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.8 + 0.28 * len(trials)), layout="constrained", dpi=110)
    costs = {
        "training, s": trials["seconds_training"],
        "tokens/s": trials["tokens_per_second"],
        "trainable, millions": trials["trainable"] / 1e6,
        "active, millions": trials["active"] / 1e6,
    }
    axes = figure.subplots(1, len(costs), sharey=True)
    for axis, (title, values) in zip(axes, costs.items(), strict=True):
        axis.barh(trials.index, values, color="#5b7f95")
        axis.tick_params(labelsize=7)
        axis.margins(y=0.01)
        axis.set_title(title, fontsize=9)
    axes[0].invert_yaxis()
    return Plot("cost.png", "Cost by trial", "time, speed and size of all trials", png(figure))
