"""Requests for trials of a sweep, for tests that look at only some of what they hold."""

from pathlib import Path
from typing import Any

from pipelines import settings
from pipelines.site import Site
from pipelines.sweep.trial import TrialRequest
from pipelines.tracking.label import RunLabel


def make_trial(folder: Path, name: str = "full-seed0", **known: Any) -> TrialRequest:
    """A request for a trial in a folder, whose paths lead nowhere but for those that are given."""
    nowhere = dict.fromkeys(("dataset", "vae", "evaluator"), Path("nowhere"))
    defaults = {"key": "k", "settings": settings.load("duet"), "site": Site(""), "label": RunLabel(name)}
    return TrialRequest(folder=folder, **(nowhere | defaults | known))
