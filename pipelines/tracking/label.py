"""The label of a run in MLflow."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunLabel:
    """The label of a run in MLflow.

    Attributes:
        name: of the run; the verb or the target if None.
        parent: id of the run that it belongs to.
        tags: beside its own.
    """

    name: str | None = None
    parent: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
