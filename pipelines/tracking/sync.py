"""Delivering after the fact: what runs have logged and MLflow does not have yet."""

import warnings
from collections.abc import Iterator

from intermoe.errors import UserError, UserNote
from intermoe.places import Place, exists
from pipelines.tracking.address import as_noted, check_reachable, shown, tracking_uri
from pipelines.tracking.delivery import BYTES_PER_SECOND, Delivery
from pipelines.tracking.spool import Spool, Undelivered
from pipelines.tracking.spools import spools_below

_PATIENCE = 15.0


def sync(folders: list[Place]) -> Iterator[str]:
    """Deliver what is left of the runs in some folders, each that of a run or of a sweep with all its runs.

    Args:
        folders: of runs.

    Yields:
        A line for each run of which something was left, and for each folder where nothing was.

    Raises:
        UserError: no such folder, or, after all have been tried, MLflow does not take what some of them have left.
    """
    for folder in folders:
        if not exists(folder):
            raise UserError("no such folder", where=folder, allowed="the folder of a run or of a sweep")
    failures: list[UserError] = []
    for folder in folders:
        nothing = True
        for spool in spools_below(folder):
            left = spool.undelivered()
            if not left:
                # A process was killed between delivering the last line and removing the spool.
                with spool.delivering() as alone:
                    if alone:
                        spool.remove_if_delivered()
                continue
            nothing = False
            try:
                uri = _deliver_all(spool)
            except UserError as error:
                failures.append(error)
            else:
                yield f"{spool.place}: delivered {left} to run {spool.run_id} in MLflow at {shown(uri)}"
        if nothing:
            yield f"{folder}: nothing is left to deliver"
    if failures:
        first = failures[0]
        raise (
            first if len(failures) == 1 else UserError(f"{len(failures)} runs have something left; the first: {first}")
        )


def _deliver_all(spool: Spool) -> str:
    """Deliver a spool; the address of its store. Raises ``UserError`` where something is left."""
    uri = as_noted(spool.store, tracking_uri())
    check_reachable(uri)
    if reason := _deliver(spool, uri, _PATIENCE):
        raise UserError(
            f"run {spool.run_id} still has {spool.undelivered()} to deliver: {reason}",
            where=spool.place,
            allowed="`intermoe sync` again, when MLflow takes it",
        )
    return uri


def deliver_left(folder: Place, here: str, patience: float = _PATIENCE) -> None:
    """Deliver what the runs below a folder have left, and note what MLflow does not take.

    Args:
        folder: of runs.
        here: the address of this process's store.
        patience: seconds without anything being taken after which to give up.
    """
    left, reason = Undelivered(), None
    for spool in spools_below(folder):
        # Where it does not answer for the first, it is not asked for long for the others.
        reason = _deliver(spool, as_noted(spool.store, here), patience if reason is None else 1.0) or reason
        left += spool.undelivered()
    if left:
        warnings.warn(
            UserNote(f"not in MLflow yet: {left} ({reason}); `intermoe sync {folder}` delivers what is left"),
            stacklevel=2,
        )


def _deliver(spool: Spool, uri: str, patience: float) -> str | None:
    """Deliver a spool; why not all of it was delivered, None where it was."""
    delivery = Delivery(uri, spool)
    delivery.end()
    if delivery.wait(patience + spool.undelivered().bytes / BYTES_PER_SECOND):
        return f"MLflow does not take it: {delivery.refused[0]}" if delivery.refused else None
    spool.save()
    return delivery.failure or "another process is at it, or MLflow does not answer"
