"""Measures of a running training as Ray's metrics, which Prometheus collects from each node and Grafana shows.

Ray prefixes their names: ``ray_intermoe_step`` and so on.
"""

from collections.abc import Mapping

from ray.util.metrics import Gauge

# What the training calls a measure, its name here, and what it is.
_GAUGES = (
    ("step", "step", "Optimizer steps that are done."),
    ("samples_per_second", "samples_per_second", "Samples per second, over all workers."),
    ("share_waiting_for_data", "share_waiting_for_data", "Share of the time spent waiting for batches, 0 to 1."),
    (
        "imbalance",
        "load_imbalance",
        "Standard deviation of the experts' loads over their mean; mean over the layers, 0 where all carry the same.",
    ),
    ("experts_per_token", "experts_per_token", "Mean number of experts that take a token."),
)


class Gauges:
    """The gauges of one run."""

    def __init__(self, *, run: str, target: str) -> None:
        """Make the gauges.

        Args:
            run: id of the MLflow run.
            target: what is trained.
        """
        self._tags = {"run": run, "target": target}
        self._gauges = {
            measure: Gauge(f"intermoe_{name}", description=description, tag_keys=tuple(self._tags))
            for measure, name, description in _GAUGES
        }

    def set(self, values: Mapping[str, float]) -> None:
        """Set the gauges of those measures that are given, by the names that the training has for them."""
        for measure, gauge in self._gauges.items():
            if measure in values:
                gauge.set(values[measure], tags=self._tags)
