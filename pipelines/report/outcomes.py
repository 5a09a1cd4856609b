"""The outcomes of a sweep's trials, as data frames, and intervals over trials that differ in their seeds alone."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.stats import t

from intermoe import checkpoint
from intermoe.body.skeletons import skeleton_named
from intermoe.data.shards import DatasetFolder
from intermoe.evaluation.metrics import Interval
from intermoe.files import read_note
from intermoe.model_config import trained_folder
from intermoe.networks.by_name import frames_per_latent
from intermoe.places import Place, is_file
from pipelines.evaluate.results import Results
from pipelines.settings import flatten
from pipelines.sweep.trial import OUTCOME
from pipelines.tracking.queries import curves
from pipelines.train.run_folder import run_note

_CURVES = re.compile(r"loss/train|train/samples_per_second|moe/imbalance")


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Trials that are done; in every frame a trial goes by its name.

    Attributes:
        trials: indexed by ``trial``: ``point``, the names of its points; ``seed``; ``trainable`` and ``active``, its
            parameters; ``seconds_training`` and ``seconds_evaluating``; ``tokens_per_second``, the latent frames of
            all persons that training takes.
        rows: of the paper's tables, that trials stand for: ``trial``, ``table``, ``row``.
        settings: indexed by ``trial``, a column per dotted name.
        replications: indexed by ``trial``, ``row`` ("generated" and so on) and ``replication``, a column per measure.
        curves: what was logged, indexed by ``trial``, ``curve`` and ``step``.
    """

    trials: pd.DataFrame
    rows: pd.DataFrame
    settings: pd.DataFrame
    replications: pd.DataFrame
    curves: pd.Series

    @classmethod
    def joined(cls, outcomes: Sequence[Self]) -> Self:
        """All trials of several outcomes; at least one."""
        frames = {field.name: [getattr(outcome, field.name) for outcome in outcomes] for field in fields(cls)}
        return cls(**{name: pd.concat(parts) for name, parts in frames.items()})

    @property
    def raw(self) -> pd.DataFrame:
        """The replications of what the networks make, as the paper measures it, by ``trial`` and ``replication``."""
        return self.replications.query("row == 'raw'").droplevel("row")

    @property
    def settled(self) -> pd.DataFrame:
        """The replications of the motion that users get, by ``trial`` and ``replication``."""
        return self.replications.query("row == 'generated'").droplevel("row")


def is_done(folder: Place, trial: Mapping[str, Any]) -> bool:
    """Whether a trial in a sweep's plan is done."""
    return is_file(folder / "trials" / trial["key"] / OUTCOME)


def read_outcome(folder: Place, trial: Mapping[str, Any], uri: str) -> Outcomes:
    """The outcome of a trial that is done, from the folder of its sweep and from MLflow.

    Args:
        folder: of the sweep.
        trial: its entry in the sweep's plan.
        uri: of the MLflow store.
    """
    name = trial["name"]
    place = folder / "trials" / trial["key"]
    outcome = read_note(place / OUTCOME)
    config = checkpoint.documents(trained_folder(place / "denoiser"))["config"]
    points = {
        (name, curve, step): value
        for curve, points in curves(uri, outcome["run"], _CURVES).items()
        for step, value in points
    }
    logged = pd.Series(points, dtype=float).rename_axis(["trial", "curve", "step"])
    samples_per_second = logged[logged.index.get_level_values("curve") == "train/samples_per_second"].median()
    costs = {
        "point": ", ".join(trial["points"]),
        "seed": trial["seed"],
        **{name: outcome["parameters"][name] for name in ("trainable", "active")},
        "seconds_training": outcome["seconds_training"],
        "seconds_evaluating": outcome["seconds_evaluating"],
        "tokens_per_second": samples_per_second * _tokens_per_sample(place, config),
    }
    index = pd.Index([name], name="trial")
    return Outcomes(
        trials=pd.DataFrame([costs], index=index),
        rows=pd.DataFrame([(name, *row) for row in trial["rows"]], columns=["trial", "table", "row"]),
        settings=pd.DataFrame([flatten(config)], index=index, dtype=object),
        replications=pd.concat({name: Results.read(place / outcome["evaluation"]).values}, names=["trial"]),
        curves=logged,
    )


def summarise(replications: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """Mean and 95% interval of each measure over groups of trials that differ in their seeds alone.

    Args:
        replications: indexed by ``trial`` and ``replication``, a column per measure.
        groups: each group's name, indexed by the names of its trials; a trial may be in several.

    Returns:
        ``mean`` and ``half_width``, indexed by ``group`` and ``measure``; what is not known is left out.
    """
    known = replications.melt(var_name="measure", ignore_index=False).dropna().reset_index()
    members = groups.rename_axis("trial").rename("group").reset_index()
    values = members.merge(known, on="trial").set_index("trial").groupby(["group", "measure"], sort=False)["value"]
    intervals = values.apply(pooled)
    return pd.DataFrame(intervals.tolist(), index=intervals.index, columns=["mean", "half_width"])


def pooled(values: pd.Series) -> Interval:
    """The interval of trials that differ in their seeds alone, from their replications.

    Of one seed it is over the replications, as in the literature. Of several it is over the seeds' means, whose spread
    is that of training and evaluation together, by Student's t: all replications as one sample would hide it. A single
    value has no interval: its half width is NaN.

    Args:
        values: indexed by ``trial``.

    Example:
        >>> trials = pd.Index(["full-seed0", "full-seed0", "full-seed1", "full-seed1"], name="trial")
        >>> str(pooled(pd.Series([1.0, 3.0, 5.0, 5.0], trials)))
        '3.500 ±19.059'
    """
    if len(values) == 1:
        return Interval(float(values.iloc[0]), float("nan"))
    means = values.groupby(level="trial", sort=False).agg(np.mean)
    if len(means) == 1:
        return Interval.of(values.to_list())
    spread = means.std(ddof=1) / np.sqrt(len(means))
    return Interval(float(means.mean()), float(t.ppf(0.975, len(means) - 1) * spread))


def _tokens_per_sample(place: Place, config: Mapping[str, Any]) -> float:
    """Latent frames of all persons in a training sample, on average."""
    folder = DatasetFolder.open(run_note(place / "denoiser")["data"])
    frames, num_persons = folder.index("train").frames, skeleton_named(folder.card.skeleton).num_persons
    stride = frames_per_latent(config.get("network", "intermoe"), config["data"]["max_frames"])
    latents = (frames.clip(max=config["data"]["max_frames"]) - 1) // stride
    # The one latent of MLD's longest motion is that of a shorter one too.
    return float(num_persons * latents.clip(min=1).mean())
