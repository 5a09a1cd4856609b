"""Checks every checksum below a folder: of data sets, of checkpoints, and of what else lies in runs and sweeps."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

from intermoe import checkpoint
from intermoe.data.card import CARD
from intermoe.data.shards import DatasetFolder
from intermoe.errors import UserError
from intermoe.files import contents, read_note
from intermoe.places import Place, absolute, is_file, is_folder
from pipelines.tracking.spools import spools_below
from pipelines.train.routing_history import ROUTING, RoutingHistory
from pipelines.train.run_folder import CHECKPOINTS, RUN_NOTE

# Notes of runs, sweeps and their trials, and of evaluations.
_NOTES = (RUN_NOTE, "sweep.json", "trial.json", "results.json")


@dataclass(frozen=True)
class Verified:
    """What was checked below a folder.

    Attributes:
        num_datasets: data sets.
        num_checkpoints: checkpoints.
        damages: what is wrong, a line each.
    """

    num_datasets: int
    num_checkpoints: int
    damages: tuple[str, ...]


def verify(folder: Place, progress: Callable[[str, int, int], None]) -> Verified:
    """Compare every file of the data sets and checkpoints in a folder, at any depth, with its checksum.

    Args:
        folder: a data set, a checkpoint, a run, a sweep, or a folder of such.
        progress: called with a stage, how many are checked, and of how many.

    Raises:
        UserError: no such folder, or nothing in it has checksums.
    """
    folder = absolute(folder)
    if not is_folder(folder):
        raise UserError("no such folder", where=folder, allowed="a data set, a checkpoint, a run or a sweep")
    datasets, checkpoints = [], []
    others: list[Callable[[], object]] = []
    for found in _folders(folder):
        names = {path.name for path in contents(found)}
        if CARD in names:
            datasets.append(found)
        elif checkpoint.MANIFEST in names or checkpoint.is_named_as_one(found):
            checkpoints.append(found)
        others += _other_checks(found, names)
    if not datasets and not checkpoints:
        raise UserError("holds nothing that has checksums", where=folder, allowed="a data set or a checkpoint in it")
    checks: list[Callable[[], object]] = [
        *others,
        *(spool.check for spool in spools_below(folder)),
        *(partial(_verify_dataset, dataset) for dataset in datasets),
        *(partial(checkpoint.verify, saved) for saved in checkpoints),
    ]
    damages = []
    for number, check in enumerate(checks):
        progress("verify", number, len(checks))
        try:
            check()
        except UserError as error:
            damages.append(str(error))
    progress("verify", len(checks), len(checks))
    return Verified(len(datasets), len(checkpoints), tuple(damages))


def _other_checks(folder: Place, names: Collection[str]) -> Iterator[Callable[[], object]]:
    """The checks of what else lies in a folder of these files and folders."""
    yield from (partial(read_note, folder / name) for name in _NOTES if name in names)
    if ROUTING in names:
        yield partial(RoutingHistory, folder)
    if RUN_NOTE not in names and any(map(checkpoint.is_named_as_one, contents(folder / CHECKPOINTS))):
        yield partial(_refuse, f"has {CHECKPOINTS}, but no {RUN_NOTE}: the run is damaged", folder)


def _refuse(what: str, where: Place) -> None:
    raise UserError(what, where=where)


def _verify_dataset(folder: Place) -> None:
    DatasetFolder.open(folder).verify()


def _folders(folder: Place) -> Iterator[Place]:
    """A folder and those in it, at any depth, but no hidden ones: what killed processes have left."""
    yield folder
    for path in contents(folder):
        if not path.name.startswith(".") and not is_file(path):
            yield from _folders(path)
