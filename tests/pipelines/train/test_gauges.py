"""The measures of a training among Ray's metrics."""

import pytest

from pipelines.train import gauges
from pipelines.train.gauges import Gauges


@pytest.fixture
def exported(monkeypatch):
    """What each gauge was last set to, and with which tags."""
    values: dict[str, tuple[float, dict[str, str]]] = {}

    class Gauge:
        def __init__(self, name, description, tag_keys):
            assert description
            assert tag_keys == ("run", "target")
            self._name = name

        def set(self, value, tags):
            values[self._name] = (value, tags)

    monkeypatch.setattr(gauges, "Gauge", Gauge)
    return values


def test_the_measures_that_are_there_are_exported_with_run_and_target(exported):
    training = Gauges(run="0123", target="denoiser")
    training.set({"step": 50, "samples_per_second": 64.0, "learning_rate": 1e-4, "imbalance": 0.25})
    tags = {"run": "0123", "target": "denoiser"}
    assert exported == {
        "intermoe_step": (50, tags),
        "intermoe_samples_per_second": (64.0, tags),
        "intermoe_load_imbalance": (0.25, tags),
    }
    training.set({"experts_per_token": 1.5, "share_waiting_for_data": 0.1})
    assert exported["intermoe_experts_per_token"] == (1.5, tags)
    assert exported["intermoe_share_waiting_for_data"] == (0.1, tags)
