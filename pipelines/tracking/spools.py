"""Where the spool (spool.py) of a run is: in a folder of this machine, or in the storage of a URI.

There nothing can be added to a file. So the spool is a folder on this machine, and ``save``, at each checkpoint, copies
what MLflow does not have yet. What comes after the last checkpoint of a process that is killed is computed again by the
one that resumes. A process has a spool of its own there, named after its part in the run; nothing keeps two processes
from delivering the same one.
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from upath import UPath

from intermoe.files import discard
from intermoe.places import Place, is_file, is_remote, storage_errors
from pipelines.tracking.address import RUN_ID
from pipelines.tracking.spool import Spool

FOLDER = "tracking"
"""Name of the folder of spools in the folder of a run."""
# Of a spool's lines, and of its note.
_SUFFIXES = (".jsonl", ".json")


class RemoteSpool(Spool):
    """A spool whose folder is in the storage of a URI: kept on this machine, and copied there by ``save``."""

    def __init__(self, home: UPath, run_id: str, store: str = "") -> None:
        """Take over what was saved in a folder of the storage; the rest as for ``Spool``."""
        self._home = home
        self._scratch = tempfile.TemporaryDirectory(prefix="intermoe-tracking-", ignore_cleanup_errors=True)
        super().__init__(Path(self._scratch.name), run_id, store)
        self._saved = is_file(home / self.file.name)
        if self._saved:
            with storage_errors(home):
                for path in home.fs.find(home.path):
                    copy = self.folder / path.removeprefix(home.path).strip("/")
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    home.fs.get_file(path, str(copy))

    @property
    def place(self) -> Place:
        """Where it is kept, for a message."""
        return self._home

    def save(self) -> None:
        """Copy what MLflow does not have to the storage, in place of what was copied before.

        Raises:
            StorageError: the storage does not answer.
        """
        begin = self.delivered
        entries = list(self.entries())
        if not entries:
            if self._saved:
                discard(self._home)
                self._saved = False
            return
        with storage_errors(self._home):
            there = {path.rpartition("/")[0] for path in self._home.fs.find(self._home.path)}
            for held in (entry.arguments.get("held") for entry in entries):
                if held and (self._home / held).parent.path not in there:
                    self._upload(self.folder / held)
            lines = self.file.read_bytes()[begin : entries[-1].end]
            head = self.head() if begin else b""
            (self._home / self.file.name).write_bytes(head + lines)
        self._saved = True

    def move(self, folder: Place) -> None:
        """Be saved to another folder from now on."""
        assert is_remote(folder)
        discard(self._home)
        self._home, self._saved = folder, False

    def remove_if_delivered(self) -> bool:
        """Remove the spool if MLflow has all of it; whether it was so."""
        removed = super().remove_if_delivered()
        if removed and self._saved:
            discard(self._home)
            self._saved = False
        return removed

    def _upload(self, held: Path) -> None:
        for path in [held, *held.rglob("*")]:
            # It may be delivered and removed meanwhile.
            with suppress(FileNotFoundError):
                if path.is_file():
                    target = self._home / path.relative_to(self.folder).as_posix()
                    self._home.fs.put_file(str(path), target.path)


def spool_of(folder: Place, run_id: str, store: str, part: str) -> Spool:
    """The spool of a run in its folder.

    Args:
        folder: of the run.
        run_id: of the run in MLflow.
        store: the address of MLflow's store, without credentials.
        part: of this process in the run, by which its spool is found in the storage of a URI.
    """
    home = folder / FOLDER
    return RemoteSpool(home / part, run_id, store) if is_remote(home) else Spool(home, run_id, store)


def spools_below(folder: Place) -> list[Spool]:
    """The spools in the folder of a run, and in those of runs below it; those that are being written too."""
    with storage_errors(folder):
        if is_remote(folder):
            paths = [folder / path.removeprefix(folder.path).strip("/") for path in folder.fs.find(folder.path)]
            files = [file for file in sorted(paths, key=str) if file.parent.parent.name == FOLDER and _is_spool(file)]
            return [RemoteSpool(file.parent, file.stem) for file in files]
    # Folders may go while this looks at them, which `rglob` does not bear.
    found = (Path(root, name) for root, _, names in os.walk(folder) if Path(root).name == FOLDER for name in names)
    # Of one whose file is missing, its note may be left.
    stems = {file.with_suffix("") for file in found if file.suffix in _SUFFIXES and RUN_ID.fullmatch(file.stem)}
    return [Spool(stem.parent, stem.name) for stem in sorted(stems)]


def _is_spool(file: Place) -> bool:
    return file.suffix == ".jsonl" and bool(RUN_ID.fullmatch(file.stem))
