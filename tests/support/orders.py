"""What a trial of a sweep is told, for tests that look at only some of it."""

from pathlib import Path
from typing import Any

from pipelines.sweep.trial import Order


def make_order(folder: Path, **known: Any) -> Order:
    """An order for a folder, empty but for what is known."""
    empty = dict.fromkeys(("dataset", "vae", "evaluator", "tracking_uri", "parent"), "")
    defaults: dict[str, Any] = {
        "key": "k",
        "name": "full-seed0",
        "settings": {},
        "evaluation": "evaluation-1",
        "text_folder": None,
    }
    return Order(folder=str(folder), **(empty | defaults | {"tags": {}} | known))
