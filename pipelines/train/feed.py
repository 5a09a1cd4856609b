"""Ray Data plans that prepare the batches of a training, ahead of their use.

A task gets step numbers and prepares the batches of its worker there (intermoe/training/samples.py); nothing but the
time hangs on Ray. The tasks reserve no CPU: the training workers may hold all that there are, and would wait for ever
for tasks that wait for one of theirs.
"""

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa
import ray.data
import torch

from intermoe.training.samples import Arrays, Batch, SampleStream, as_batch
from pipelines.cluster.session import quiet_data

# Ray Data's executor lives in the training worker's process and takes half its time while it waits to be drained. So a
# plan is prepared whole, ahead of its use, and its executor ends: at most so many steps, of so many bytes. Two plans
# of each worker are in Ray's object store at a time: the one in use and the next.
_STEPS_PER_PLAN, _BYTES_PER_PLAN = 128, 256 * 1024**2
# Fewer where steps are so large that few of them make a plan: its tasks run beside each other.
_STEPS_PER_TASK, _TASKS_PER_PLAN = 16, 4
# Of one worker with a GPU, where it has fewer CPUs: nothing else bounds tasks that reserve none.
_TASKS_AT_ONCE = 2
# A thread takes a tenth of the time of its step to prepare one. A second process of a worker on CPUs would take as much
# from the steps as it brings, and what it imports at the start takes as long as dozens of them.
_THREADS_PER_TASK = 4
# The column that holds the shapes of the others.
_SHAPES = "shapes"
# Ray's label of each node: its id.
_NODE_LABEL = "ray.io/node-id"


def batches(
    stream: SampleStream, first: int, last: int, *, rank: int, world: int, pinned: bool = False
) -> Iterator[Batch]:
    """One worker's batches of the steps ``first`` to ``last - 1``, prepared by Ray Data; pinned for a GPU."""
    steps = steps_per_plan(stream, world)
    plans = [(start, min(start + steps, last)) for start in range(first, last, steps)]
    # The first batch of the next plan is asked for when this one begins, so that nobody waits between them.
    with ThreadPoolExecutor(1) as ahead:
        begin = partial(_begin_plan, stream, rank=rank, world=world, at_once=tasks_at_once(pinned=pinned))
        begun = deque(ahead.submit(begin, *plan) for plan in plans[:1])
        for number in range(len(plans)):
            block, blocks = begun.popleft().result()
            begun.extend(ahead.submit(begin, *plan) for plan in plans[number + 1 : number + 2])
            while block is not None:
                yield as_batch(block, pinned=pinned)
                block = next(blocks, None)


def steps_per_plan(stream: SampleStream, world: int) -> int:
    """How many steps of one worker are prepared at a time: what fits into the bound of a plan, at least one."""
    step = stream.batch_size // world * stream.bytes_per_sample
    return max(1, min(_STEPS_PER_PLAN, _BYTES_PER_PLAN // step))


def tasks_at_once(*, pinned: bool) -> int:
    """How many tasks of one worker run beside each other: a worker has as many threads as CPUs."""
    threads = torch.get_num_threads()
    return max(_TASKS_AT_ONCE, threads) if pinned else max(1, threads // _THREADS_PER_TASK)


def _tasks_per_plan(steps: int) -> int:
    return max(-(-steps // _STEPS_PER_TASK), min(steps, _TASKS_PER_PLAN))


def _begin_plan(
    stream: SampleStream, start: int, end: int, *, rank: int, world: int, at_once: int
) -> tuple[Arrays | None, Iterator[Arrays]]:
    """The first batch of the steps ``start`` to ``end - 1``, and those that follow."""
    prepare = partial(_prepare_step, stream=stream, rank=rank, world=world)
    tasks = _tasks_per_plan(end - start)
    with quiet_data() as options:
        options.execution_options.preserve_order = True
        # Of blocks that are there already: Ray Data's own `range` reads them in tasks that reserve a CPU.
        steps = [{"step": step} for step in range(start, end)]
        plan = ray.data.from_items(steps, override_num_blocks=tasks)
        prepared = plan.map_batches(
            prepare,
            batch_size=1,
            zero_copy_batch=True,
            num_cpus=0,
            compute=ray.data.TaskPoolStrategy(size=min(tasks, at_once)),
            # Beside the worker: what reserves nothing would fit on a head node that is to run nothing, too.
            label_selector={_NODE_LABEL: ray.get_runtime_context().get_node_id()},
        ).materialize()
    rows = prepared.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=2)
    blocks = map(_arrays_of, rows)
    return next(blocks, None), blocks


def _prepare_step(block: dict[str, np.ndarray], stream: SampleStream, rank: int, world: int) -> pa.Table:
    return _as_row(stream.arrays(int(block["step"][0]), rank=rank, world=world))


def _as_row(arrays: Arrays) -> pa.Table:
    """A step as one row, its arrays flat and beside them their shapes: each step has a length of its own."""
    columns = {
        name: pa.LargeListArray.from_arrays([0, array.size], pa.array(array.reshape(-1)))
        for name, array in arrays.items()
    }
    shapes = json.dumps({name: array.shape for name, array in arrays.items()})
    return pa.table({_SHAPES: [shapes], **columns})


def _arrays_of(row: pa.Table) -> Arrays:
    """The arrays of a step; they lie where the row does, and cannot be written to."""
    return {
        name: row[name].chunk(0)[0].values.to_numpy(zero_copy_only=False).reshape(shape)
        for name, shape in json.loads(row[_SHAPES][0].as_py()).items()
    }
