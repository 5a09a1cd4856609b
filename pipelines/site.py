"""Locations on this machine that no configuration names; part of every request."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipelines.tracking.address import tracking_uri


@dataclass(frozen=True)
class Site:
    """Locations that a job needs, read once where the job is requested and sent with it.

    Attributes:
        tracking_uri: address of the MLflow store.
        text_folder: folder of CLIP's weights; the user's hub cache if None.
        word_vectors: folder of the vectors that T2M's evaluator is given; None where it learns them.
    """

    tracking_uri: str
    text_folder: Path | None = None
    word_vectors: Path | None = None

    @classmethod
    def here(cls, text_folder: Path | None = None, word_vectors: Path | None = None) -> Self:
        """The site of this process: ``MLFLOW_TRACKING_URI`` or the default store, and the given folders."""
        folders = (None if folder is None else folder.absolute() for folder in (text_folder, word_vectors))
        return cls(tracking_uri(), *folders)
