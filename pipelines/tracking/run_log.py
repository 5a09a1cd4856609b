"""What a process logs of a run in MLflow, written down in the run's folder (spool.py); needs no MLflow.

A run is addressed by the address of its store and its id, two plain strings, so that a driver can open it (runs.py) and
a Ray worker on another machine can write to it.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from intermoe.places import Place, cache, is_remote
from pipelines.tracking.address import shown
from pipelines.tracking.spools import FOLDER, spool_of


class RunLog:
    """One run in MLflow that this process logs to, and that another one delivers, which has its folder too.

    Attributes:
        uri: of the store.
        id: of the run.
    """

    def __init__(self, uri: str, id: str, folder: Place | None, *, part: str = "driver") -> None:
        """Take up a run that is there.

        Args:
            uri: of the store.
            id: of the run.
            folder: of the run, where its spool is; one in the user's cache if None.
            part: of this process in the run (``spool_of``).
        """
        self.uri, self.id = uri, id
        self._folder, self._part = folder or cache() / "runs" / id, part
        self._spool = spool_of(self._folder, id, shown(uri), part)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a point to each named curve; points are delivered together every few seconds (``delivery.SECONDS``)."""
        if metrics:
            self._log("points", step=step, values={name: float(value) for name, value in metrics.items()})

    def save(self) -> None:
        """Wait until the disk has what was logged; call it before a checkpoint is written.

        A run that goes on from the checkpoint then misses no point, even if the machine has died.
        """
        self._spool.save()

    def log_artifact(self, path: Place, folder: str | None = None) -> None:
        """Add a file, or a folder with all it holds, as it is now, below the named folder of the run's artifacts."""
        self._log("artifact", **self._spool.hold(path), folder=folder)

    def describe(self, markdown: str) -> None:
        """Set the description on the page of the run, in place of an earlier one.

        It is cut to what MLflow takes; ``writer.MEASURED`` in it becomes a table of the newest measures.
        """
        self._log("describe", markdown=markdown)

    def artifact_link(self, path: str) -> str:
        """The address of a file among the run's artifacts."""
        return f"get-artifact?{urlencode({'path': path, 'run_uuid': self.id})}"

    def picture(self, path: str, text: str | None = None) -> str:
        """A picture among the run's artifacts as Markdown for a description; ``text`` is for who does not see it."""
        return f"![{path if text is None else text}]({self.artifact_link(path)})"

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        if tags:
            self._log("tags", tags=dict(tags))

    def log_dict(self, document: Mapping[str, Any], file: str) -> None:
        """Add a document as a .json or .yaml file."""
        self._log("document", document=dict(document), file=file)

    def log_table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Add a table as a .json file, which the page of the run shows as one; an earlier one is replaced."""
        self._log("table", columns={name: list(values) for name, values in columns.items()}, file=file)

    def log_dataset(self, name: str, digest: str, source: str, *, profile: Mapping[str, Any], context: str) -> None:
        """Note which data the run used.

        Args:
            name: of the data set.
            digest: a hash of what it holds.
            source: where it lies.
            profile: its counts and whatever else describes it.
            context: what for, such as "training".
        """
        self._log("dataset", name=name, digest=digest, source=source, profile=dict(profile), context=context)

    def log_checkpoint(self, folder: Place, step: int, metrics: Mapping[str, float]) -> None:
        """Add a checkpoint as a logged model that belongs to the run; once a step, however often it is called.

        Args:
            folder: the checkpoint, added as it is now.
            step: at which it was taken.
            metrics: what was measured of it; they are points of the run's curves too, not to be logged again.
        """
        self._log("checkpoint", **self._spool.hold(folder), step=step, metrics=dict(metrics))

    def log_evaluated(self, model_run: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record metrics of this run on the newest checkpoint of another run.

        The numbers then stand on the page of the checkpoint too. Nothing is said where the store does not know the
        other run, or no checkpoint of it.
        """
        self._log("evaluated", model_run=model_run, metrics=dict(metrics), step=step)

    def move(self, folder: Place) -> None:
        """Keep what MLflow does not have yet in another folder of the same file system from now on."""
        self._spool.move(folder / FOLDER / self._part if is_remote(folder) else folder / FOLDER)
        self._folder = folder

    def close(self) -> None:
        """Stop logging; the run continues elsewhere."""
        self._spool.save()

    def _log(self, kind: str, **arguments: Any) -> None:
        self._spool.append(kind, int(time.time() * 1000), **arguments)


def join(uri: str, id: str, folder: Place) -> RunLog:
    """Log to a run that another process has opened, from a worker of it.

    In the storage of a URI, which cannot be added to, the worker delivers what it logs itself.
    """
    if not is_remote(folder):
        return RunLog(uri, id, folder, part="worker")
    from pipelines.tracking.runs import Run  # MLflow, which takes two seconds

    return Run(uri, id, folder, part="worker")
