"""Which reader reads a raw format; the embedded data set is made where it is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from intermoe.datasets.bvh import BvhPairReader
from intermoe.datasets.duet import write_duet
from intermoe.datasets.interhuman import InterHumanReader
from intermoe.datasets.recordings import Reader
from intermoe.errors import UserError

READERS = ("duet", "interhuman", "bvh")


@contextmanager
def reader_for(
    kind: str,
    root: Path | None,
    *,
    scratch: Path,
    mapping: str = "cmu",
    scale: float = 1.0,
    count: int = 1000,
    seed: int = 0,
) -> Iterator[Reader]:
    """The reader of a raw format, for as long as the context lasts.

    Args:
        kind: "duet", "interhuman" or "bvh".
        root: folder of the raw recordings. For "duet" it is filled where it does not exist yet and kept; without it,
            the recordings are made in a temporary folder.
        scratch: folder in which that temporary folder is made; every node must see it.
        mapping: of "bvh": how joints correspond, a shipped mapping's name or a file.
        scale: of "bvh": metres in one unit of its files.
        count: of "duet": how many recordings are made.
        seed: of "duet".

    Raises:
        UserError: unknown kind, or no root for recordings that are not made here.
    """
    # Tasks may run in another working directory.
    root = None if root is None else Path(root).absolute()
    if kind not in READERS:
        raise UserError(f"unknown kind of recordings {kind!r}", allowed=", ".join(READERS))
    if kind == "bvh" and root is not None:
        yield BvhPairReader(root, mapping, scale)
    elif kind == "duet" and root is None:
        scratch.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".duet-", dir=scratch.absolute()) as made:
            write_duet(Path(made, "duet"), count=count, seed=seed)
            yield InterHumanReader(Path(made, "duet"))
    elif root is not None:
        if kind == "duet" and not root.exists():
            root.parent.mkdir(parents=True, exist_ok=True)
            write_duet(root, count=count, seed=seed)
        yield InterHumanReader(root)
    else:
        raise UserError("the folder of the recordings is not given", where=kind, allowed="--root DIR")
