"""What can be measured of a device without data, in one table; infra/gpu-check runs it.

``python -m pipelines.bench.check [--config PRESET|FILE] [--samples N] [key=value ...]``
"""

import argparse
from collections.abc import Iterator, Sequence

import torch
from rich.console import Console
from rich.table import Table

from intermoe.generation import best_device
from intermoe.layers.precision import dtype_of
from pipelines import settings
from pipelines.bench.evaluation import bench_evaluation
from pipelines.bench.machine import bytes_per_second, machine_name, peak_flops
from pipelines.bench.moe import bench_moe
from pipelines.bench.sampling import bench_sampling
from pipelines.bench.step import bench_step
from pipelines.settings import Settings

Line = tuple[str, float, float | None]
"""What was measured, its seconds, and the share of the limit that it reaches."""


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print; ``words`` are those of the command line by default."""
    parser = argparse.ArgumentParser(prog="gpu-check", description="Measure the device at the sizes of a preset.")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="overrides of settings")
    parser.add_argument("--config", default="interhuman", help="preset or YAML file (default: interhuman)")
    parser.add_argument("--samples", type=int, default=64, help="motions in a batch (default: 64)")
    options = parser.parse_args(words)
    values = settings.load(options.config, settings.parse_overrides(options.overrides))
    device, threads = best_device(), torch.get_num_threads()
    table = Table(
        "measured", "ms", "of limit", title=f"{values.name}, {options.samples} samples, {machine_name(threads)}"
    )
    for dtype in (torch.float32, torch.bfloat16):
        rate = peak_flops(device, dtype) / 1e12
        table.add_row(f"square product, {str(dtype).removeprefix('torch.')}: {rate:.3g} TFLOP/s", "", "")
    table.add_row(f"memory, read and written: {bytes_per_second(device) / 1e9:.3g} GB/s", "", "")
    for name, seconds, share in _lines(values, options.samples, threads):
        table.add_row(name, f"{1e3 * seconds:.2f}", "-" if share is None else f"{share:.0%}")
    Console(width=100).print(table)


def _lines(values: Settings, samples: int, threads: int) -> Iterator[Line]:
    console = Console(stderr=True)

    def progress(stage: str, done: int, total: int) -> None:
        if done == total:
            console.print(f"{stage}: done", highlight=False)

    product = str(dtype_of("auto", best_device())).removeprefix("torch.")
    for name, block in bench_moe(values, samples=samples, repeats=7, threads=threads, progress=progress).items():
        yield f"MoE block forward + backward, {product}: {name}", block.seconds, block.share_of_peak
    for name, step in bench_step(values, samples=samples, repeats=3, threads=threads, progress=progress).items():
        yield f"training step, {name}", step.seconds, step.share_of_limit
        for part, seconds in step.parts.items():
            yield f"- {part}", seconds, None
    samplers = bench_sampling(values, None, samples=samples, repeats=3, threads=threads, progress=progress)
    for (sampler, steps), cost in samplers.items():
        yield f"sampling, {sampler}, {steps} steps", cost.seconds, cost.share_of_peak
    parts = bench_evaluation(values, samples=samples, repeats=3, threads=threads, progress=progress)
    for name, taken in parts.items():
        yield f"evaluation: {name}", taken.seconds, taken.share_of_peak


if __name__ == "__main__":
    main()
