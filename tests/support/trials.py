"""Requests for trials of a sweep, for tests that look at only some of what they hold."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines import settings
from pipelines.site import Site
from pipelines.sweep.trial import TrialRequest
from pipelines.tracking.label import RunLabel


def make_trial(folder: Path, name: str = "full-seed0", **known: Any) -> TrialRequest:
    """A request for a trial in a folder, whose paths lead nowhere but for those that are given."""
    nowhere = Path("nowhere")
    request = TrialRequest(
        key="k",
        settings=settings.load("duet"),
        folder=folder,
        dataset=nowhere,
        vae=nowhere,
        evaluator=nowhere,
        site=Site(""),
        label=RunLabel(name),
    )
    return replace(request, **known)
