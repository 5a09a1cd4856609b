"""A command among others on a terminal: its notes are lines, and a signal ends it in order."""

import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from intermoe.errors import UserNote


@contextmanager
def terminable(terminated: list[int]) -> Iterator[None]:
    """SIGTERM, by which schedulers end a job, ends the block as Ctrl-C does, and is added to the list."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:  # noqa: ARG001
        terminated.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def notes() -> Iterator[None]:
    """Print each ``UserNote`` as one line on standard error."""
    show = warnings.showwarning

    def print_note(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
        if issubclass(category, UserNote):
            print(f"note: {message}", file=sys.stderr)
        else:
            show(message, category, *where, **options)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserNote)
        warnings.showwarning = print_note
        yield
