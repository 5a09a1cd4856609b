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
    left_out: list[str] = []
    for folder in folders:
        nothing = True
        for spool in spools_below(folder):
            for damage in spool.damages():
                warnings.warn(UserNote(f"{damage}; what is left is delivered"), stacklevel=2)
            if not spool.is_left():
                # A process was killed between delivering the last line and removing the spool.
                with spool.delivering() as alone:
                    if alone:
                        spool.remove_if_delivered()
                continue
            nothing = False
            try:
                yield _delivered(spool, left_out)
            except UserError as error:
                failures.append(error)
        if nothing:
            yield f"{folder}: nothing is left to deliver"
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise UserError(f"{len(failures)} runs have something left; the first: {failures[0]}")
    if left_out:
        raise UserError(f"{left_out[0]}; left out: {len(left_out)}, all else is delivered")


def _delivered(spool: Spool, left_out: list[str]) -> str:
    """Deliver a spool, adding to ``left_out`` what is damaged; a line for the user.

    Raises:
        UserError: something is left.
    """
    # Where it does not say whose it is, the run is known to its own store alone.
    uri = as_noted(spool.store or shown(tracking_uri()), tracking_uri())
    check_reachable(uri)
    left = spool.undelivered()
    failure, refused = _deliver(spool, uri, _PATIENCE)
    if failure:
        raise UserError(
            f"run {spool.run_id} still has {spool.undelivered()} to deliver: {failure}",
            where=spool.place,
            allowed="`intermoe sync` again, when MLflow takes it",
        )
    left_out += [f"{_file(spool)}: {reason}" for reason in refused]
    return f"{spool.place}: delivered {left or 'nothing'} to run {spool.run_id} in MLflow at {shown(uri)}"


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
        uri = as_noted(spool.store or shown(here), here)
        failure, refused = _deliver(spool, uri, patience if reason is None else 1.0)
        reason = failure or reason
        left += spool.undelivered()
        for damage in refused:
            warnings.warn(UserNote(f"{_file(spool)}: left out: {damage}"), stacklevel=2)
    if left:
        warnings.warn(
            UserNote(f"not in MLflow yet: {left} ({reason}); `intermoe sync {folder}` delivers what is left"),
            stacklevel=2,
        )


def _deliver(spool: Spool, uri: str, patience: float) -> tuple[str | None, list[str]]:
    """Deliver a spool; why not all of it was delivered (None where it was), and what MLflow will never take."""
    delivery = Delivery(uri, spool)
    delivery.end()
    if delivery.wait(patience + spool.undelivered().bytes / BYTES_PER_SECOND):
        return None, delivery.refused
    spool.save()
    return delivery.failure or "another process is at it, or MLflow does not answer", delivery.refused


def _file(spool: Spool) -> Place:
    """The file of lines, where it is kept."""
    return spool.place / spool.file.name
