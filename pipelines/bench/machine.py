"""The machine of a measurement: its threads, its clock, and how fast it multiplies matrices."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

# Large enough that nothing but the product counts, small enough to take seconds.
_SIZE = {"cuda": 8192, "cpu": 2048}

_COPIED_BYTES = 2**28

Pass = Callable[[], object]


@contextmanager
def threads_of(count: int) -> Iterator[None]:
    """PyTorch uses so many threads of the CPU in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(run: Pass, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """The time of one call, with all that it makes the device do."""
    synchronise(device)
    began = clock()
    run()
    synchronise(device)
    return clock() - began


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP per second of a large square product."""
    size = _SIZE[device.type]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = [seconds_of(partial(torch.mm, a, b), device) for _ in range(7)][2:]
    return 2 * size**3 / statistics.median(times)


def bytes_per_second(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Bytes that are read and written per second while memory is copied; so many of them that no cache holds them."""
    source = torch.ones(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = [seconds_of(partial(target.copy_, source), device, clock) for _ in range(7)][2:]
    return 2 * _COPIED_BYTES / statistics.median(times)


def device_name(threads: int, dtype: torch.dtype) -> str:
    """The device of the measurement, and its precision."""
    return f"{machine_name(threads)}, {str(dtype).removeprefix('torch.')}"


def machine_name(threads: int) -> str:
    """The device of the measurement."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {threads} thread{'s' * (threads > 1)}"
