"""What Ray's processes run when they start in tests of kills (kills.py): they tell the test where a training is.

The folder of the environment variable ``KILLS_FOLDER`` holds ``plan.json``: ``{"run": "vae", "number": 3, "step": 17,
"rank": 0, "operation": 4}``. When the worker of that rank comes to that step, it writes its process id to ``vae.3``.
With an operation other than 0, it is the operation of that number on the files of a checkpoint that is being written,
from that step on, and the process waits there to be killed. ``vae.batches`` gets a line per step of a worker: rank,
step and a checksum of the batch.
"""

import hashlib
import json
import os
import re
import sys
import time
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_FOLDER = Path(os.environ.get("KILLS_FOLDER", ""))
_MODULE = "intermoe.training.step"
# What is being written (intermoe/files.py): its hidden name.
_WRITTEN = re.compile(r"/\.(step-\d+|best|routing)\.[0-9a-f]{32}")
_OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.scandir", "os.listdir"}
_SECONDS = 60.0
_STEP_SECONDS = 0.2


class _Watch:
    """The plan as this process has last read it."""

    def __init__(self) -> None:
        self.plan: dict[str, Any] = {}
        self.left, self.done = 0, -1

    def step(self, rank: int, step: int, batch: dict[str, Any]) -> None:
        checksum = hashlib.sha256()
        for name in sorted(batch):
            checksum.update(name.encode() + batch[name].detach().cpu().contiguous().numpy().tobytes())
        plan = json.loads((_FOLDER / "plan.json").read_text())
        with (_FOLDER / f"{plan['run']}.batches").open("a") as lines:
            lines.write(f"{rank} {step} {checksum.hexdigest()}\n")
        if plan["number"] == self.done:
            # Steps take milliseconds here: it would be at its end before a signal to its driver reaches it.
            time.sleep(_STEP_SECONDS)
            return
        if plan["rank"] != rank or step < plan["step"] or self.left:
            return
        self.plan, self.left = plan, plan["operation"]
        if not self.left:
            self._reach()

    def operate(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.left and event in _OPERATIONS and any(_WRITTEN.search(str(argument)) for argument in arguments):
            self.left -= 1
            if not self.left:
                self._reach()
                time.sleep(_SECONDS)

    def _reach(self) -> None:
        self.done = self.plan["number"]
        note = _FOLDER / f"{self.plan['run']}.{self.done}"
        partial = note.with_suffix(".part")
        partial.write_text(str(os.getpid()))
        partial.rename(note)


class _Finder(MetaPathFinder):
    """Finds the module of the training step, and has its calls watched."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        assert spec is not None
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_and_watch(module: Any) -> None:
            execute(module)
            watch, take_step = _Watch(), module.TrainingStep.__call__

            def watched(self: Any, step: int, batch: dict[str, Any]) -> Any:
                watch.step(self.rank, step, batch)
                return take_step(self, step, batch)

            module.TrainingStep.__call__ = watched
            sys.addaudithook(watch.operate)

        loader.exec_module = execute_and_watch
        return spec


if "KILLS_FOLDER" in os.environ:
    sys.meta_path.insert(0, _Finder())
