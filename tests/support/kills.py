"""Kills of a training at chosen moments: a plan of them, what carries it out, and what a run has left at its end."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient
from standing_ray import StandingRay

from intermoe.places import Place, is_remote

ROOT = Path(__file__).resolve().parents[2]
HOOKS = Path(__file__).resolve().parent / "kill_hooks"
# Curves of time: no two runs have the same.
TIMES = ("train/seconds_per_step", "train/samples_per_second", "train/share_waiting_for_data", "system/")
_LINES = ("train ", "note: ", "error: ", "interrupted: ", "Ray cluster of 1 node; ")
_PATIENCE = 600.0
# A save of a checkpoint, and of the best, is so many operations at least: on files, and requests to a storage.
_OPERATIONS = {"disk": 60, "storage": 12}


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        victim: "driver", "worker" (one of them), "all" (driver, workers and all else that Ray runs for them), or
            "terminate" (SIGTERM to the driver).
        step: of the training at which it falls, or after which the write comes in which it falls.
        operation: number of the operation of that write, from 1; 0 where it is not in a write.
        rank: of the worker.
        delay: seconds from the begin of the step, or 0.
    """

    victim: str
    step: int
    operation: int
    rank: int
    delay: float


_NONE = Kill("none", sys.maxsize, 0, 0, 0.0)


