"""What can be measured of a device without data, line by line, without Ray and MLflow; infra/gpu-check runs it.

``python -m pipelines.bench.check [--config PRESET|FILE] [--samples N] [key=value ...]``
"""

import argparse
import sys
from collections.abc import Iterator, Sequence

import torch
from rich.console import Console

from intermoe.errors import UserError
from intermoe.generation import best_device
from intermoe.layers.precision import dtype_of
from pipelines import settings
from pipelines.bench.evaluation import bench_evaluation
from pipelines.bench.machine import bytes_per_second, machine_name, peak_flops
from pipelines.bench.moe import bench_moe
from pipelines.bench.sampling import bench_sampling
from pipelines.bench.step import FORMS, bench_step
from pipelines.settings import Settings

Line = tuple[str, float, float | None]
"""What was measured, its seconds, and the share of the limit that it reaches."""


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print; ``words`` are those of the command line by default. The exit status: 2 for wrong words."""
    parser = argparse.ArgumentParser(prog="gpu-check", description="Measure the device at the sizes of a preset.")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="overrides of settings")
    parser.add_argument("--config", default="interhuman", help="preset or YAML file (default: interhuman)")
    parser.add_argument("--samples", type=int, default=64, help="motions in a batch (default: 64)")
    options = parser.parse_intermixed_args(words)
    try:
        if options.samples < 1:
            raise UserError(f"--samples {options.samples}", where="gpu-check", allowed="1 or more")
        _check(settings.load(options.config, settings.parse_overrides(options.overrides)), options.samples)
    except UserError as error:
        _print(f"error: {error}", Console(stderr=True))
        return 2
    return 0


def _check(values: Settings, samples: int) -> None:
    device, threads = best_device(), torch.get_num_threads()
    _print(f"{values.name}, {samples} samples, {machine_name(threads)}, torch {torch.__version__}")
    for dtype in (torch.float32, torch.bfloat16):
        rate = peak_flops(device, dtype) / 1e12
        _print(f"square product, {str(dtype).removeprefix('torch.')}: {rate:.3g} TFLOP/s")
    _print(f"memory, read and written: {bytes_per_second(device) / 1e9:.3g} GB/s")
    _print(f"{'':60}{'ms':>12}{'of limit':>10}")
    for part in (_moe, _steps, _samplers, _evaluation):
        try:
            for name, seconds, share in part(values, samples, threads):
                _print(f"{name:60}{1e3 * seconds:12.2f}{'-' if share is None else f'{share:.0%}':>10}")
        except UserError as error:
            _print(f"{part.__name__.removeprefix('_')}: {error}")
        except torch.OutOfMemoryError:
            # The other parts may need less; what one of them takes is worth knowing all the same.
            _print(f"{part.__name__.removeprefix('_')}: the device has no memory for {samples} samples")
            torch.cuda.empty_cache()


def _moe(values: Settings, samples: int, threads: int) -> Iterator[Line]:
    product = str(dtype_of("auto", best_device())).removeprefix("torch.")
    for name, cost in bench_moe(values, samples=samples, repeats=7, threads=threads, progress=_silent).items():
        yield f"MoE block forward + backward, {product}: {name}", cost.seconds, cost.share_of_peak


def _steps(values: Settings, samples: int, threads: int) -> Iterator[Line]:
    for name, cost in bench_step(values, samples=samples, repeats=3, threads=threads, progress=_silent).items():
        yield f"training step, {name}", cost.seconds, cost.share_of_limit
        for part, seconds in cost.parts.items():
            yield f"- {part}, waited for", seconds, None


def _samplers(values: Settings, samples: int, threads: int) -> Iterator[Line]:
    for name, chosen in _in_each_precision(values):
        costs = bench_sampling(chosen, None, samples=samples, repeats=3, threads=threads, progress=_silent)
        for (sampler, steps), cost in costs.items():
            yield f"sampling, {name}, {sampler}, {steps} steps", cost.seconds, cost.share_of_peak


def _evaluation(values: Settings, samples: int, threads: int) -> Iterator[Line]:
    for name, chosen in _in_each_precision(values):
        costs = bench_evaluation(chosen, samples=samples, repeats=3, threads=threads, progress=_silent)
        for part, cost in costs.items():
            yield f"evaluation, {name}: {part}", cost.seconds, cost.share_of_peak


def _in_each_precision(values: Settings) -> Iterator[tuple[str, Settings]]:
    for name in FORMS:
        yield (
            name,
            values.model_copy(
                update={
                    "diffusion": values.diffusion.model_copy(update={"precision": name}),
                    "evaluation": values.evaluation.model_copy(update={"precision": name}),
                }
            ),
        )


def _print(line: str, console: Console | None = None) -> None:
    (console or Console()).print(line, highlight=False, markup=False, soft_wrap=True)


def _silent(stage: str, done: int, total: int) -> None:
    """The lines themselves are the progress."""


if __name__ == "__main__":
    sys.exit(main())
