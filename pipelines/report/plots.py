"""The plots of a sweep's report: measures over a setting, training curves, load balance, cost."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, product

import numpy as np

from intermoe.evaluation.measures import HEADINGS
from intermoe.evaluation.metrics import Interval
from pipelines.documents import png
from pipelines.report.outcomes import Outcome, pooled

_SPREAD = ("moe.experts", "moe.c_exp")
PLOTS = (*(f"over-{key}.png" for key in _SPREAD), "training.png", "cost.png")


@dataclass(frozen=True)
class Plot:
    """A picture of the report: a name for its file, a title, a text for those who do not see it, and the PNG."""

    name: str
    title: str
    text: str
    png: bytes


def plots(outcomes: Sequence[Outcome]) -> list[Plot]:
    """The plots of a report; one over a setting only where trials differ in it alone."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    found = []
    for key in _SPREAD:
        group = _spread(outcomes, key)
        if len(group) < 2:
            continue
        figure = Figure(figsize=(9, 3), layout="constrained", dpi=110)
        for axis, name in zip(figure.subplots(1, 3), ("fid", "r_precision_top1", "mm_dist"), strict=True):
            unknown = Interval(float("nan"), 0.0)
            intervals = [pooled([one.values[name] for one in group[value]]) or unknown for value in group]
            means, widths = zip(*((interval.mean, interval.half_width) for interval in intervals), strict=True)
            axis.errorbar(range(len(group)), means, yerr=widths, fmt="o-", capsize=3, color="#d1495b")
            axis.set_xticks(range(len(group)), [f"{value:g}" for value in group])
            axis.set_xlabel(key)
            axis.set_title(HEADINGS[name], fontsize=10)
            axis.grid(alpha=0.3)
        found.append(Plot(f"over-{key}.png", f"Over {key}", f"measures over {key}", png(figure)))
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=110)
    loss, balance = figure.subplots(1, 2)
    # Of so many curves none looks like another.
    styles = cycle(product(("-", "--", ":"), [colormaps["tab20"](number) for number in range(20)]))
    for one, (dash, colour) in zip(outcomes, styles, strict=False):
        line = {"label": one.name, "linewidth": 1, "linestyle": dash, "color": colour}
        points = one.curves.get("train/loss", [])
        loss.plot([step for step, _ in points], [value for _, value in points], **line)
        balance.plot(*_imbalance(one), **line)
    loss.set(title="Training loss", xlabel="step", yscale="log")
    balance.set(title="Imbalance: deviation of the experts' loads over their mean", xlabel="step")
    balance.title.set_fontsize(9)
    loss.legend(fontsize=6)
    for axis in (loss, balance):
        axis.grid(alpha=0.3)
    found.append(Plot("training.png", "Training", "training loss and load balance of all trials", png(figure)))
    figure = Figure(figsize=(9, 0.8 + 0.28 * len(outcomes)), layout="constrained", dpi=110)
    sizes = {
        "training, s": [one.seconds[0] for one in outcomes],
        "tokens/s": [one.tokens_a_second for one in outcomes],
        "trainable, millions": [one.parameters["trainable"] / 1e6 for one in outcomes],
        "active, millions": [one.parameters["active"] / 1e6 for one in outcomes],
    }
    for number, (axis, (title, values)) in enumerate(zip(figure.subplots(1, 4), sizes.items(), strict=True)):
        axis.barh(range(len(outcomes)), values, color="#5b7f95")
        axis.set_yticks(range(len(outcomes)), [one.name for one in outcomes] if number == 0 else [""] * len(outcomes))
        axis.tick_params(labelsize=7)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=9)
    found.append(Plot("cost.png", "Cost by trial", "time, speed and size of all trials", png(figure)))
    return found


def _spread(outcomes: Sequence[Outcome], key: str) -> dict[float, list[Outcome]]:
    """The largest set of trials that differ in that setting alone (and in their seeds), by its values."""
    groups: dict[str, dict[float, list[Outcome]]] = {}
    for one in outcomes:
        rest = {name: value for name, value in one.settings.items() if name not in (key, "seed", "name")}
        if rest.get("moe.selection") != "dense":
            values = groups.setdefault(json.dumps(rest, sort_keys=True, default=str), {})
            values.setdefault(float(one.settings[key]), []).append(one)
    largest = max(groups.values(), key=len, default={})
    return dict(sorted(largest.items()))


def _imbalance(one: Outcome) -> tuple[list[int], list[float]]:
    """Standard deviation of the experts' loads over their mean, averaged over the layers, by step."""
    layers: dict[str, dict[int, list[float]]] = {}
    for name, points in one.curves.items():
        if name.startswith("moe/"):
            for step, value in points:
                layers.setdefault(name.split("/")[1], {}).setdefault(step, []).append(value)
    steps = sorted({step for layer in layers.values() for step in layer})
    spread = []
    for step in steps:
        loads = [np.array(layer[step]) for layer in layers.values() if step in layer]
        spread.append(float(np.mean([load.std() / max(load.mean(), 1e-9) for load in loads])))
    return steps, spread
