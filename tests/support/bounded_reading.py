"""What becomes of damaged inputs, read in processes of bounded time and memory.

As a program it is one such process: ``bounded_reading.py FOLDER`` takes a case per line, ``READER SEED``, and answers
each with a line of JSON.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import IO, Any, NamedTuple

import torch
from mutations import mutated, unfit_file
from small_inputs import READERS, InputReader

from intermoe.errors import LONGEST_MESSAGE, UserError

SECONDS, BYTES = 10, 2 * 2**30
"""Seconds of the processor, which other work on the machine does not prolong, and the memory that a case may take."""
_SILENCE, _START = 60.0, 180.0  # seconds after which a process waits for something, imports apart
OUTCOMES = ("read", "refused", "set aside", "uncaught", "hang", "over 2 GB", "died")
SOUND = OUTCOMES[:3]
_ROOT = Path(__file__).resolve().parents[2]


class Case(NamedTuple):
    """One damaged input: the name of its reader, and the seed of the damage."""

    reader: str
    seed: int


@dataclass
class Tally:
    """What became of the cases.

    Attributes:
        counts: by reader and outcome.
        faults: the cases that are not sound, and why not.
        slowest: seconds of the processor for the slowest.
    """

    counts: Counter[tuple[str, str]]
    faults: list[str]
    slowest: float = 0

    def add(self, case: Case, outcome: str, said: str, seconds: float) -> None:
        self.counts[case.reader, outcome] += 1
        self.slowest = max(self.slowest, seconds)
        if outcome not in SOUND:
            self.faults.append(f"{case.reader} {case.seed}: {outcome}: {said}")

    def table(self) -> str:
        """A line per reader: tried, and each outcome."""
        lines = [["reader", "tried", *OUTCOMES]]
        for reader in sorted({reader for reader, _ in self.counts}):
            numbers = [self.counts[reader, outcome] for outcome in OUTCOMES]
            lines.append([reader, *map(str, (sum(numbers), *numbers))])
        totals = [sum(self.counts[key] for key in self.counts if key[1] == outcome) for outcome in OUTCOMES]
        lines.append(["sum", *map(str, (sum(totals), *totals))])
        return "\n".join(
            "".join(f"{cell:>11}" if place else f"{cell:<16}" for place, cell in enumerate(row)) for row in lines
        )


def tally(cases: Sequence[Case], folder: Path, processes: int = 2) -> Tally:
    """Read all cases in so many processes; a process that dies costs its case, not the others."""
    result = Tally(Counter(), [])
    with ThreadPoolExecutor(processes) as pool:
        shares = [cases[number::processes] for number in range(processes)]
        for answers in pool.map(lambda share: list(_answers(share, folder)), shares):
            for case, answer in answers:
                result.add(case, **answer)
    return result


def _answers(cases: Sequence[Case], folder: Path) -> Iterator[tuple[Case, dict[str, Any]]]:
    left = list(cases)
    while left:
        root = folder / f"{left[0].reader} {left[0].seed}"
        root.mkdir()
        with (root / "log").open("wb") as log, _worker(root, log) as process:
            seconds = _START
            line: bytes | None = None
            while left and (line := _answer(process, left[0], seconds)):
                yield left.pop(0), json.loads(line)
                seconds = _SILENCE
            process.kill()
        if left:
            said = (root / "log").read_bytes()[-600:].decode(errors="replace")
            yield left.pop(0), {"outcome": "hang" if line is None else "died", "said": said, "seconds": 0.0}
        shutil.rmtree(root)


def _worker(root: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    paths = (str(_ROOT), str(_ROOT / "tests/support"), os.environ.get("PYTHONPATH", ""))
    return subprocess.Popen(
        [sys.executable, __file__, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


def _answer(process: subprocess.Popen[bytes], case: Case, seconds: float) -> bytes | None:
    """The line of a case; empty where the process has ended, None where it does not answer in time."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError), DefaultSelector() as selector:
        process.stdin.write(f"{case.reader} {case.seed}\n".encode())
        process.stdin.flush()
        selector.register(process.stdout, EVENT_READ)
        return process.stdout.readline() if selector.select(seconds) else None
    return b""


class _Hang(BaseException):
    """Not an ``Exception``: no reader takes it for the fault of a file."""


@contextmanager
def _time_limit() -> Iterator[None]:
    def end(*_: object) -> None:
        raise _Hang

    signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _outcome(reader: InputReader, folder: Path) -> tuple[str, str]:
    """What becomes of an input, and the message or the traceback's end."""
    try:
        with _time_limit():
            names = reader.read(folder)
    except UserError as error:
        said = str(error)
        told, _, allowed = said.replace(str(folder), "").partition(" (allowed: ")
        told = told.partition(": ")[2] or told  # a path may be of any length
        if not said.isprintable() or max(len(told), len(allowed)) > LONGEST_MESSAGE:
            return "uncaught", f"a message that is too long or of control characters: {said!r}"
        return "refused", said
    except _Hang:
        return "hang", ""
    except MemoryError as error:
        return "over 2 GB", repr(error)
    except Exception as error:
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        place = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}" if at else ""
        return "uncaught", f"{type(error).__name__}: {error} at {place}"[:1000]
    return ("set aside", ", ".join(names)) if names else ("read", "")


def _damage(reader: InputReader, whole: Path, folder: Path, draw: random.Random) -> None:
    """Copy an input with one of its files damaged, its checksums made to fit in half of the cases.

    In some it is not a file any more.
    """
    # Into a folder of its own: what was learned of the last one's files counts for nothing here.
    shutil.copytree(whole, folder)
    file = draw.choice(sorted(path for path in folder.glob(reader.damaged) if path.is_file()))
    content = file.read_bytes()
    file.unlink()
    if reader.of_files and draw.random() < 0.02:
        unfit_file(file, draw)
        return
    file.write_bytes(mutated(content, draw))
    if reader.seal is not None and draw.random() < 0.5:
        with suppress(Exception):  # a card that is none any more cannot be sealed
            reader.seal(folder)


def _memory(name: str) -> int:
    """Bytes of this process as Linux counts them: "VmHWM" is the most that it has held, "VmData" what it may write."""
    return 1024 * int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0])


def _work(root: Path) -> None:
    torch.set_num_threads(1)
    wholes: dict[str, Path] = {}
    before = _memory("VmHWM")
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_memory("VmData") + BYTES, hard))
    for line in sys.stdin:
        name, _, seed = line.strip().rpartition(" ")
        reader = READERS[name]
        if name not in wholes:
            wholes[name] = root / name
            wholes[name].mkdir()
            reader.build(wholes[name])
            assert _outcome(reader, wholes[name]) == ("read", ""), name
        folder = root / f"{name} {seed}"
        _damage(reader, wholes[name], folder, random.Random(f"{name} {seed}"))
        Path("/proc/self/clear_refs").write_text("5")  # the most of this case alone
        start = time.process_time()
        outcome, said = _outcome(reader, folder)
        if _memory("VmHWM") - before > BYTES:
            outcome = "over 2 GB"
        answer = {"outcome": outcome, "said": said, "seconds": time.process_time() - start}
        shutil.rmtree(folder)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