def plan_kills(seed: str, count: int, steps: int, world: int, where: str) -> list[Kill]:
    """So many kills at random steps, a quarter of them in a write; where there are six, three workers in a row.

    Args:
        seed: of what is random.
        count: of kills.
        steps: of the training.
        world: number of workers.
        where: "disk" or "storage", where checkpoints are written.
    """
    draws = random.Random(seed)
    num_writes = -(-count // 4)
    writes = [(victim, True) for victim in (("driver", "worker", "all") * num_writes)[:num_writes]]
    # Ray Train starts workers again twice per command.
    row = [("worker", False)] * (3 if count >= 6 else 0)
    num_others = count - num_writes - len(row)
    others = [
        (victim, False)
        for victim in (("worker", "driver", "worker", "all", "worker", "terminate") * num_others)[:num_others]
    ]
    mixed = [*writes, *others]
    draws.shuffle(mixed)
    begin = draws.randrange(len(mixed) + 1)
    mixed[begin:begin] = row
    kills = []
    for step, (victim, in_write) in zip(sorted(draws.sample(range(1, steps - 12), count)), mixed, strict=True):
        operation = draws.randint(1, _OPERATIONS[where]) if in_write else 0
        # The first worker writes.
        rank = 0 if in_write else draws.randrange(world)
        kills.append(Kill(victim, step, operation, rank, 0.0 if in_write else draws.uniform(0, 0.03)))
    return kills


class StorageGate:
    """Holds a request that changes something in a storage, before or after it is done."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._left, self._late, self._released = 0, False, threading.Event()
        self._counting = threading.Lock()

    def arm(self, operation: int, *, late: bool) -> None:
        """Hold the request of that number from now on; ``late``: when it is done, and before it is answered."""
        self._released.clear()
        self._left, self._late = operation, late

    def release(self) -> None:
        """Let the request go on, whoever has sent it."""
        self._left = 0
        self.reached.clear()
        self._released.set()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Stand in the way of all requests to servers of this process."""
        from moto.server import DomainDispatcherApplication

        dispatcher: Any = DomainDispatcherApplication
        handle = dispatcher.__call__

        def held(application: Any, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
            hold = self._is_it(environ)
            if hold and not self._late:
                self._wait()
            answer = handle(application, environ, start)
            if hold and self._late:
                self._wait()
            return answer

        dispatcher.__call__ = held
        try:
            yield
        finally:
            dispatcher.__call__ = handle

    def _is_it(self, environ: dict[str, Any]) -> bool:
        path, query = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        deletes = environ["REQUEST_METHOD"] == "POST" and "delete" in query
        writes = environ["REQUEST_METHOD"] in ("PUT", "DELETE") and re.search("/(checkpoints|best|routing)", path)
        with self._counting:
            if not self._left or not (deletes or writes):
                return False
            self._left -= 1
            return not self._left

    def _wait(self) -> None:
        self.reached.set()
        self._released.wait(_PATIENCE)


@dataclass
class Run:
    """A training by the command, of which the driver may be started often.

    Attributes:
        words: of the command, without ``--resume``.
        folder: of the run.
        name: of the run, for files of the tests.
        watch: the folder that the hooks write to (``KILLS_FOLDER``).
        ray: where it runs.
        gate: to a storage.
        environment: of the driver.
        starts: so often it was started.
        lines: that it has printed on standard error, of all starts.
    """

    words: Sequence[str]
    folder: Place
    name: str
    watch: Path
    ray: StandingRay
    gate: StorageGate
    environment: dict[str, str]
    starts: int = 0
    lines: list[str] = field(default_factory=list)
    _driver: subprocess.Popen[bytes] | None = None

    def undisturbed(self) -> None:
        """Train to the end."""
        self.killed([])
        assert self.starts == 1

    def killed(self, kills: Sequence[Kill]) -> None:
        """Train to the end, resumed after each kill of the driver, and whenever it has given up."""
        try:
            for number, kill in enumerate(kills):
                self._kill(number, kill)
            self._plan(-1, _NONE)
            ended = False
            while not ended:
                if self._driver is None:
                    self._start()
                ended = self._ended() == 0
        finally:
            if self._driver is not None:
                self._driver.kill()
                self._driver.wait()

    def _kill(self, number: int, kill: Kill) -> None:
        self._plan(number, kill)
        worker = self._wait_for(number, kill)
        assert self._driver is not None
        time.sleep(kill.delay)
        driver = self._driver
        if kill.victim == "worker":
            worker.kill()
            psutil.wait_procs([worker], timeout=_PATIENCE)
        else:
            driver.send_signal(signal.SIGTERM if kill.victim == "terminate" else signal.SIGKILL)
        if kill.victim == "all":
            for process in self.ray.processes():
                process.kill()
        self.gate.release()
        with (self.watch / f"{self.name}.kills").open("a") as done:
            done.write(f"{time.strftime('%H:%M:%S')} {number} {kill}, {self.starts} starts\n")
        if kill.victim != "worker":
            expected = {"terminate": 143}.get(kill.victim, -signal.SIGKILL)
            code = self._ended()
            assert code == expected, (kill, code, self.lines[-3:])
            # The workers of a driver that was killed do not count for the next, which is started while they may live.
            workers = self.ray.processes("RayTrainWorker")
            self._plan(-1, _NONE)
            self._start()
            assert not psutil.wait_procs(workers, timeout=_PATIENCE)[1]

    def _plan(self, number: int, kill: Kill) -> None:
        # Where a storage holds a request, the process only says that it has come to the step.
        in_file = kill.operation and not is_remote(self.folder)
        plan = {
            "run": self.name,
            "number": number,
            "step": kill.step,
            "rank": kill.rank,
            "operation": kill.operation if in_file else 0,
        }
        partial = self.watch / "plan.part"
        partial.write_text(json.dumps(plan))
        partial.rename(self.watch / "plan.json")

    def _wait_for(self, number: int, kill: Kill) -> psutil.Process:
        """The worker that has come to where it is to be killed."""
        note = self.watch / f"{self.name}.{number}"
        in_storage = kill.operation and is_remote(self.folder)
        armed, deadline = False, time.monotonic() + _PATIENCE
        while not note.exists() or (in_storage and not self.gate.reached.is_set()):
            assert time.monotonic() < deadline, (kill, self.lines[-3:])
            if self._driver is None:
                self._start()
            elif self._driver.poll() is not None:
                assert self._ended() != 0, f"at its end before {kill}"
                self._start()
            if in_storage and not armed and note.exists():
                self.gate.arm(kill.operation, late=kill.operation % 2 == 0)
                armed = True
            time.sleep(0.001)
        pid = int(note.read_text())
        note.unlink()
        return psutil.Process(pid)

    def _start(self) -> None:
        words = [sys.executable, "-m", "pipelines.cli", *self.words, *(["--resume"] if self.starts else [])]
        self.starts += 1
        out, err = (self.watch / f"{self.name}-{self.starts}.{kind}" for kind in ("out", "err"))
        with out.open("w") as stdout, err.open("w") as stderr:
            self._driver = subprocess.Popen(words, env=self.environment, cwd=ROOT, stdout=stdout, stderr=stderr)

    def _ended(self) -> int:
        """The code of the driver when it has ended; what it has printed is checked."""
        assert self._driver is not None
        code = self._driver.wait(_PATIENCE)
        self._driver = None
        answer, lines = (
            (self.watch / f"{self.name}-{self.starts}.{kind}").read_text().splitlines() for kind in ("out", "err")
        )
        self.lines += lines
        odd = [line for line in lines if not line.startswith(_LINES)]
        assert not odd, odd[-20:]
        if code == 0:
            assert answer.pop().startswith(f"{self.folder}/best holds the model; its MLflow run is ")
        assert not answer, answer
        if code not in (0, -signal.SIGKILL):
            assert lines[-1].startswith(("error: ", "interrupted: ")), lines
        return code

    def batches(self) -> dict[tuple[int, int], set[str]]:
        """The checksums of the batches of each worker and step."""
        checksums: dict[tuple[int, int], set[str]] = {}
        for line in (self.watch / f"{self.name}.batches").read_text().splitlines():
            rank, step, checksum = line.split()
            checksums.setdefault((int(rank), int(step)), set()).add(checksum)
        return checksums

    def files(self) -> dict[str, str]:
        """The files in its folder by their paths, with checksums; of the note only what is not its MLflow run."""
        if is_remote(self.folder):
            root = self.folder.path.rstrip("/") + "/"
            contents = {path.removeprefix(root): self.folder.fs.cat_file(path) for path in self.folder.fs.find(root)}
        else:
            contents = {
                str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else b"a folder"
                for path in self.folder.rglob("*")
            }
        note = json.loads(contents["run.json"])
        del note["run_id"], note["sha256"]
        contents["run.json"] = json.dumps(note).encode()
        return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(contents.items())}

    def record(self, store: str) -> dict[str, Any]:
        """What MLflow has of it, without what is of its own: times, and how often it was started again."""
        client = MlflowClient(store)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        (run,) = client.search_runs(experiments, f"tags.`intermoe.out` = '{self.folder}'")
        names = sorted(name for name in run.data.metrics if not name.startswith(TIMES))
        histories = {name: client.get_metric_history(run.info.run_id, name) for name in names}
        assert run.outputs is not None
        assert run.inputs is not None
        return {
            "status": run.info.status,
            "curves": {name: [(point.step, point.value) for point in points] for name, points in histories.items()},
            "models": [output.step for output in run.outputs.model_outputs],
            "inputs": len(run.inputs.dataset_inputs),
            "artifacts": sorted(_artifacts(client, run.info.run_id)),
            "params": run.data.params,
        }


def _artifacts(client: MlflowClient, run_id: str, folder: str | None = None) -> Iterator[str]:
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            yield from _artifacts(client, run_id, entry.path)
        else:
            yield entry.path


def environment_of_driver(ray: StandingRay, store: str) -> dict[str, str]:
    """The environment variables of a command that runs on a Ray and logs to a store."""
    return {**os.environ, **ray.environment, "MLFLOW_TRACKING_URI": store, "PYTHONPATH": str(ROOT)}
