"""How a run is labelled in MLflow."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunLabel:
    """How a run is labelled in MLflow.

    Attributes:
        name: of the run; the verb or the target if None.
        parent: id of the run that it belongs to.
        tags: beside its own.
    """

    name: str | None = None
    parent: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
