"""What became of the trials of a sweep, for its report."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from intermoe import checkpoint
from intermoe.data.shards import DatasetFolder
from intermoe.evaluation.metrics import Interval
from intermoe.model import trained_folder
from intermoe.networks.vae import STRIDE
from pipelines.settings import flatten
from pipelines.sweep.trial import OUTCOME
from pipelines.tracking.queries import curves
from pipelines.train.run_folder import run_note

_CURVES = re.compile(r"train/loss|train/samples_per_second|moe/layer\d+/load\d+")


@dataclass(frozen=True)
class Outcome:
    """What became of one trial.

    Attributes:
        name: of its first point and seed.
        point: the names of its points.
        rows: the tables and rows that it stands for.
        settings: all settings, under dotted names.
        values: measure -> one value a replication; of its generated row.
        real: the same of recorded motion.
        parameters: trainable and active.
        seconds: of training and of evaluating.
        tokens_a_second: latent frames of both persons that a training step took, by the second.
        curves: what it logged, by name: points of step and value.
    """

    name: str
    point: str
    rows: tuple[tuple[str, str], ...]
    settings: Mapping[str, Any]
    values: Mapping[str, Sequence[float]]
    real: Mapping[str, Sequence[float]]
    parameters: Mapping[str, int]
    seconds: tuple[float, float]
    tokens_a_second: float
    curves: Mapping[str, Sequence[tuple[int, float]]]


def read_outcome(folder: Path, trial: Mapping[str, Any], uri: str) -> Outcome:
    """What lies in the folder of a sweep and in MLflow of a trial that is done.

    Args:
        folder: of the sweep.
        trial: its line in the sweep's plan.
        uri: of the MLflow store.
    """
    place = folder / "trials" / trial["key"]
    outcome = json.loads((place / OUTCOME).read_text("utf-8"))
    rows = json.loads((place / outcome["evaluation"] / "results.json").read_text("utf-8"))["rows"]
    values, real = ({name: m["replications"] for name, m in rows[row].items()} for row in ("generated", "real"))
    config = checkpoint.documents(trained_folder(place / "denoiser"))["config"]
    logged = curves(uri, outcome["run"], _CURVES)
    speed = [value for _, value in logged.get("train/samples_per_second", [])]
    return Outcome(
        name=f"{trial['points'][0]}" + (f" (seed {trial['seed']})" if trial["seed"] else ""),
        point=", ".join(trial["points"]),
        rows=tuple((table, row) for table, row in trial["rows"]),
        settings=flatten(config),
        values=values,
        real=real,
        parameters=outcome["parameters"],
        seconds=(outcome["seconds_training"], outcome["seconds_evaluating"]),
        tokens_a_second=float(np.median(speed)) * _tokens(place, config) if speed else 0.0,
        curves=logged,
    )


def _tokens(place: Path, config: Mapping[str, Any]) -> float:
    """Latent frames of both persons in a training sample, on average."""
    frames = DatasetFolder.open(run_note(place / "denoiser")["data"]).index("train").frames
    return float(2 * ((frames.clip(max=config["data"]["max_frames"]) - 1) // STRIDE).mean())


def pooled(values: Sequence[Sequence[float]]) -> Interval | None:
    """The interval of trials that differ in their seeds alone, from the replications of each; None where none has any.

    Of one seed it is over the replications, as in the literature. Of several it is over the seeds' means, whose spread
    is that of training and evaluation together, by Student's t: all replications as one sample would hide it.

    Example:
        >>> str(pooled([[1.0, 3.0], [5.0, 5.0]]))
        '3.500 ±19.059'
    """
    known = [list(one) for one in values if len(one)]
    if len(known) < 2:
        return Interval.of(known[0]) if known else None
    means = np.array([np.mean(one) for one in known])
    spread = means.std(ddof=1) / np.sqrt(len(means))
    return Interval(float(means.mean()), float(t.ppf(0.975, len(means) - 1) * spread))
