"""The thread that hands a run's spool (spool.py) on to MLflow, in order, beside whatever the process does.

MLflow may be away, or answer nonsense, for as long as it likes: each request is tried again after a pause that grows.
"""

import logging
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus

from mlflow.exceptions import MlflowException
from requests import HTTPError

from pipelines.tracking.client import failure_of
from pipelines.tracking.lines import Entry
from pipelines.tracking.spool import Spool
from pipelines.tracking.writer import BATCH, CannotBeWritten, StoreWriter

SECONDS = 10.0
"""Points are sent together, so often."""
_LONGEST_PAUSE, _MOST_DOUBLINGS = 30.0, 5
# Who waits does not wait for a pause to end, and looks again so often.
_AWAITED_PAUSE, _LOOK = 1.0, 0.05
# A database that is locked for a moment is no outage.
_FAILURES_TO_TELL = 3
# A wait ends even if the store goes on taking a little now and then: after so many times its patience.
_LONGEST_WAIT = 10

BYTES_PER_SECOND = 10**6
"""Of a file that is sent: so much longer is waited for it."""

_log = logging.getLogger(__name__)


class Delivery:
    """A thread that delivers one spool, while no other process does.

    Attributes:
        failure: why the last request failed; None where it did not.
        refused: what MLflow will never take, each with the reason.
        is_elsewhere: whether another process delivers this spool.
    """

    def __init__(self, uri: str, spool: Spool) -> None:
        """Begin to deliver; the thread ends with the process, or when it is asked to (``end``).

        Args:
            uri: of MLflow's store.
            spool: of the run.
        """
        self.failure: str | None = None
        self.refused: list[str] = []
        self.is_elsewhere = False
        self._spool, self._writer = spool, StoreWriter(uri, spool)
        self._num_failures = 0
        # Of the last line that was taken.
        self._progressed = time.monotonic()
        self._awaited, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"deliver-{spool.run_id}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Let the thread end as soon as all is delivered; it removes the spool then."""
        self._ending.set()
        self._awaited.set()

    def wait(self, patience: float) -> bool:
        """Wait until all is delivered; whether it is.

        Args:
            patience: for so many seconds nothing may be taken; ten times as long, this waits at most.
        """
        self._awaited.set()
        delivered = self._watch(patience)
        if not self._ending.is_set():
            self._awaited.clear()
        elif delivered:
            # It removes the spool.
            self._thread.join(patience)
        return delivered

    def _watch(self, patience: float) -> bool:
        began = time.monotonic()
        while self._spool.is_left():
            now = time.monotonic()
            if now > min(max(began, self._progressed) + patience, began + _LONGEST_WAIT * patience):
                return False
            time.sleep(_LOOK)
        return True

    def _run(self) -> None:
        while True:
            with self._spool.delivering() as alone:
                self.is_elsewhere = not alone
                if alone and self._deliver():
                    return
            if self._ending.is_set() and not self._spool.is_left():
                return
            self._rest(1.0)

    def _deliver(self) -> bool:
        """Deliver until all is delivered and no more will come; whether the spool is removed then."""
        while True:
            try:
                entries = self._next()
                if entries:
                    self._write(entries)
                elif self._ending.is_set() and self._spool.remove_if_delivered():
                    return True
            except Exception as error:
                # Whatever it is, what waits must not be lost.
                self._note_failure(error)
                self._rest(min(2.0 ** min(self._num_failures - 1, _MOST_DOUBLINGS), _LONGEST_PAUSE))
                continue
            if entries:
                self._progressed = time.monotonic()
                self._note_success()
            elif not self._ending.is_set():
                self._rest(SECONDS)

    def _next(self) -> list[Entry]:
        """The next line that is not about points, or as many lines of points as are sent together."""
        entries: list[Entry] = []
        num_points = 0
        for entry in self._spool.entries():
            if entry.kind != "points":
                return entries or [entry]
            entries.append(entry)
            num_points += len(entry.arguments["values"])
            if num_points >= BATCH:
                break
        return entries

    def _write(self, entries: Sequence[Entry]) -> None:
        try:
            self._send(entries)
        except (MlflowException, HTTPError, CannotBeWritten) as error:
            if not _is_refusal(error):
                raise
            self._writer.forget()
            # Of many lines, one may be at fault.
            for entry in entries if len(entries) > 1 else ():
                self._write([entry])
            if len(entries) == 1:
                self._refuse(entries[0], error)
                self._spool.note_delivered(entries[0])
        else:
            self._spool.note_delivered(entries[-1])

    def _send(self, entries: Sequence[Entry]) -> None:
        if entries[0].kind == "points":
            self._writer.write_points(entries)
        else:
            self._writer.write(entries[0])

    def _refuse(self, entry: Entry, error: Exception) -> None:
        reason = f"{entry.kind}: {failure_of(error)}"
        self.refused.append(reason)
        _log.warning("MLflow does not take it, left out: %s", reason)

    def _note_failure(self, error: Exception) -> None:
        self._writer.forget()
        self._num_failures += 1
        self.failure = failure_of(error)
        if self._num_failures == _FAILURES_TO_TELL:
            _log.warning("MLflow does not answer; the work goes on, %s keeps it: %s", self._spool.place, self.failure)

    def _note_success(self) -> None:
        if self._num_failures >= _FAILURES_TO_TELL:
            _log.warning("MLflow answers again")
        self._num_failures, self.failure = 0, None

    def _rest(self, seconds: float) -> None:
        """Wait so long, or until somebody waits for what is delivered."""
        if self._awaited.is_set():
            time.sleep(min(seconds, _AWAITED_PAUSE if self.failure else _LOOK))
        else:
            self._awaited.wait(seconds)


def _is_refusal(error: Exception) -> bool:
    """Whether a line will never be taken: the store, or MLflow's own check, says that it is wrong, or it is too large.

    Another answer of a proxy says nothing about the line.
    """
    if isinstance(error, CannotBeWritten):
        return True
    if isinstance(error, HTTPError):
        return error.response is not None and error.response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return (
        isinstance(error, MlflowException)
        and error.error_code == "INVALID_PARAMETER_VALUE"
        and not str(error).startswith("API request")
    )
