"""Where the spool (spool.py) of a run is: in a folder of this machine, or in the storage of a URI.

There nothing can be added to a file. So the spool is a folder on this machine, and ``save``, at each checkpoint, copies
what MLflow does not have yet. What comes after the last checkpoint of a process that is killed is computed again by the
one that resumes. A process has a folder of its own there, named after its part in the run. Nothing keeps two processes
from delivering what is in it, so each copy of the lines is a file of its own, ``RUN_ID.TIME-RANDOM.jsonl``, and a
process removes only the copies that it has delivered: what another process has saved meanwhile stays.
"""

import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from upath import UPath

from intermoe.places import Place, is_remote, storage_errors
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
        self._scratch = tempfile.TemporaryDirectory(prefix="intermoe-tracking-", ignore_cleanup_errors=True)
        super().__init__(Path(self._scratch.name), run_id, store)
        self._use(home)
        with storage_errors(home):
            copies = self._fetch(self._home.fs.find(home.path))
        if copies:
            self.file.write_bytes(b"".join(copy.read_bytes() for copy in copies))

    def _use(self, home: UPath) -> None:
        """Save to a folder in which this spool has nothing yet."""
        self._home = home
        # By their paths below the folder: the files of lines that hold nothing but what is in this spool, and those
        # that its lines speak of.
        self._saved: list[str] = []
        self._held: set[str] = set()

    def _fetch(self, paths: Sequence[str]) -> list[Path]:
        """Copy the files of the folder; those of lines in the order in which they were saved."""
        copies = []
        for path in sorted(paths):
            name = path.removeprefix(self._home.path).strip("/")
            copy = self.folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._home.fs.get_file(path, str(copy))
            except FileNotFoundError:
                # Another process has delivered it in this moment.
                continue
            if "/" in name:
                self._held.add(name)
            elif _run_of(name) == self.run_id:
                copies.append(copy)
                self._saved.append(name)
        return copies

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
        with storage_errors(self._home):
            earlier = self._saved
            if entries:
                # Another process that has delivered the same lines has removed their files.
                names = {path.removeprefix(self._home.path).strip("/") for path in self._home.fs.find(self._home.path)}
                self._held &= names
                for held in (entry.arguments.get("held") for entry in entries):
                    if held:
                        self._upload(self.folder / held)
                lines = self.file.read_bytes()[begin : entries[-1].end]
                name = f"{self.run_id}.{time.time_ns():020d}-{uuid4().hex[:8]}.jsonl"
                (self._home / name).write_bytes((self.head() if begin else b"") + lines)
                self._saved = [name]
            self._discard(earlier)
            self._held -= self._discard(name for name in self._held if not (self.folder / name).exists())
            if not entries:
                self._saved = []

    def move(self, folder: Place) -> None:
        """Be saved to another folder from now on."""
        assert is_remote(folder)
        self._discard_all()
        self._use(folder)

    def remove_if_delivered(self) -> bool:
        """Remove the spool if MLflow has all of it; whether it was so."""
        removed = super().remove_if_delivered()
        if removed:
            self._discard_all()
            self._saved, self._held = [], set()
        return removed

    def _discard_all(self) -> None:
        with storage_errors(self._home):
            self._discard([*self._saved, *self._held])

    def _discard(self, names: Iterable[str]) -> set[str]:
        """Remove files from the folder, whoever may have done so already."""
        names = set(names)
        for name in names:
            (self._home / name).unlink(missing_ok=True)
        return names

    def _upload(self, held: Path) -> None:
        for path in [held, *held.rglob("*")]:
            name = path.relative_to(self.folder).as_posix()
            # It may be delivered and removed meanwhile.
            with suppress(FileNotFoundError):
                if name not in self._held and path.is_file():
                    self._home.fs.put_file(str(path), (self._home / name).path)
                    self._held.add(name)


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
            homes = {
                (str(path.parent), run_id): path.parent
                for path in paths
                if path.parent.parent.name == FOLDER and (run_id := _run_of(path.name))
            }
            return [RemoteSpool(home, run_id) for (_, run_id), home in sorted(homes.items())]
    # Folders may go while this looks at them, which `rglob` does not bear.
    found = (Path(root, name) for root, _, names in os.walk(folder) if Path(root).name == FOLDER for name in names)
    # Of one whose file is missing, its note may be left. What is no file, such as a pipe, would be waited for.
    files = (file for file in found if file.suffix in _SUFFIXES and RUN_ID.fullmatch(file.stem) and file.is_file())
    stems = {file.with_suffix("") for file in files}
    return [Spool(stem.parent, stem.name) for stem in sorted(stems)]


def _run_of(name: str) -> str | None:
    """The run whose lines a file of that name in a storage holds, if it is one of lines."""
    run_id, _, rest = name.partition(".")
    return run_id if rest.endswith("jsonl") and RUN_ID.fullmatch(run_id) else None
